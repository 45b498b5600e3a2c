"""Run one function between any two I/O calls of another."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from stream_downloads.domain.commands import Registration
from stream_downloads.services.signing_secret import OWNER, REGISTRATION
from tests.faults.fates import wrong_ends_or_creates
from tests.faults.sandbox import Sandbox
from tests.faults.scenarios import (
    become_guest,
    deliver,
    ready_downloads,
    receive_all,
    videos_in_every_step,
    videos_to_create,
)
from tests.faults.stage import Stage
from tests.simulator import Webhook, signature

Run = Callable[[Stage], object]


def all_webhooks_again(stage: Stage) -> None:
    for uid in stage.simulator.videos:
        stage.simulator.repeat_webhook(uid)
    receive_all(stage, stage.simulator.due_webhooks())


def delete_everything(stage: Stage) -> None:
    for uid in {row.video_uid for row in stage.downloads.rows.values()}:
        stage.manage(action="delete", video_uid=uid)


def deliver_all(stage: Stage, refused: list[Webhook]) -> None:
    refused += deliver(stage)


def poll_after_the_lease_is_over(stage: Stage) -> None:
    stage.clock.sleep(31)
    stage.poll("poll elsewhere")


poll_elsewhere = partial(Stage.poll, name="poll elsewhere")

# The preparation, the function that is interrupted, and the one that runs within it.
PAIRS: dict[str, tuple[Run, Run, Run]] = {
    "two polls": (videos_in_every_step, Stage.poll, poll_elsewhere),
    "a poll and webhooks": (videos_in_every_step, Stage.poll, all_webhooks_again),
    "webhooks and a poll": (videos_to_create, all_webhooks_again, Stage.poll),
    "a poll and a reconciliation": (videos_in_every_step, Stage.poll, Stage.reconcile),
    "a reconciliation and webhooks": (videos_to_create, Stage.reconcile, all_webhooks_again),
    "a poll and deletes": (videos_in_every_step, Stage.poll, delete_everything),
    "deletes and a poll": (ready_downloads, delete_everything, Stage.poll),
    "a poll that outlives its lease": (
        videos_in_every_step,
        Stage.poll,
        poll_after_the_lease_is_over,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_between_any_two_calls_of_one_function_another_may_run(name: str) -> None:
    prepare, first, second = PAIRS[name]
    deletes = delete_everything in PAIRS[name]
    failures: list[str] = []
    for number in itertools.count():
        stage = Stage()
        prepare(stage)
        if not run_within(stage, first, second, number):
            break
        stage.recover()
        wrong = [*stage.invariants.broken, *wrong_ends_or_creates(stage, deletes=deletes)]
        failures += [f"before call {number}: {what}" for what in wrong]
    assert number > 2
    assert not failures, "\n".join(failures[:5])


@pytest.mark.parametrize("is_compared_within", [True, False])
def test_a_guest_verifies_every_request_whenever_the_secret_is_compared(
    is_compared_within: bool,  # noqa: FBT001
) -> None:
    for number in itertools.count():
        stage = Stage()
        become_guest(stage)
        on_its_way = stage.simulator.due_webhooks()
        stage.rotate_signing_secret()
        stage.simulator.upload()
        refused: list[Webhook] = []
        compare_the_secret = partial(Stage.register, registration=Registration.REFRESH)
        acts: list[Run] = [partial(deliver_all, refused=refused), compare_the_secret]
        first, second = acts if is_compared_within else reversed(acts)
        if not run_within(stage, first, second, number):
            break
        assert not refused + receive_all(stage, on_its_way), f"before call {number}"
        stage.invariants.check()
    assert number > 2


def test_a_forged_request_within_a_registration_leaves_the_position_as_it_is_registered() -> None:
    for number in itertools.count():
        stage = Stage()
        become_guest(stage)
        (sent,) = stage.simulator.due_webhooks()
        header = signature(sent.body, "a guess", int(stage.clock()))
        take_over = partial(Stage.register, registration=Registration.TAKE_OVER)
        forge = partial(Stage.receive_forged, webhook=sent, header=header)
        if not run_within(stage, take_over, forge, number):
            break
        assert stage.control.read(REGISTRATION).value["position"] == OWNER
    assert number > 2


def run_within(stage: Stage, first: Run, second: Run, number: int) -> bool:
    """Run one function, and another before its I/O call of that number; False if it has fewer."""
    left, fell = number, False

    def pause(_sandbox: Sandbox, call: str) -> None:
        nonlocal left, fell
        if left == 0 and not fell:
            if second is poll_after_the_lease_is_over and call.startswith("Cloudflare"):
                # What is about to be sent is sent: a request does not wait for half a minute.
                return
            fell = True
            second(stage)
        elif not fell:
            left -= 1

    stage.functions.clear()
    stage.pause = pause
    first(stage)
    stage.pause = None
    stage.functions.clear()
    return fell
