"""Test the create that a webhook sends at once, if the limit and the time permit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stream_downloads.adapters.download_item import Unreadable
from stream_downloads.domain.download import Download, Lane, Status, Step, Work
from stream_downloads.services.receive import ASK_SECONDS, CREATE_SECONDS
from stream_downloads.services.steps import Outcome, Steps
from tests.simulator import Fault
from tests.support.rows import AUDIO, DEFAULT, NOW, requested
from tests.support.world import FixedCredentials, World

BOTH = (DEFAULT, AUDIO)


def webhook(world: World) -> int:
    """Deliver the webhook of a new video; return the status of the answer."""
    world.simulator.upload()
    [status] = world.deliver_webhooks()
    return status


def rows(world: World) -> list[tuple[Status, Step | None]]:
    return [(row.status, row.step) for row in world.downloads.rows.values()]


def test_each_wanted_type_is_created_at_once() -> None:
    world = World(download_types=BOTH)
    assert webhook(world) == 200
    assert rows(world) == [(Status.INPROGRESS, Step.LIST)] * 2


@pytest.mark.parametrize("step", sorted(set(Step) - {Step.CREATE}))
def test_what_is_no_create_is_left_to_the_poller(step: Step) -> None:
    world = World()
    uid = world.simulator.upload()
    row = requested(uid, lane=Lane.BACKFILL, work=Work(step, world.clock()))
    world.downloads.add(row)
    assert world.deliver_webhooks() == [200]
    assert [row.lane for row in world.downloads.of_video(uid)] == [Lane.LIVE]
    assert world.simulator.calls == []


@pytest.mark.parametrize("obstacle", [World.use_up_budget, lambda world: world.budget.close(300)])
def test_without_allowance_or_with_a_closed_gate_the_intent_waits_for_the_poller(
    obstacle: Callable[[World], None],
) -> None:
    world = World(download_types=BOTH)
    obstacle(world)
    assert webhook(world) == 200
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)] * 2
    assert world.simulator.calls == []


@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.UNAUTHORIZED])
def test_a_429_and_refused_credentials_leave_all_creates_to_the_poller(fault: Fault) -> None:
    world = World(download_types=BOTH)
    world.simulator.faults.script(fault)
    assert webhook(world) == 200
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)] * 2
    assert len(world.simulator.calls) == 1


def test_with_renewed_credentials_the_next_create_is_sent_and_the_poller_does_the_first() -> None:
    world = World(download_types=BOTH)
    world.credentials.in_memory = "old-token"
    assert webhook(world) == 200
    assert rows(world) == [(Status.REQUESTED, Step.CREATE), (Status.INPROGRESS, Step.LIST)]


@pytest.mark.parametrize("fault", list(Fault))
def test_nothing_that_cloudflare_does_turns_a_webhook_into_an_error(fault: Fault) -> None:
    world = World()
    world.simulator.faults.script(fault, times=5)
    assert webhook(world) == 200
    [row] = world.downloads.rows.values()
    assert row.due_at is not None
    assert row.url is None


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE, Fault.HANG_AFTER, Fault.SLOW_BODY])
def test_the_answer_comes_in_seconds_however_slow_cloudflare_is(fault: Fault) -> None:
    world = World(download_types=BOTH)
    world.simulator.faults.script(fault, times=10)
    assert webhook(world) == 200
    assert world.clock() - NOW <= ASK_SECONDS + 1
    assert {step for _, step in rows(world)} <= {Step.LIST, Step.CREATE}


def test_no_create_begins_once_the_time_for_all_of_them_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(download_types=BOTH)
    send_create = Steps.send_create

    def slowly(steps: Steps, *arguments: Any) -> Outcome:
        world.clock.sleep(ASK_SECONDS)
        return send_create(steps, *arguments)

    monkeypatch.setattr(Steps, "send_create", slowly)
    assert webhook(world) == 200
    assert world.simulator.calls == []
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)] * 2
    assert CREATE_SECONDS < ASK_SECONDS


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), RecursionError(), MemoryError()])
def test_nothing_that_happens_after_the_intent_undoes_the_200(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: FixedCredentials) -> Any:
        raise error

    monkeypatch.setattr(FixedCredentials, "headers", fail)
    world = World()
    assert webhook(world) == 200
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)]


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "PutItem"),
        # The row that is there cannot be read: only an operator can fix it.
        Unreadable("not a download"),
    ],
)
def test_an_intent_that_cannot_be_recorded_is_answered_with_a_500(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Download) -> Any:
        raise error

    world = World()
    monkeypatch.setattr(world.downloads, "add", fail)
    assert webhook(world) == 500
    assert world.simulator.calls == []
