"""Test the create that a webhook sends at once, if the limit and the time permit."""

from __future__ import annotations

import io
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stream_downloads.adapters.download_item import Unreadable
from stream_downloads.adapters.observability import logger
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import Budget
from stream_downloads.domain.download import Download, Lane, Status, Step, Work
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services.receive import ASK_SECONDS, CREATE_SECONDS
from stream_downloads.services.steps import Outcome, Steps
from tests.simulator import Fault
from tests.support.memory import MemoryDownloads
from tests.support.rows import AUDIO, DEFAULT, NOW, requested
from tests.support.world import FixedCredentials, World

BOTH = (DEFAULT, AUDIO)


def rows(world: World) -> list[tuple[Status, Step | None]]:
    return [(row.status, row.step) for row in world.downloads.rows.values()]


def test_each_wanted_type_is_created_at_once() -> None:
    world = World(download_types=BOTH)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
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


def test_without_allowance_the_intent_waits_for_the_poller() -> None:
    world = World(limit=10)
    world.service.gateway.permit(10, Asker.OPERATOR)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)]
    assert world.simulator.calls == []


def test_while_the_gate_is_closed_nothing_is_sent() -> None:
    world = World(download_types=BOTH)
    Budget(world.control, 600, world.clock).close(300)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert world.simulator.calls == []


def test_a_429_keeps_the_second_create_from_being_sent() -> None:
    world = World(download_types=BOTH)
    world.simulator.faults.script(Fault.THROTTLED)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)] * 2
    assert len(world.simulator.calls) == 1


def test_refused_credentials_end_the_creates_and_the_poller_does_the_rest() -> None:
    world = World(download_types=BOTH)
    world.simulator.faults.script(Fault.UNAUTHORIZED)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)] * 2
    assert len(world.simulator.calls) == 1


def test_with_renewed_credentials_the_next_create_is_sent_and_the_poller_does_the_first() -> None:
    world = World(download_types=BOTH)
    world.credentials.in_memory = "old-token"
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert rows(world) == [(Status.REQUESTED, Step.CREATE), (Status.INPROGRESS, Step.LIST)]


@pytest.mark.parametrize("fault", list(Fault))
def test_nothing_that_cloudflare_does_turns_a_webhook_into_an_error(fault: Fault) -> None:
    world = World()
    world.simulator.faults.script(fault, times=5)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    [row] = world.downloads.rows.values()
    assert row.due_at is not None
    assert row.url is None


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE, Fault.HANG_AFTER, Fault.SLOW_BODY])
def test_the_answer_comes_in_seconds_however_slow_cloudflare_is(fault: Fault) -> None:
    world = World(download_types=BOTH)
    world.simulator.faults.script(fault, times=10)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
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
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
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
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)]


class Failing(MemoryDownloads):
    """A table that does not take what is written."""

    error: Exception = RuntimeError()

    def add(self, row: Download) -> Download | None:  # noqa: ARG002
        raise self.error


class FailingWorld(World):
    """A world with that table."""

    downloads_type = Failing


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
    monkeypatch.setattr(Failing, "error", error)
    world = FailingWorld()
    world.simulator.upload()
    assert world.deliver_webhooks() == [500]
    assert world.simulator.calls == []


def test_a_secret_that_cannot_be_read_is_our_own_fault() -> None:
    world = World()

    def unavailable() -> Any:
        raise SecretUnavailable("secret arn: it cannot be read")

    world.secrets.candidates = unavailable  # type: ignore[method-assign]
    world.simulator.upload()
    assert world.deliver_webhooks() == [500]
    assert rows(world) == []


def test_no_token_and_no_signature_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", lines)
    world = World(download_types=BOTH)
    for fault in Fault:
        world.simulator.faults.script(fault)
        uid = world.simulator.upload()
        [webhook] = world.simulator.due_webhooks()
        world.deliver(webhook)
        world.clock.sleep(20 * 60)
        assert webhook.headers["Webhook-Signature"].partition("sig1=")[2] not in lines.getvalue()
    assert uid in lines.getvalue()
    assert world.simulator.settings.api_token not in lines.getvalue()
    assert world.simulator.outbox.subscription
    assert world.simulator.outbox.subscription.secret not in lines.getvalue()
