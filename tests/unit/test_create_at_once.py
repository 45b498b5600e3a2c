"""What a webhook does beyond its intent: a create at once, if that is allowed and quick."""

from __future__ import annotations

import io
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stream_downloads.adapters.downloads_table import Unreadable
from stream_downloads.adapters.observability import logger
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.domain.download import Download, Lane, Status, Step
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services.receive import ALL_CREATES_SECONDS, CREATE_SECONDS
from tests.memory import MemoryDownloads
from tests.rows import AUDIO, DEFAULT, NOW, requested
from tests.simulator import Fault
from tests.world import World

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
    row = requested(uid, lane=Lane.BACKFILL, step=step, due_at=world.clock())
    world.downloads.add(row)
    assert world.deliver_webhooks() == [200]
    assert [row.lane for row in world.downloads.of_video(uid)] == [Lane.LIVE]
    assert world.simulator.calls == []


def test_without_allowance_the_intent_waits_for_the_poller() -> None:
    world = World(limit=10)
    world.service.budget.take(10, Asker.OPERATOR)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)]
    assert world.simulator.calls == []


def test_while_the_gate_is_closed_nothing_is_sent() -> None:
    world = World(download_types=BOTH)
    world.service.budget.close(300)
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


def test_refused_credentials_are_read_again_and_the_poller_does_the_rest() -> None:
    world = World(download_types=BOTH)
    refreshed: list[bool] = []
    world.webhook_service.credentials.refresh = lambda: not refreshed.append(True)  # type: ignore[method-assign, func-returns-value]
    world.simulator.faults.script(Fault.UNAUTHORIZED)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert refreshed == [True]
    assert len(world.simulator.calls) == 1
    assert rows(world) == [(Status.REQUESTED, Step.CREATE)] * 2


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE, Fault.HANG_AFTER, Fault.SLOW_BODY])
def test_the_answer_comes_in_seconds_however_slow_cloudflare_is(fault: Fault) -> None:
    world = World(download_types=BOTH)
    world.simulator.faults.script(fault, times=10)
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert world.clock() - NOW <= ALL_CREATES_SECONDS + 1
    assert {step for _, step in rows(world)} <= {Step.LIST, Step.CREATE}


def test_no_create_begins_once_the_time_for_all_of_them_is_over() -> None:
    world = World(download_types=BOTH)
    take = world.webhook_service.budget.take

    def slowly(*arguments: Any, **options: Any) -> Any:
        world.clock.sleep(ALL_CREATES_SECONDS)
        return take(*arguments, **options)

    world.webhook_service.budget.take = slowly  # type: ignore[method-assign]
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert len(world.simulator.calls) == 1
    assert world.service.budget.state()["used"] == 1
    assert CREATE_SECONDS < ALL_CREATES_SECONDS


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), RecursionError(), MemoryError()])
def test_nothing_that_happens_after_the_intent_undoes_the_200(error: Exception) -> None:
    world = World()

    def fail() -> Any:
        raise error

    world.webhook_service.credentials.headers = fail  # type: ignore[method-assign]
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
        # The row that is there cannot be read: only a person can mend it.
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
