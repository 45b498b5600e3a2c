"""Find videos without a webhook: in the last hours, and in the whole library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from statistics import fmean
from typing import Any

import pytest

from stream_downloads.adapters.download_item import Unreadable
from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.shared_state import Lease
from stream_downloads.domain import transitions, video
from stream_downloads.domain.download import Download, DownloadType, Lane, Status
from stream_downloads.domain.library import PAGE, RECENT_VIDEOS, NoTimes
from stream_downloads.domain.video import VideoPage
from stream_downloads.services import reconcile as reconcile_service
from stream_downloads.services import record as record_service
from stream_downloads.services.reconcile import Run
from stream_downloads.services.record import Known
from tests.simulator import Fault
from tests.simulator.videos import Video
from tests.support.rows import requested
from tests.support.world import World

HOUR = 3600.0
BOTH = (DownloadType.DEFAULT, DownloadType.AUDIO)


@pytest.fixture
def world() -> World:
    return World(limit=1000)


def reconcile(
    world: World,
    since: float | None = None,
    *,
    seconds: Iterator[float] | None = None,
    known: Known | None = None,
) -> dict[str, Any]:
    """Run once with a look-back of 48 hours; ``seconds`` returns the time left.

    Without it, the time is over after many more pages than a test has, so that no test hangs.
    """
    seconds = seconds or chain(repeat(600.0, 50), repeat(0.0))
    return world.reconcile(since, remaining=lambda: next(seconds), known=known)


def reconcile_hourly(
    world: World, hours: int, *, each_hour: Callable[[], object] = list, known: Known | None = None
) -> None:
    for _ in range(hours):
        world.clock.now += HOUR / 2
        each_hour()
        world.clock.now += HOUR / 2
        reconcile(world, known=known)


def upload(world: World, count: int, *, apart: float, **details: Any) -> list[str]:
    uids = []
    for _ in range(count):
        uids.append(world.simulator.upload(webhook_delays=(), **details))
        world.clock.now += apart
    return uids


def upload_before_the_look_back(world: World, count: int) -> tuple[float, list[str]]:
    """Upload videos that only a backfill finds; return where it has to begin, and the uids."""
    start = world.clock()
    uids = upload(world, count, apart=1.0)
    world.clock.now += 72 * HOUR
    return start, uids


def videos_with_rows(world: World) -> set[str]:
    return {uid for uid, _ in world.downloads.rows}


def test_a_video_whose_webhook_never_came_is_found(world: World) -> None:
    (uid,) = upload(world, 1, apart=60, creator="someone", private=True)
    answer = reconcile(world)
    assert "skipped" not in answer
    assert answer["videos_seen"] == 1
    assert answer["videos_requested"] == 1
    row = world.downloads.rows[uid, DownloadType.DEFAULT]
    assert row.status == Status.REQUESTED
    assert row.lane == Lane.LIVE
    assert row.creator == "someone"
    assert row.requires_signed_url is True


def test_rows_that_exist_are_read_and_not_written(world: World) -> None:
    upload(world, 5, apart=60)
    reconcile(world)
    before = dict(world.downloads.rows)
    assert reconcile(world)["videos_requested"] == 0
    assert world.downloads.rows == before


def test_only_the_type_that_lacks_a_row_is_requested() -> None:
    world = World(download_types=BOTH)
    (uid,) = upload(world, 1, apart=60)
    world.downloads.add(requested(uid))
    before = world.downloads.rows[uid, DownloadType.DEFAULT]
    assert reconcile(world)["videos_requested"] == 1
    assert world.downloads.rows[uid, DownloadType.DEFAULT] == before
    assert (uid, DownloadType.AUDIO) in world.downloads.rows


def test_a_row_that_ended_because_its_video_had_failed_is_opened_again(world: World) -> None:
    (uid,) = upload(world, 1, apart=60)
    world.downloads.add(transitions.fail_video(requested(uid), video.Video(uid), world.clock()))
    assert reconcile(world)["videos_requested"] == 1
    assert world.downloads.rows[uid, DownloadType.DEFAULT].status is Status.REQUESTED


def test_a_video_that_is_not_ready_is_left_alone(world: World) -> None:
    upload(world, 1, apart=60, encode_seconds=3600)
    upload(world, 1, apart=60, error_code="ERR_NON_VIDEO")
    assert reconcile(world)["videos_requested"] == 0


def test_a_look_back_reaches_an_hour_further_than_the_run_before(world: World) -> None:
    upload(world, 1, apart=1.5)
    recent = upload(world, 1, apart=600 + HOUR - 0.5)
    Run(world.service, lambda: 600.0, map, period=600.0).reconcile(0.0, None)
    assert videos_with_rows(world) == set(recent)


def test_a_library_that_cannot_be_listed_is_reported_and_listed_by_the_next_run(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.simulator.faults.script(Fault.SERVER_ERROR, calls=["list videos"])
    ended = reconcile(world)["ended"]
    assert ended == "Cloudflare did not list the library. The next run tries again."
    world.credentials.in_memory = ""
    assert reconcile(world)["ended"] == "secret arn: it cannot be read. The next run tries again."
    assert caplog.text.count("The library could not be listed") == 2
    world.credentials.refresh()
    assert reconcile(world)["ended"] == "done"


@pytest.mark.no_cover
@pytest.mark.parametrize("inclusive", [True, False])
def test_a_backfill_loses_nothing_across_the_borders_of_pages(
    world: World, *, inclusive: bool
) -> None:
    world.simulator.settings.inclusive_bounds = inclusive
    start = world.clock()
    uids = upload(world, PAGE - 1, apart=1.5)
    uids += upload(world, 300, apart=0.0)  # one instant, across the border of the page
    world.clock.now += 1.0
    uids += upload(world, PAGE + 2, apart=0.0008)  # over a page within a second
    uids += upload(world, PAGE, apart=0.01)
    world.clock.now += 72 * HOUR
    answer = reconcile(world, start)
    assert answer["backfill"] is None
    assert "skipped" not in answer
    assert videos_with_rows(world) == set(uids)
    assert {row.lane for row in world.downloads.rows.values()} == {Lane.BACKFILL}


def test_a_video_that_is_listed_in_another_shape_hides_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, uids = upload_before_the_look_back(world, PAGE + 2)
    spoil: dict[str, dict[str, Any]] = {
        uids[0]: {"uid": "../x"},
        uids[1]: {"created": None},
        uids[PAGE - 1]: {"created": ""},
    }
    listed = Video.listed

    def listed_badly(video: Video, now: float) -> dict[str, Any]:
        return listed(video, now) | spoil.get(video.uid, {})

    monkeypatch.setattr(Video, "listed", listed_badly)
    assert reconcile(world, start)["backfill"] is None
    assert videos_with_rows(world) == set(uids[1:])


@pytest.mark.parametrize("backfill", [True, False])
def test_over_a_page_of_videos_at_one_instant_is_skipped_with_a_warning(
    world: World, *, backfill: bool, caplog: pytest.LogCaptureFixture
) -> None:
    start = world.clock()
    upload(world, PAGE + 5, apart=0.0)
    world.clock.now += 0.5
    later = upload(world, 2, apart=60)
    world.clock.now += 72 * HOUR if backfill else 0.0
    answer = reconcile(world, start if backfill else None)
    assert answer["ended"] == "done"
    assert len(videos_with_rows(world)) == PAGE + len(later)
    assert not set(later) - videos_with_rows(world)
    assert "2027-01-15T08:00:00.000Z" in answer["skipped"]
    assert "More videos were created at one instant" in caplog.text
    assert "skipped" not in reconcile(world) or not backfill


def test_a_page_without_times_fails_loudly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(world, PAGE, apart=0.001)
    listed = Video.listed
    monkeypatch.setattr(Video, "listed", lambda video, now: listed(video, now) | {"created": None})
    with pytest.raises(NoTimes, match="usable `created`"):
        reconcile(world)


def test_a_video_that_is_listed_twice_is_read_and_requested_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(world, 3, apart=60)
    list_videos = world.service.gateway.stream.list_videos

    def list_twice(**query: Any) -> VideoPage:
        page = list_videos(**query)
        return VideoPage([*page.videos, *page.videos], 2 * page.listed)

    monkeypatch.setattr(world.service.gateway.stream, "list_videos", list_twice)
    assert reconcile(world)["videos_requested"] == 3


@pytest.mark.parametrize(
    ("later", "left", "ended"),
    [(0.0, 10.0, "The function's time was over."), (HOUR, 600.0, "The next look-back is due.")],
)
def test_a_backfill_goes_on_where_the_run_before_had_to_stop(
    world: World, later: float, left: float, ended: str
) -> None:
    start, uids = upload_before_the_look_back(world, 3 * PAGE)

    def seconds() -> Iterator[float]:
        yield 600.0  # the look-back
        world.clock.now += later
        yield 600.0  # the first page
        yield from repeat(left)

    first = reconcile(world, start, seconds=seconds())
    assert first["backfill"]["since"] < first["backfill"]["reached"]
    assert first["ended"] == f"{ended} The next run goes on from there."
    assert len(videos_with_rows(world)) == PAGE
    while reconcile(world)["backfill"]:
        pass
    assert videos_with_rows(world) == set(uids)
    listed = world.simulator.counts()["list videos"]
    assert listed <= 3 + 3 + 1 + 2  # each page once, the last hours with every run


def test_a_backfill_that_is_asked_for_again_goes_on_where_it_is(world: World) -> None:
    start, _ = upload_before_the_look_back(world, 2 * PAGE)
    first = reconcile(world, start, seconds=iter([600.0, 600.0, 10.0]))
    again = reconcile(world, start, seconds=iter([600.0, 10.0]))
    assert again["backfill"] == first["backfill"]
    assert world.control.read("reconcile-cursor").value["since"] == start
    another = reconcile(world, start + HOUR, seconds=iter([600.0, 10.0]))
    assert another["backfill"]["reached"] < another["backfill"]["since"]


@pytest.mark.no_cover
def test_a_look_back_that_a_run_cannot_finish_goes_on_with_the_next(world: World) -> None:
    uids = upload(world, 3 * PAGE, apart=1.0)
    world.clock.now += HOUR
    first = reconcile(world, seconds=iter([600.0, 600.0, 10.0]))
    assert first["videos_seen"] == 2 * PAGE - 2  # a page begins a second before the end of the last
    assert world.control.read("look-back").value["completed_at"] is None
    began_at = world.clock()
    world.clock.now += 60
    second = reconcile(world)
    assert second["ended"] == "done"
    assert videos_with_rows(world) == set(uids)
    assert second["videos_seen"] < 2 * PAGE
    assert world.control.read("look-back").value["completed_at"] == began_at
    assert reconcile(world)["videos_seen"] == RECENT_VIDEOS + 1  # and what is within a second
    world.clock.now += HOUR
    assert reconcile(world)["videos_seen"] == 3 * PAGE  # the last hours from their beginning


def test_an_interrupted_look_back_goes_on_no_earlier_than_the_next_would_begin(
    world: World,
) -> None:
    upload(world, 2 * PAGE, apart=1.0)
    reconcile(world, seconds=iter([600.0, 10.0]))
    before = videos_with_rows(world)
    world.clock.now += 72 * HOUR
    recent = upload(world, 1, apart=60)
    assert reconcile(world)["ended"] == "done"
    assert videos_with_rows(world) == before | set(recent)


@pytest.mark.parametrize("interrupted", [True, False])
def test_the_record_of_an_earlier_version_is_understood(world: World, *, interrupted: bool) -> None:
    began_at = world.clock()
    rest = {"began_at": began_at, "start": began_at, "is_whole": True} if interrupted else None
    kept = {"completed_at": began_at, "whole_at": began_at, "interrupted": rest}
    world.control.write("look-back", kept, 0)
    (uid,) = upload(world, 1, apart=1)
    reconcile_hourly(world, 1)
    assert videos_with_rows(world) == {uid}


def test_a_video_that_fails_or_vanishes_after_a_long_time_is_asked_for_once(world: World) -> None:
    reconcile(world)
    upload(world, 1, apart=1, encode_seconds=50 * HOUR, error_code="ERR_NON_VIDEO")
    (gone,) = upload(world, 1, apart=1, encode_seconds=60 * HOUR)
    reconcile_hourly(world, 5)
    world.simulator.drop_video(gone)
    reconcile_hourly(world, 55)
    assert videos_with_rows(world) == set()
    assert world.simulator.counts()["get video"] == 2


@pytest.mark.parametrize(
    ("fault", "passed_over"),
    [(Fault.SERVER_ERROR, True), (Fault.RESET_BEFORE, True), (Fault.FORBIDDEN, False)],
)
def test_a_long_encoded_video_that_cannot_be_looked_up_is_asked_for_again(
    world: World, fault: Fault, *, passed_over: bool
) -> None:
    reconcile(world)
    uids = upload(world, 2, apart=1, encode_seconds=49.5 * HOUR)
    reconcile_hourly(world, 49)
    world.simulator.faults.script(fault, calls=["get video"])
    start = world.clock()
    world.clock.now += HOUR
    answer = reconcile(world, start)
    assert answer["backfill"] is None
    assert ("did not describe 1 of" in answer["ended"]) is passed_over
    assert ("check of encoding videos stopped" in answer["ended"]) is not passed_over
    assert len(videos_with_rows(world)) == passed_over
    world.clock.now += 20 * 60
    reconcile_hourly(world, 1)
    assert videos_with_rows(world) == set(uids)


def test_the_videos_that_encode_are_listed_every_fifty_minutes(world: World) -> None:
    for later, lists in [(0.0, 2), (2999.0, 3), (1.0, 5)]:
        world.clock.now += later
        reconcile(world)
        assert world.simulator.counts()["list videos"] == lists
        assert world.control.read("look-back").value["completed_at"] == world.clock()


@pytest.mark.parametrize(
    ("later", "left", "ended"),
    [
        (44.9, 90.0, "done"),
        (0.0, 89.9, "The function's time was over. The next run goes on from there."),
        (45.0, 90.0, "The next look-back is due. The next run goes on from there."),
    ],
)
def test_a_backfill_ends_before_the_function_and_the_next_look_back(
    world: World, later: float, left: float, ended: str
) -> None:
    def seconds() -> float:
        world.clock.now += later
        return left

    world.control.write("encoding-videos", {"listed_at": world.clock()}, 0)
    run = Run(world.service, seconds, map, period=60.0)
    assert run.reconcile(48 * HOUR, world.clock())["ended"] == ended


def test_a_failed_check_of_encoding_videos_stops_no_backfill(world: World) -> None:
    start = world.clock()
    (uid,) = upload(world, 1, apart=72 * HOUR)
    world.simulator.faults.script(Fault.SERVER_ERROR, calls=["list videos"], skip=1)
    answer = reconcile(world, start)
    assert videos_with_rows(world) == {uid}
    assert "The check of encoding videos stopped" in answer["ended"]


def test_slow_answers_about_encoding_videos_leave_time_for_the_backfill(world: World) -> None:
    reconcile(world)
    uids = upload(world, 3, apart=1, encode_seconds=49.5 * HOUR)
    reconcile_hourly(world, 49)
    world.clock.now += HOUR
    seconds = chain([600.0, 240.0], repeat(239.9))
    first = reconcile(world, world.clock() - 60, seconds=seconds)
    assert first["backfill"] is None
    assert "time was over" in first["ended"]
    assert (
        len(world.control.read("encoding-videos").value["first_seen"]) == 2
    )  # those not looked up
    assert len(videos_with_rows(world)) == 1
    assert reconcile(world)["ended"] == "done"
    assert videos_with_rows(world) == set(uids)


@pytest.mark.parametrize(
    ("lost", "ended"),
    [
        (True, "Another run has taken over"),
        (False, "stopped and goes on later: The next look-back"),
    ],
)
def test_the_check_of_encoding_videos_ends_with_its_lease_or_period(
    world: World, ended: str, *, lost: bool
) -> None:
    reconcile(world)
    upload(world, 1, apart=1, encode_seconds=49.5 * HOUR)
    reconcile_hourly(world, 49)
    world.clock.now += HOUR

    def seconds() -> Iterator[float]:
        yield 600.0  # the look-back
        world.clock.now += 121.0 if lost else HOUR
        if lost:
            assert Lease(world.control, "reconcile-lease", "another", 120.0).hold()
        yield from repeat(600.0)

    assert ended in reconcile(world, seconds=seconds())["ended"]
    assert world.simulator.counts()["get video"] == 0


def test_a_video_that_never_becomes_ready_is_given_up_after_30_days(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uids = upload(world, 2, apart=1, encode_seconds=HOUR)
    reconcile(world)
    monkeypatch.setattr(Video, "state", lambda *_: "queued")
    began = world.clock()
    for day in range(1, 31):
        world.clock.now = began + day * 24 * HOUR
        reconcile(world)
    assert world.simulator.counts()["get video"] == 2 * 30
    assert world.control.read("encoding-videos").value["first_seen"] == {}
    assert {getattr(line, "video_uid", None) for line in caplog.records} >= set(uids)
    assert "not ready for 30 days" in caplog.text


def test_a_bounded_number_of_encoding_videos_is_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconcile_service, "ENCODING_AT_MOST", 2)
    upload(world, 2, apart=1, encode_seconds=9 * HOUR)
    reconcile(world)
    assert "More videos are encoding" not in caplog.text
    upload(world, 1, apart=HOUR, encode_seconds=9 * HOUR)
    reconcile(world)
    assert len(world.control.read("encoding-videos").value["first_seen"]) == 2
    assert "More videos are encoding" in caplog.text


@pytest.mark.parametrize("error", [Unreadable("not a download"), LostRace("it is gone again")])
def test_a_row_that_cannot_be_recorded_blocks_no_other(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    uids = upload(world, 3, apart=60)
    add = world.downloads.add

    def add_or_not(row: Download) -> Download | None:
        if row.video_uid == uids[1]:
            raise error
        return add(row)

    monkeypatch.setattr(world.downloads, "add", add_or_not)
    answer = reconcile(world)
    assert answer["ended"] == "done"
    assert answer["videos_requested"] == 2
    assert videos_with_rows(world) == {uids[0], uids[2]}
    assert [getattr(line, "video_uid", None) for line in caplog.records] == [uids[1]]


def test_a_long_encoded_video_whose_webhook_came_costs_no_request(world: World) -> None:
    reconcile(world)
    world.simulator.upload(encode_seconds=4.4 * HOUR)
    reconcile_hourly(world, 7, each_hour=world.deliver_webhooks)
    assert len(videos_with_rows(world)) == 1
    assert world.simulator.counts()["get video"] == 0


def test_a_row_that_is_deleted_from_the_table_is_back_within_a_day(world: World) -> None:
    (uid,) = upload(world, 1, apart=1)
    known = Known()
    reconcile_hourly(world, 5, known=known)
    del world.downloads.rows[uid, DownloadType.DEFAULT]
    reconcile_hourly(world, 24, known=known)
    assert videos_with_rows(world) == {uid}


def test_only_a_look_back_that_finds_a_video_starts_a_run_of_the_poller() -> None:
    world = World(wakes=55.0)
    upload(world, 1, apart=72 * HOUR)
    for since, found, starts in [(0.0, 0, 0), (None, 1, 1), (None, 0, 1)]:
        upload(world, found, apart=60)
        reconcile(world, since)
        assert len(world._woken) == starts
        world.clock.now += 60


def test_a_backfill_reads_the_rows_that_a_warm_process_knows(world: World) -> None:
    (uid,) = upload(world, 1, apart=1)
    known = Known()
    for _ in range(2):  # the first look-back is whole
        reconcile(world, known=known)
    del world.downloads.rows[uid, DownloadType.DEFAULT]
    reconcile(world, known=known)
    assert videos_with_rows(world) == set()
    reconcile(world, world.clock() - HOUR, known=known)
    assert videos_with_rows(world) == {uid}


def test_a_backfill_begins_although_another_caller_writes_its_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, results = world.control.write, [False]

    def lose_once(name: str, value: Any, version: int) -> bool:
        return (
            results.pop() if name == "reconcile-cursor" and results else write(name, value, version)
        )

    monkeypatch.setattr(world.control, "write", lose_once)
    (uid,) = upload(world, 1, apart=72 * HOUR)
    reconcile(world, world.clock() - 73 * HOUR)
    assert videos_with_rows(world) == {uid}


def test_a_cold_process_reads_an_item_for_under_three_units(
    world: World,
) -> None:
    uids: list[str] = []
    reconcile(world)
    reconcile_hourly(world, 120, each_hour=lambda: uids.extend(upload(world, 1, apart=0)))
    complete = uids[:-50]  # these are out of reach now
    units = [0.5 * world.downloads.looked_up[uid] for uid in complete]
    assert fmean(units) < 3.0


def test_a_warm_process_forgets_the_oldest_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_service, "KNOWN_AT_MOST", 2)
    known = Known()
    for uid in "abc":
        known.add({(uid, DownloadType.DEFAULT)})
    assert [uid for uid in "abc" if (uid, DownloadType.DEFAULT) in known] == ["b", "c"]


def test_without_allowance_the_backfill_waits_for_the_next_run(world: World) -> None:
    start, _ = upload_before_the_look_back(world, 10)
    world.simulator.faults.script(Fault.THROTTLED, calls=["list videos"])
    answer = reconcile(world, start)
    assert answer["backfill"] is not None
    again = reconcile(world)
    assert "rate limit was reached" in again["ended"]
    world.clock.now += 20 * 60
    assert reconcile(world)["ended"] == "done"
    assert len(videos_with_rows(world)) == 10


def test_two_runs_at_once_do_the_work_once(world: World) -> None:
    upload(world, 3, apart=60)
    other = Lease(world.control, "reconcile-lease", "another", 120.0)
    assert other.hold()
    assert "another run is at work" in reconcile(world)["ended"]
    assert world.simulator.counts()["list videos"] == 0
    other.release()
    assert reconcile(world)["videos_requested"] == 3


def test_a_run_that_lost_its_lease_ends_and_moves_no_cursor(world: World) -> None:
    start, _ = upload_before_the_look_back(world, 2 * PAGE)
    other = Lease(world.control, "reconcile-lease", "another", 120.0)

    def lose_the_lease() -> Iterator[float]:
        yield 600.0  # the look-back
        world.clock.now += 121
        assert other.hold()
        yield from repeat(600.0)

    answer = reconcile(world, start, seconds=lose_the_lease())
    assert "Another run has taken over" in answer["ended"]
    assert answer["backfill"]["reached"] < answer["backfill"]["since"]
    assert world.simulator.counts()["list videos"] == 3  # look-back, encoding, backfill
