"""Runs of the poller beside those of the schedule: who starts them, and who goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stream_downloads.adapters import aws
from stream_downloads.adapters.shared_state import POLLER_LEASE, Lease
from stream_downloads.domain.commands import BadRequest, PollCommand, poll
from stream_downloads.domain.download import Status
from stream_downloads.domain.pace import PACE, Pace, Sample
from stream_downloads.services.poll import HAND_OVER_BEFORE, LEASE_SECONDS, USED_UP, end_of
from stream_downloads.services.waker import CLAIM_SECONDS, waker_of
from tests.support.clock import START
from tests.support.memory import MemoryControl
from tests.support.rows import AUDIO, DEFAULT, requested
from tests.support.world import BY_HAND, SCHEDULED, World

WINDOW = 55.0
MINUTE = 60.0


def quiet_stack(**settings: Any) -> World:
    """Return a stack whose webhooks start runs, and whose schedule has run at ``START``."""
    world = World(wakes=WINDOW, **settings)
    world.poll(WINDOW, command=SCHEDULED)
    return world


def starts(world: World) -> list[str]:
    """Return the claims of the runs that were started."""
    return [claim for _, claim in world._woken]


def test_in_a_quiet_stack_a_webhook_starts_a_run() -> None:
    world = quiet_stack(arriving=True)
    uid = world.simulator.upload(generation_seconds=10.0)
    world.clock.sleep(50.0)
    row = world.downloads.rows[uid, DEFAULT]
    assert row.status is Status.READY
    assert row.ready_at is not None
    assert row.ready_at - START < 30


def test_a_flood_of_webhooks_starts_one_run() -> None:
    world = quiet_stack()
    for _ in range(30):
        world.simulator.upload()
    assert world.deliver_webhooks() == [200] * 30
    assert len(starts(world)) == 1
    # Nor does another process of ReceiveWebhook start one.
    world.webhook_service = world.make_service(600, (DEFAULT,), 0.0, 7)
    world.simulator.upload()
    world.deliver_webhooks()
    assert len(starts(world)) == 1


def test_a_run_that_did_not_start_keeps_no_other_from_starting() -> None:
    world = quiet_stack()
    for _ in range(2):
        world.simulator.upload()
        world.deliver_webhooks()
        world.clock.sleep(10.0)
    assert len(starts(world)) == 2


def test_no_run_is_started_while_one_is_at_work() -> None:
    world = quiet_stack()
    Lease(world.control, POLLER_LEASE, "a run", LEASE_SECONDS).hold()
    world.simulator.upload()
    world.deliver_webhooks()
    assert starts(world) == []


def test_no_run_is_started_for_what_falls_due_after_its_end() -> None:
    world = quiet_stack()
    pace = Pace.of({DEFAULT: [Sample(600.0, 601.0)] * 30})
    world.control.write(PACE, pace.as_value(), 0)
    world.simulator.upload(generation_seconds=600.0)
    world.deliver_webhooks()
    assert starts(world) == []


def test_a_redelivered_webhook_starts_no_run() -> None:
    world = quiet_stack()
    uid = world.simulator.upload()
    world.deliver_webhooks()
    world.clock.sleep(CLAIM_SECONDS + 1)
    world.simulator.repeat_webhook(uid)
    world.deliver_webhooks()
    assert len(starts(world)) == 1


REFUSED: Any = {"Error": {"Code": "TooManyRequestsException", "Message": "Rate exceeded"}}


@pytest.mark.parametrize("error", [ClientError(REFUSED, "Invoke"), KeyError("unforeseen")], ids=str)
def test_a_run_that_cannot_be_started_changes_no_answer(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(wakes=WINDOW)

    def refused(_claim: str) -> None:
        raise error

    world.start_poller = refused  # type: ignore[method-assign,assignment]
    world.webhook_service = world.make_service(600, (DEFAULT,), 0.0, 7)
    uid = world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert world.downloads.rows[uid, DEFAULT].status is Status.INPROGRESS
    assert "No run of the poller could be started" in caplog.text
    assert Lease(world.control, POLLER_LEASE, "another", 1.0).hold(), "the claim is given back"


def test_a_claim_is_good_for_one_run() -> None:
    world = World()
    Lease(world.control, POLLER_LEASE, "claim", CLAIM_SECONDS).hold()
    command = PollCommand(claim="claim")
    during: list[str] = []
    world.clock.next_event = lambda: None if during else world.clock() + 1.0
    world.clock.happen = lambda: during.append(world.poll(0.0, command=command).ended)
    world.simulator.upload(generation_seconds=600.0)
    world.deliver_webhooks()
    world.clock.sleep(20.0)
    during.clear()
    Lease(world.control, POLLER_LEASE, "claim", CLAIM_SECONDS).hold()
    world.poll(30.0, command=command)
    assert during == ["another run is at work"], "Lambda may deliver an invocation twice"


def test_a_run_in_between_ends_where_the_next_scheduled_one_begins() -> None:
    world = quiet_stack()
    world.simulator.upload(generation_seconds=185.0)
    world.deliver_webhooks()
    world.clock.now = START + 2 * MINUTE + 20
    world.poll(WINDOW, command=BY_HAND)
    assert world.clock() <= START + 3 * MINUTE - HAND_OVER_BEFORE
    assert world.simulator.calls[-1].at > START + 2 * MINUTE + 40


def test_a_scheduled_run_waits_until_the_lease_of_one_that_died_has_expired() -> None:
    world = World()
    Lease(world.control, POLLER_LEASE, "dead", 30.0).hold()
    uid = world.simulator.upload(generation_seconds=2.0)
    world.deliver_webhooks()
    assert world.poll(WINDOW, command=SCHEDULED).ready == 1
    ready_at = world.downloads.rows[uid, DEFAULT].ready_at
    assert ready_at is not None
    assert ready_at - START < 40
    started = world.clock()
    Lease(world.control, POLLER_LEASE, "at work", 60.0).hold()
    assert world.poll(WINDOW, command=SCHEDULED).ended == "another run is at work"
    assert world.clock() == started + 31.0


CLAIMED = PollCommand(claim="c")


@pytest.mark.parametrize(
    ("command", "since", "window", "end", "stop"),
    [
        (BY_HAND, None, 50.0, 50.0, 55.0),
        (BY_HAND, None, 58.0, 58.0, 58.0),
        (SCHEDULED, 10.0, 50.0, 50.0, 55.0),
        (BY_HAND, 8.0, 50.0, 50.0, 51.0),
        (BY_HAND, 20.0, 0.0, 0.0, 39.0),
        (BY_HAND, 20.0, 50.0, 39.0, 39.0),
        (BY_HAND, 80.0, 50.0, 39.0, 39.0),
        (BY_HAND, 64.0, 60.0, 55.0, 55.0),
        (BY_HAND, 118.5, 50.0, 0.5, 1.0),  # it does one batch
        (CLAIMED, 64.0, 50.0, 0.0, 1.0),  # the scheduled run waits for its lease
        (CLAIMED, 65.0, 50.0, 50.0, 54.0),
        (CLAIMED, 4.0, 50.0, 50.0, 55.0),  # the scheduled run is over already
    ],
)
def test_a_run_in_between_leaves_the_lease_to_the_next_scheduled_one(
    command: PollCommand, since: float | None, window: float, end: float, stop: float
) -> None:
    scheduled_at = None if since is None else START - since
    ends, stops = end_of(START, window, command, scheduled_at)
    assert ends - START == end
    assert stops - START == stop


def test_a_run_that_is_not_scheduled_does_not_wait() -> None:
    world = World()
    Lease(world.control, POLLER_LEASE, "at work", 12.0).hold()
    assert world.poll(WINDOW).ended == "another run is at work"
    assert world.clock() == START


@pytest.mark.parametrize("taken", [False, True])
def test_a_run_reads_once_more_after_releasing_its_lease(
    *, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.simulator.upload(generation_seconds=5.0)
    world.deliver_webhooks()
    release = Lease.release
    released_at: list[float] = []

    def arrive_first(lease: Lease, *, completed: bool) -> None:
        if not released_at:
            world.simulator.upload(generation_seconds=5.0)
            world.deliver_webhooks()
        released_at.append(world.clock())
        release(lease, completed=completed)
        if taken:
            Lease(world.control, POLLER_LEASE, "another", 60.0).hold()

    monkeypatch.setattr(Lease, "release", arrive_first)
    ready = 1 if taken else 2
    assert world.poll(WINDOW).ready == ready
    assert (world.clock() == released_at[0]) is taken
    assert len(world.control.read(PACE).value["default"]["samples"]) == ready


@pytest.mark.parametrize("ended", ["nothing more is due", USED_UP, None])
def test_a_run_notes_its_end_unless_it_dies(
    ended: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(limit=1 if ended == USED_UP else 600)
    world.downloads.add(requested())
    if ended:
        assert world.poll().ended == ended
    else:
        monkeypatch.setattr(world.downloads, "read", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.poll()
    notes = world.control.read(POLLER_LEASE).value["notes"]
    assert ("completed_at" in notes) is (ended is not None)


@pytest.mark.parametrize(
    ("later", "wake"),
    [(0.9, []), (1.0, ["read"])],  # a run was just started, or is at work
)
def test_a_warm_webhook_makes_four_calls_of_dynamodb_around_the_create(
    later: float, wake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = quiet_stack()
    world.simulator.upload()
    world.deliver_webhooks()
    calls: list[str] = []
    for part, methods in (
        (type(world.downloads), ("add", "save", "get", "read", "of_video", "due")),
        (MemoryControl, ("read", "write")),
    ):
        for method in methods:
            count(monkeypatch, part, method, calls)
    world.clock.sleep(later)
    Lease(world.control, POLLER_LEASE, starts(world)[0], 2 * later).hold()
    calls.clear()
    world.simulator.upload()
    assert world.deliver_webhooks() == [200]
    assert calls == ["read", "write", "add", "save", *wake]
    assert world.simulator.counts() == {"create download": 2}


def count(monkeypatch: pytest.MonkeyPatch, part: type, method: str, calls: list[str]) -> None:
    """Note each call of a method."""
    real = getattr(part, method)

    def noted(*arguments: Any) -> Any:
        calls.append(method)
        return real(*arguments)

    monkeypatch.setattr(part, method, noted)


def test_a_webhook_takes_the_permits_of_all_its_creates_at_once() -> None:
    world = World(download_types=(DEFAULT, AUDIO))
    world.simulator.upload()
    world.deliver_webhooks()
    assert world.simulator.counts() == {"create download": 2}
    assert {row.version for row in world.downloads.rows.values()} == {2}, "added, then accepted"


@pytest.mark.parametrize(
    ("payload", "command"),
    [({}, BY_HAND), (None, BY_HAND), ({"scheduled": True}, SCHEDULED), ({"claim": "c"}, CLAIMED)],
)
def test_an_operator_the_schedule_or_a_webhook_starts_a_run(
    payload: Any, command: PollCommand
) -> None:
    assert poll(payload) == command


@pytest.mark.parametrize(
    "payload",
    [{"scheduled": "yes"}, {"claim": ""}, {"claim": 1}, {"scheduled": True, "x": 1}, {"a": 1}],
    ids=str,
)
def test_any_other_payload_is_refused(payload: Any) -> None:
    with pytest.raises(BadRequest, match="PollDownloads takes no input"):
        poll(payload)


@pytest.fixture
def invoked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect the invocations of Lambda functions."""
    calls: list[dict[str, Any]] = []

    class Client:
        def invoke(self, **call: Any) -> None:
            calls.append(call)

    monkeypatch.setattr(aws, "client", {"lambda": Client()}.__getitem__)
    return calls


def test_a_run_is_started_asynchronously_and_takes_the_claim_over(
    invoked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLL_WINDOW_SECONDS", "55")
    monkeypatch.setenv("POLL_DOWNLOADS_FUNCTION", "the-poller")
    world = World()
    waker = waker_of(world.service)
    assert waker is not None
    waker.wake(WINDOW)
    assert invoked == [], "it falls due after the end of the run"
    waker.wake(WINDOW - 1)
    [call] = invoked
    payload = json.loads(call.pop("Payload"))
    assert call == {"FunctionName": "the-poller", "InvocationType": "Event"}
    assert payload == {"claim": world.control.read(POLLER_LEASE).value["owner"]}
    assert world.poll(0.0).ended == "another run is at work"
    assert world.poll(0.0, command=poll(payload)).ended == "nothing more is due"


def test_without_a_window_nothing_starts_runs_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLL_WINDOW_SECONDS", "0")
    monkeypatch.setenv("POLL_DOWNLOADS_FUNCTION", "the-poller")
    assert waker_of(World().service) is None
