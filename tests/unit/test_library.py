"""Test how the library is paged through, and where each look-back begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from stream_downloads.domain.library import LookBack, NoTimes, Reach, Walk
from stream_downloads.domain.video import Video, VideoPage
from tests.support.rows import NOW

HOUR = 3600.0
LOOKBACK = 48 * HOUR


def page(times: Sequence[float | None], listed: int | None = None) -> VideoPage:
    """Return a page of videos created at those times, each named by its place."""
    videos = [Video(f"{place:032x}", created_at=time) for place, time in enumerate(times)]
    return VideoPage(videos, len(times) if listed is None else listed)


def full(latest: float, seconds: float = 100.0) -> VideoPage:
    """Return a full page of videos created in so many seconds."""
    return page([latest - seconds + seconds * place / 999 for place in range(1000)])


@pytest.mark.parametrize(("listed", "done"), [(999, True), (1000, False)])
def test_a_page_that_is_not_full_is_the_last(listed: int, *, done: bool) -> None:
    walk = Walk(NOW)
    assert len(walk.take(page([NOW + 5.0, NOW + 60.0], listed))) == 2
    assert walk.done is done
    assert walk.start == NOW + 59.0, "where the next look-back can go on"
    assert walk.seen == {f"{1:032x}"}


@pytest.mark.parametrize("times", [[], [None], [NOW - 60.0], [NOW]])
def test_a_last_page_without_newer_videos_leaves_the_start(times: list[float | None]) -> None:
    walk = Walk(NOW)
    walk.take(page(times))
    assert walk.start == NOW
    assert walk.done


def test_a_full_page_without_times_cannot_be_passed() -> None:
    with pytest.raises(NoTimes, match="1000 videos from 2027-01-15T08:00:00"):
        Walk(NOW).take(page([None] * 1000))


def test_the_videos_that_the_next_page_may_repeat_are_dropped_once_past() -> None:
    walk = Walk(NOW - 200.0)
    assert len(walk.take(full(NOW))) == 1000
    assert walk.start == NOW - 1.0
    assert len(walk.seen) == 10, "those of the last second"
    assert walk.take(page([None], 1)) == [Video(f"{0:032x}")], "one of before is not known"


def test_a_full_page_within_a_second_is_passed_without_an_overlap_then_by_an_instant() -> None:
    walk = Walk(NOW)
    for start, skipped, new in [(NOW, [], 1000), (NOW + 0.5, [], 0), (NOW + 0.501, [NOW + 0.5], 0)]:
        assert len(walk.take(full(NOW + 0.5, seconds=0.0))) == new
        assert walk.start == pytest.approx(start, abs=1e-4)
        assert walk.skipped == skipped
        assert not walk.done


@pytest.mark.parametrize(
    ("time", "instant"), [(0.9996, 0.999), (0.0019999999, 0.002), (1.0019996, 1.002)]
)
def test_the_next_page_starts_at_a_whole_millisecond(time: float, instant: float) -> None:
    walk = Walk(0.0)
    walk.take(page([time + 1.0]))
    assert walk.start == instant


def test_the_newest_videos_bound_the_next_look_back() -> None:
    walk = Walk(NOW - 200.0)
    walk.take(page([*(NOW - number for number in range(99)), None, *([NOW - 100.0] * 400)]))
    look_back = LookBack(NOW, NOW - HOUR, Reach.RECENT)
    assert look_back.after(walk).recent_from is None, "499 have a time"
    walk.seen.clear()
    walk.newest.clear()
    walk.take(page([NOW, NOW - 150.0, NOW - 60.0, *([NOW - 50.0] * 498)]))
    assert look_back.after(walk).recent_from == NOW - 61.0


KEPT: dict[str, Any] = {"completed_at": NOW - 60.0, "hours_at": NOW - 600.0, "whole_at": NOW - HOUR}


@pytest.mark.parametrize(
    ("changes", "reach", "start"),
    [
        ({"completed_at": None}, Reach.WHOLE, NOW - LOOKBACK),
        ({"whole_at": None}, Reach.WHOLE, NOW - LOOKBACK),
        ({"whole_at": NOW - 24 * HOUR + 600.0}, Reach.WHOLE, NOW - LOOKBACK),
        ({"whole_at": NOW - 24 * HOUR + 601.0}, Reach.RECENT, NOW - 60.0 - 3 * HOUR),
        ({"hours_at": None}, Reach.HOURS, NOW - LOOKBACK),
        ({"hours_at": NOW - 3000.0}, Reach.HOURS, NOW - 3000.0 - 3 * HOUR),
        ({"hours_at": NOW - 2999.0}, Reach.RECENT, NOW - 60.0 - 3 * HOUR),
        ({"hours_at": NOW - 47 * HOUR}, Reach.HOURS, NOW - LOOKBACK),
        ({"recent_from": NOW - 500.0}, Reach.RECENT, NOW - 500.0),
        ({"recent_from": NOW - 4 * HOUR}, Reach.RECENT, NOW - 60.0 - 3 * HOUR),
    ],
)
def test_a_look_back_reaches_as_far_as_the_last_ones_left_it(
    changes: dict[str, Any], reach: Reach, start: float
) -> None:
    look_back = LookBack.following(KEPT | changes, NOW, LOOKBACK)
    assert look_back.reach is reach
    assert look_back.start == start
    assert look_back.began_at == NOW


@pytest.mark.parametrize("reach", Reach)
def test_a_look_back_that_ended_is_noted_and_an_interrupted_one_goes_on(reach: Reach) -> None:
    look_back = LookBack(NOW, NOW - HOUR, reach, **KEPT)
    interrupted = look_back.after(Walk(NOW - 1800.0)).as_value()
    kept = {"began_at": NOW, "start": NOW - 1800.0, "reach": reach}
    assert interrupted == KEPT | {"recent_from": None, "interrupted": kept}
    going_on = LookBack(NOW, NOW - 1800.0, reach, **KEPT)
    assert LookBack.following(interrupted, NOW + 60.0, LOOKBACK) == going_on
    assert look_back.after(Walk(NOW, done=True)).as_value() == {
        "completed_at": NOW,
        "hours_at": KEPT["hours_at"] if reach is Reach.RECENT else NOW,
        "whole_at": NOW if reach is Reach.WHOLE else KEPT["whole_at"],
        "recent_from": None,
        "interrupted": None,
    }
