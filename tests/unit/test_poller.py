"""Test the handler and the poller against a simulated Cloudflare, from webhook to URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from stream_downloads.adapters.downloads_table import Due
from stream_downloads.adapters.shared_state import Budget, Lease
from stream_downloads.domain.download import Download, DownloadType, ErrorCode, Lane, Status, Step
from stream_downloads.domain.request_budget import DATE_ERROR, WINDOW, Allowance, Asker
from stream_downloads.domain.transitions import DAY
from stream_downloads.services.poll import (
    LEASE_SECONDS,
    REQUEST_SECONDS,
    STOP_BEFORE_TIMEOUT,
    USED_UP,
    Summary,
)
from stream_downloads.services.working_set import DUE_AT_MOST
from tests.simulator import Fault
from tests.support.memory import MemoryDownloads
from tests.support.rows import AUDIO, DEFAULT, NOW, due, in_progress, requested, url_of
from tests.support.world import World

BOTH = (DEFAULT, AUDIO)
MINUTE = 60.0


def settle(world: World, minutes: int = 60, window: float = 0.0) -> list[Summary]:
    """Run the poller every minute until nothing is on its way any more."""
    runs = []
    for _ in range(minutes):
        started = world.clock()
        world.deliver_webhooks()
        runs.append(world.poll(window))
        if all(row.step is None or row.url for row in world.downloads.rows.values()):
            break
        world.clock.now = max(world.clock.now, started + MINUTE)
    return runs


def rows(world: World) -> list[Download]:
    return [row for _, row in sorted(world.downloads.rows.items())]


def row_of(world: World, uid: str, kind: DownloadType = DEFAULT) -> Download:
    return world.downloads.rows[uid, kind]


def wanted(
    world: World,
    make_row: Callable[..., Download] = requested,
    lane: Lane = Lane.LIVE,
    **upload: Any,
) -> str:
    """Upload a video and add a row for it to the table, due now; return its id."""
    uid = world.simulator.upload(webhook_delays=(), **upload)
    world.downloads.add(due(make_row(uid, lane=lane), world.clock()))
    return uid


def many(world: World, count: int, **upload: Any) -> list[str]:
    """Call `wanted` that many times; return the ids."""
    return [wanted(world, **upload) for _ in range(count)]


# --- The way from webhook to URL


def test_a_webhook_becomes_a_url() -> None:
    world = World()
    uid = world.simulator.upload(generation_seconds=90.0, name="clip.mp4")
    assert world.deliver_webhooks() == [200]
    assert row_of(world, uid).status is Status.INPROGRESS
    assert row_of(world, uid).name == "clip.mp4"
    settle(world)
    assert row_of(world, uid).status is Status.READY
    assert row_of(world, uid).url == url_of(uid)
    assert world.simulator.fetch(url_of(uid)) == 200
    assert world.simulator.counts()["create download"] == 1
    assert world.simulator.counts()["list downloads"] <= 3


def test_a_video_without_sound_gets_its_mp4_all_the_same() -> None:
    world = World(download_types=BOTH)
    uid = world.simulator.upload(has_audio=False)
    settle(world, minutes=2 * 24 * 60)
    assert row_of(world, uid).status is Status.READY
    audio = row_of(world, uid, AUDIO)
    assert audio == replace(audio, status=Status.ERROR, error_code="10005")
    assert audio.error_message == "Bad Request: The video has no audio track"
    assert world.simulator.counts()["create download"] < 300


def test_a_redelivered_webhook_changes_nothing() -> None:
    world = World(download_types=BOTH)
    uid = world.simulator.upload(generation_seconds=90.0)
    world.deliver_webhooks()
    for _ in range(3):
        before, requests = rows(world), len(world.simulator.calls)
        world.simulator.repeat_webhook(uid)
        assert world.deliver_webhooks() == [200]
        assert rows(world) == before
        assert len(world.simulator.calls) == requests
        settle(world)
    assert {row.status for row in rows(world)} == {Status.READY}


def test_a_failed_video_ends_in_error_and_a_later_success_opens_it_again() -> None:
    world = World()
    uid = world.simulator.upload(error_code="ERR_NON_VIDEO")
    world.deliver_webhooks()
    assert row_of(world, uid).status is Status.ERROR
    assert row_of(world, uid).error_code == "ERR_NON_VIDEO"
    assert world.simulator.calls == []
    video = world.simulator.videos[uid]
    video.upload = type(video.upload)()
    world.simulator.repeat_webhook(uid)
    settle(world)
    assert row_of(world, uid).status is Status.READY
    assert row_of(world, uid).error_code is None


# --- The window


def test_a_window_follows_what_falls_due_within_it() -> None:
    world = World(arriving=True)
    first = world.simulator.upload(generation_seconds=12.0)
    later = world.simulator.upload(generation_seconds=3.0, encode_seconds=10.0)
    world.deliver_webhooks()
    summary = world.poll(window=50.0)
    for uid in (first, later):
        assert row_of(world, uid).status is Status.READY
        ready_at = world.simulator.ready_at(uid, "default")
        assert 0 <= (row_of(world, uid).ready_at or 0) - (ready_at or 0) < 45
    assert summary.ready == 2
    assert world.clock() <= NOW + 50


def test_a_run_ends_at_once_if_nothing_falls_due_within_its_window() -> None:
    world = World()
    world.downloads.add(due(requested(), NOW + 50))
    world.poll(window=50.0)
    assert world.clock() == NOW


def test_without_a_window_a_run_is_one_pass() -> None:
    world = World()
    wanted(world, generation_seconds=0.5)
    assert world.poll().requests == 1
    assert world.clock() == NOW
    assert world.poll(window=0).as_answer() == {
        "requests": 0,
        "ready": 0,
        "failed": 0,
        "oldest_due_seconds": 0.0,
        "ended": "nothing more is due",
    }


def test_a_run_says_how_long_the_oldest_live_row_has_waited() -> None:
    world = World(limit=50)
    wanted(world)
    world.downloads.add(due(requested(), NOW - 90))
    assert world.poll().oldest_due_seconds == 90.0
    assert Summary(oldest_due_seconds=1.26).as_answer()["oldest_due_seconds"] == 1.3


# --- Faults on the way


@pytest.mark.parametrize(
    "faults",
    [
        [Fault.NOT_READY] * 4,
        [Fault.CONFLICT],
        [Fault.EXISTS, Fault.EXISTS],
        [Fault.NOT_FOUND, Fault.NOT_FOUND],
        [Fault.CANNOT_CONNECT] * 3,
        [Fault.NOT_READY, Fault.SERVER_ERROR, Fault.NOT_FOUND, Fault.RESET_AFTER],
    ],
    ids=str,
)
@pytest.mark.parametrize("call", ["create download", "list downloads"])
@pytest.mark.parametrize("nothing_created", ["empty", "not found"])
def test_a_passing_failure_delays_a_download_and_changes_nothing_else(
    faults: list[Fault], call: str, nothing_created: Any
) -> None:
    world = World(download_types=BOTH)
    world.simulator.settings.nothing_created = nothing_created
    world.simulator.faults.script(*faults, calls=[call])
    uid = world.simulator.upload(generation_seconds=30.0)
    settle(world, minutes=300)
    assert {row.url for row in rows(world)} == {url_of(uid, kind) for kind in BOTH}
    assert world.simulator.counts()["create download"] <= 2 + 2 * len(faults)


@pytest.mark.parametrize(("failures", "status"), [(1, "ready"), (3, "ready"), (4, "error")])
def test_a_failed_download_is_made_again_three_times(failures: int, status: str) -> None:
    world = World()
    uid = world.simulator.upload(failing_creates={"default": failures})
    runs = settle(world, minutes=120)
    assert row_of(world, uid).status == status
    assert sum(run.failed for run in runs) == (status == "error")
    assert world.simulator.counts()["create download"] == min(4, failures + 1)
    assert world.simulator.counts()["delete downloads"] == min(3, failures)
    if failures == 4:
        assert row_of(world, uid).error_code == ErrorCode.DOWNLOAD_FAILED


def test_a_video_that_is_gone_is_found_out_with_few_requests() -> None:
    world = World()
    uid = wanted(world)
    world.simulator.drop_video(uid)
    settle(world, minutes=180)
    assert row_of(world, uid).status is Status.ERROR
    assert row_of(world, uid).error_code == ErrorCode.VIDEO_GONE
    assert world.simulator.counts() == {"create download": 1, "get video": 2}


def test_a_ready_download_that_vanished_with_its_video_is_marked_as_deleted() -> None:
    world = World()
    uid = wanted(world)
    settle(world)
    world.simulator.drop_video(uid)
    world.clock.sleep(8 * DAY)
    for _ in range(5):
        world.poll()
        world.clock.sleep(3600)
    assert row_of(world, uid).status is Status.DELETED
    assert row_of(world, uid).url is None


def test_a_live_recording_over_four_hours_ends_in_error() -> None:
    world = World()
    uid = world.simulator.upload(live_input="a", duration_seconds=5 * 3600)
    settle(world)
    assert row_of(world, uid).error_code == "recording_too_long"


# --- Credentials and the gate


@pytest.mark.parametrize("stored", ["old", "new"])
def test_refused_credentials_are_read_again_then_the_run_ends_and_rows_wait(stored: str) -> None:
    world = World()
    world.credentials.in_memory, world.credentials.stored = "old", stored
    many(world, 20)
    before = rows(world)
    assert world.poll(window=50.0).ended == "the credentials are refused"
    assert world.credentials.reads == 1
    assert len(world.simulator.calls) == 16
    assert [replace(row, version=1) for row in rows(world)] == before


def test_credentials_that_were_renewed_are_used_in_the_same_run() -> None:
    world = World()
    world.credentials.in_memory = "old"
    wanted(world)
    assert world.poll().requests == 2
    assert [call.status for call in world.simulator.calls] == [401, 200]


def test_a_429_ends_the_run_and_nothing_is_sent_until_the_gate_opens() -> None:
    world = World()
    world.simulator.faults.script(Fault.THROTTLED, skip=3)
    many(world, 40)
    assert world.poll(window=50.0).ended == "Cloudflare answered 429"
    after_it = len(world.simulator.calls)
    assert after_it <= 16  # what was in flight
    assert world.poll(window=50.0).ended == "the gate is closed after a 429"
    assert world.budget.take(1, Asker.OPERATOR).count == 0
    assert len(world.simulator.calls) == after_it
    world.clock.sleep(MINUTE + 3)
    settle(world)
    assert {row.status for row in rows(world)} == {Status.READY}


# --- One bad row blocks no other


def poisoned(error: Exception, **settings: Any) -> World:
    """Return a world whose table raises that error for some videos."""
    world = World(**settings)
    save = world.downloads.save

    def failing(row: Download) -> Download:
        if row.video_uid.startswith("0000"):
            raise error
        return save(row)

    world.downloads.save = failing  # type: ignore[method-assign]
    return world


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "ValidationException"}}, "PutItem"),
        ConnectTimeoutError(endpoint_url="https://dynamodb"),
        RuntimeError("unforeseen"),
        RecursionError(),
    ],
)
def test_a_row_that_cannot_be_worked_on_blocks_no_other(error: Exception) -> None:
    world = poisoned(error)
    bad = due(requested(f"{0xBAD:032x}"), NOW - 900)
    world.downloads.add(bad)
    uids = many(world, 20)
    for _ in range(5):
        assert world.poll().ended == "nothing more is due"
        world.clock.sleep(MINUTE)
    assert {row_of(world, uid).status for uid in uids} == {Status.READY}
    assert row_of(world, bad.video_uid) == replace(bad, version=1)


def test_a_queue_of_rows_that_cannot_be_written_hides_no_row_behind_them() -> None:
    world = poisoned(RuntimeError("unforeseen"), limit=1000)
    for number in range(DUE_AT_MOST + 1):
        world.downloads.add(due(requested(f"{number:032x}"), NOW - 900))
    uid = wanted(world)
    assert world.poll().requests == len(world.simulator.calls) == 1
    assert row_of(world, uid).status is Status.INPROGRESS


# --- The index is late, runs overlap


class Lagging(MemoryDownloads):
    """An index that knows only what the table held some writes ago."""

    lag = 5

    def __init__(self) -> None:
        super().__init__()
        self._history: list[dict[Any, Download]] = []

    def _write(self, row: Download) -> Download:
        self._history.append(dict(self.rows))
        return super()._write(row)

    def due(self, queue: str, until: float, page: int) -> Iterator[Due]:
        del page
        seen = self._history[-self.lag] if len(self._history) >= self.lag else {}
        due = [Due(row.key, row.indexed_at or 0) for row in seen.values() if row.queue == queue]
        return iter(sorted((entry for entry in due if entry.due_at <= until), key=itemgetter(1)))


@pytest.mark.no_cover
@pytest.mark.parametrize("lag", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("window", [0.0, 50.0])
def test_an_index_that_lags_behind_causes_no_second_create(
    lag: int, window: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lagging, "lag", lag)
    monkeypatch.setattr(World, "downloads_type", Lagging)
    world = World(download_types=BOTH)
    uids = [world.simulator.upload(generation_seconds=40.0) for _ in range(20)]
    settle(world, minutes=20, window=window)
    monkeypatch.setattr(Lagging, "lag", 1)
    world.downloads.add(requested(f"{1:032x}"))  # so that the index knows all before it
    settle(world, minutes=20, window=window)
    assert {row_of(world, uid, kind).status for uid in uids for kind in BOTH} == {Status.READY}
    creates = [call for call in world.simulator.calls if call.name == "create download"]
    assert sum(call.video_uid in uids for call in creates) == 2 * len(uids)


def during_each_request(world: World, happens: Callable[[], object]) -> None:
    """Let something happen while each of the requests is on its way, but not within itself."""
    handle = world.simulator.handle
    busy: list[bool] = []

    def interrupted(request: Any) -> Any:
        if not busy:
            busy.append(True)
            happens()
            busy.clear()
        return handle(request)

    world.simulator.handle = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize("leased", [True, False])
def test_two_runs_at_once_do_the_work_once(
    *, leased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not leased:
        monkeypatch.setattr(Lease, "hold", lambda _: True)
    world = World(download_types=BOTH)
    uids = many(world, 40, generation_seconds=30.0)
    others: list[Summary] = []
    during_each_request(world, lambda: others.append(world.poll()))
    settle(world)
    assert {row_of(world, uid).status for uid in uids} == {Status.READY}
    assert world.simulator.counts()["create download"] == len(uids)
    if leased:
        assert {summary.ended for summary in others} == {"another run is at work"}
        assert world.simulator.counts()["list downloads"] <= 2 * len(uids)


def test_a_run_whose_lease_was_taken_over_ends() -> None:
    world = World(latency=LEASE_SECONDS + 1)
    many(world, 40)
    world.clock.next_event = lambda: NOW + LEASE_SECONDS if world.clock() < NOW + 30 else None
    world.clock.happen = Lease(world.control, "poller-lease", "another", 600.0).hold
    assert world.poll(timeout=600).ended == "another run has taken over"


def slow_down(world: World, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the answers of each batch take so long."""

    def in_parallel(advance: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        outcomes = list(map(advance, jobs))
        world.clock.sleep(seconds)
        return outcomes

    monkeypatch.setattr(world, "_in_parallel", in_parallel)


def noting(world: World, monkeypatch: pytest.MonkeyPatch, part: Any, method: str) -> list[float]:
    """Collect the seconds of the run at which a method is called."""
    called: list[float] = []
    real = getattr(part, method)

    def noted(*arguments: Any, **named: Any) -> Any:
        called.append(world.clock() - NOW)
        return real(*arguments, **named)

    monkeypatch.setattr(part, method, noted)
    return called


@pytest.mark.parametrize(("jobs", "requests"), [(320, 19 * 16), (0, 1)])
def test_a_long_run_renews_its_lease_every_15_seconds_and_reads_every_3(
    jobs: int, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    slow_down(world, 3.0, monkeypatch)
    world.downloads.add(due(requested(f"{1:032x}"), NOW + 54))
    many(world, jobs, generation_seconds=600.0)
    held = noting(world, monkeypatch, Lease, "hold")
    read = noting(world, monkeypatch, world.downloads, "due")
    assert world.poll(window=57.0).requests == requests
    assert held[:4] == [0.0, 15.0, 30.0, 45.0]
    assert sorted(set(read))[:19] == list(range(0, 57, 3))


def test_a_run_without_allowance_asks_again_every_3_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(limit=1)
    wanted(world)
    asked = noting(world, monkeypatch, world.service.gateway, "permit")
    assert world.poll(window=9.0).ended == USED_UP
    assert asked == [0.0, 3.0, 6.0]


@pytest.mark.parametrize(("window", "creates"), [(0.0, 1), (50.0, 2)])
def test_what_falls_due_during_a_batch_waits_if_a_run_is_one_pass(
    window: float, creates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    slow_down(world, 53.0, monkeypatch)
    wanted(world)
    world.downloads.add(due(requested(f"{1:032x}"), NOW + 52))
    world.poll(window)
    assert world.simulator.counts()["create download"] == creates


# --- More than one run can do


def test_a_run_stops_in_good_time_before_its_timeout_and_leaves_the_rest_due() -> None:
    world = World(limit=5000, latency=2.0)
    many(world, 400, generation_seconds=600.0)
    summary = world.poll(window=50.0, timeout=40.0)
    assert summary.ended == "the function's time is over"
    assert NOW + 20 <= world.clock() <= NOW + 40 - STOP_BEFORE_TIMEOUT + REQUEST_SECONDS
    assert 0 < summary.requests < 400
    assert summary.requests == len(world.simulator.calls)
    waiting = [row for row in rows(world) if row.step is Step.CREATE]
    assert len(waiting) == 400 - world.simulator.counts()["create download"]
    assert {row.due_at for row in waiting} == {NOW}


def test_a_run_that_begins_without_time_sends_nothing() -> None:
    world = World()
    wanted(world)
    assert world.poll(timeout=15.0).ended == "the function's time is over"
    assert world.simulator.calls == []
    assert world.poll(timeout=15.1).requests == 1
    world.downloads.add(due(requested(f"{1:032x}"), NOW + 40))
    assert world.poll(window=50.0, timeout=20.0).ended == "the function's time is over"


@pytest.mark.no_cover
@pytest.mark.parametrize("window", [0.0, 50.0])
def test_more_due_rows_than_the_allowance_are_worked_off_oldest_first(window: float) -> None:
    world = World(limit=100)
    uids = []
    for _ in range(250):
        uids.append(wanted(world, generation_seconds=20.0))
        world.clock.sleep(0.01)
    first = world.poll(window)
    assert first.ended == "the requests of these five minutes are used up"
    created = {call.video_uid for call in world.simulator.calls if "create" in call.name}
    assert created == set(uids[: len(created)])
    settle(world, minutes=60, window=window)
    assert {row.status for row in rows(world)} == {Status.READY}
    assert world.simulator.counts()["create download"] == 250
    assert world.simulator.most_requests_in(300.0) <= 100
    assert {call.status for call in world.simulator.calls} == {200}


@pytest.mark.parametrize("window", [0.0, 50.0])
def test_a_run_that_only_loses_races_for_the_budget_says_so(
    window: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    uid = wanted(world)
    write = world.control.write
    monkeypatch.setattr(
        world.control, "write", lambda name, *rest: name != Budget.NAME and write(name, *rest)
    )
    summary = world.poll(window)
    assert summary.ended == "many functions send requests at this moment"
    assert summary.requests == 0
    assert row_of(world, uid).due_at == NOW


def test_a_backfill_waits_for_the_live_rows_and_leaves_them_a_share() -> None:
    world = World(limit=100)
    many(world, 200, lane=Lane.BACKFILL)
    world.poll()
    assert len(world.simulator.calls) == 100 - 2 - 10
    live = many(world, 5)
    world.poll()
    assert {row_of(world, uid).status for uid in live} <= {Status.INPROGRESS, Status.READY}


def test_maintenance_leaves_half_of_the_limit() -> None:
    world = World(limit=100)
    uids = many(world, 40)
    settle(world)
    for uid in uids[20:]:
        world.simulator.drop_download(uid, "default")
    world.clock.sleep(8 * DAY)
    before = len(world.simulator.calls)
    world.poll()
    assert len(world.simulator.calls) - before == 40
    assert world.budget.take(100, Asker.POLLER).count == 100 - 2 - 40


@pytest.mark.no_cover
def test_an_account_that_others_use_up_is_not_pushed_over_its_limit() -> None:
    world = World(limit=600)
    for _ in range(10):
        many(world, 60, generation_seconds=90.0)
        for _ in range(20):
            others = world.simulator.limiter.headers(world.clock())["ratelimit"]
            left = int(others.partition("r=")[2].partition(";")[0])
            world.simulator.others_send(max(0, min(15, left - 20)))
            world.clock.sleep(3)
        world.poll()
    assert {call.status for call in world.simulator.calls} == {200}
    assert len(world.simulator.calls) > 300


# --- The pace


@pytest.mark.no_cover
@pytest.mark.parametrize("window", [0.0, 50.0])
def test_a_busy_run_ends_within_its_minute(window: float) -> None:
    world = World(limit=60_000, latency=1.0)
    many(world, 900, generation_seconds=600.0)
    started = world.clock()
    assert world.poll(window).ended == "the next run goes on"
    assert world.clock() - started < MINUTE
    world.clock.now = started + MINUTE
    assert world.poll(window).requests > 0


@pytest.mark.no_cover
def test_a_backfill_does_not_hold_up_the_end_of_a_retention() -> None:
    world = World(retention=DAY)
    uid = wanted(world, generation_seconds=5.0)
    settle(world)
    world.clock.sleep(DAY)
    many(world, 1000, lane=Lane.BACKFILL, generation_seconds=5.0)
    world.poll(50)
    assert row_of(world, uid).status is Status.DELETED
    assert any(row.status is Status.REQUESTED for row in rows(world))


def test_what_is_kept_after_all_does_not_count_as_ready_again() -> None:
    world = World(retention=DAY)
    uid = wanted(world, generation_seconds=5.0)
    settle(world)
    world.service = replace(world.service, retention=0.0)
    world.clock.sleep(DAY)
    assert world.poll().ready == 0
    assert row_of(world, uid).status is Status.READY
    assert row_of(world, uid).step is Step.RECHECK


def test_in_a_trickle_creates_and_polls_take_turns_from_run_to_run() -> None:
    world = World(limit=2)  # one of them is reserved for webhooks
    for _ in range(4):
        wanted(world)
        wanted(world, in_progress)
    for _ in range(4):
        world.poll()
        world.clock.sleep(7 * MINUTE)
    assert world.simulator.counts() == {"create download": 2, "list downloads": 2}


@pytest.mark.parametrize("lane", Lane)
def test_only_a_backfill_counts_as_work_in_the_background(lane: Lane) -> None:
    world = World()
    wanted(world, lane=lane)
    world.poll()
    permits = Allowance.parse(world.control.read(Budget.NAME).value, 600, world.clock()).granted
    assert sum(one.background for one in permits.values()) == (lane is Lane.BACKFILL)
    assert sum(one.live for one in permits.values()) == (lane is Lane.LIVE)


def test_what_a_run_learns_is_there_for_the_next() -> None:
    world = World()
    many(world, 30, generation_seconds=20.0)
    settle(world)
    learned = world.service.pace.read()
    assert len(learned.samples[DEFAULT]) == 30
    assert learned.fits[DEFAULT].mean < World().service.pace.read().fits[DEFAULT].mean


def test_a_pace_that_another_run_wrote_meanwhile_stands() -> None:
    world = World()
    wanted(world, generation_seconds=1.0)
    world.poll()
    world.clock.sleep(MINUTE)
    during_each_request(world, lambda: world.control.write("pace", {"default": {"mean": 7.0}}, 0))
    world.poll()
    assert world.control.read("pace").value == {"default": {"mean": 7.0}}


def test_the_ceiling_of_the_account_reaches_the_shared_budget() -> None:
    world = World(limit=600)
    world.simulator.others_send(1100)
    wanted(world)
    world.poll()
    assert world.budget.take(600, Asker.OPERATOR).count == int(0.9 * 99)
    world.clock.sleep(WINDOW + DATE_ERROR)  # the header's reset
    assert world.budget.take(600, Asker.OPERATOR).count > 400
