"""When to poll next, and in which order: properties that hold however it is tuned."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from stream_downloads.domain import transitions
from stream_downloads.domain.download import Creation, Download, DownloadType, Lane
from stream_downloads.domain.polling import (
    LOOK_AFTER_AT_LEAST,
    LOOK_AFTER_AT_MOST,
    LOOK_AFTER_AT_MOST_EVER,
    Pace,
    Sample,
    first_sample,
    next_poll,
    plan,
    retry_delay,
)
from tests.support.rows import AUDIO, DEFAULT, NOW, deleting, due, in_progress, requested

IGNORANT = Pace.of({})
HOUR = 3600.0


def pace_of(median: float, sigma: float = 0.5, looks_at: float = 1.0, seed: int = 0) -> Pace:
    """The pace learned from first looks, at about that part of the median, at many downloads."""
    chance = Random(seed)  # noqa: S311
    found = []
    for _ in range(96):
        seconds = chance.lognormvariate(math.log(median), sigma)
        age = median * looks_at * chance.uniform(0.5, 1.5)
        percent = min(100.0, 100 * age / seconds)
        sample = first_sample(in_progress(), percent, NOW + age)
        assert sample is not None
        found.append((DEFAULT, sample))
    return IGNORANT.with_samples(found)


def polled(at: float, percent: float) -> Download:
    """Return a download that was accepted at ``NOW`` and last polled then, with that answer."""
    return in_progress(creation=Creation(NOW, NOW, polled_at=at), percent_complete=percent)


def looks_at(
    progress: Callable[[float], float | None], seconds: float, pace: Pace = IGNORANT
) -> list[float]:
    """When a download is looked at while that many seconds pass, and reports that progress."""
    row = in_progress()
    at = next_poll(row, 0.0, pace, NOW)
    looks = []
    while at - NOW < seconds:
        looks.append(at - NOW)
        percent = progress(at - NOW)
        following = next_poll(row, percent, pace, at)
        row = transitions.listed_in_progress(row, percent, following, at)
        at = following
    return looks


# --- When to look


@pytest.mark.parametrize(
    "pace", [IGNORANT, *(pace_of(median) for median in (1, 10, 90, 600, 9000))]
)
def test_a_first_look_comes_neither_at_once_nor_late(pace: Pace) -> None:
    wait = next_poll(in_progress(), 0.0, pace, NOW) - NOW
    assert LOOK_AFTER_AT_LEAST <= wait <= LOOK_AFTER_AT_MOST


def test_a_first_look_comes_later_where_downloads_take_longer() -> None:
    waits = [next_poll(in_progress(), 0.0, pace_of(median), NOW) for median in (5, 20, 80, 320)]
    assert all(sooner < later for sooner, later in pairwise(waits))


def test_a_row_whose_create_was_never_confirmed_is_looked_at_as_a_new_one() -> None:
    assert next_poll(requested(), None, IGNORANT, NOW) == next_poll(
        in_progress(), None, IGNORANT, NOW
    )


@pytest.mark.parametrize("seconds", [40, 90, 300, 1200])
def test_a_percentage_aims_the_next_poll_at_the_end(seconds: float) -> None:
    age = seconds / 2
    aimed = next_poll(in_progress(), 50.0, IGNORANT, NOW + age) - NOW
    assert aimed - age <= LOOK_AFTER_AT_MOST
    assert min(0.7 * seconds, age + LOOK_AFTER_AT_MOST) <= aimed <= 1.6 * seconds


def test_the_closer_to_the_end_the_sooner_is_the_next_poll() -> None:
    waits = [next_poll(in_progress(), done, IGNORANT, NOW + 200) for done in (10, 30, 60, 90)]
    assert all(later >= sooner for later, sooner in pairwise(waits))


@pytest.mark.parametrize("percent", [None, 0.0, 1.0, 50.0, 99.9, 100.0])
@pytest.mark.parametrize("age", [-300.0, 0.0, 1.0, 60.0, HOUR, 23 * HOUR])
@pytest.mark.parametrize("looked", [False, True])
def test_a_look_is_never_at_once_and_never_far_off(
    percent: float | None, age: float, *, looked: bool
) -> None:
    row = polled(NOW + age / 2, 10.0) if looked else in_progress()
    wait = next_poll(row, percent, IGNORANT, NOW + age) - (NOW + age)
    assert LOOK_AFTER_AT_LEAST <= wait <= LOOK_AFTER_AT_MOST_EVER


PROGRESS: dict[str, Callable[[float], float | None]] = {
    "stays at 0": lambda _: 0.0,
    "is never told": lambda _: None,
    "stalls at 90": lambda age: min(90.0, age),
    "stalls at 100": lambda age: min(100.0, age),
    "jumps": lambda age: 25.0 * (age // 900),
    "goes back and forth": lambda age: 80.0 if age // 60 % 2 else 20.0,
    "falls": lambda age: max(1.0, 99.0 - age / 30),
    "creeps": lambda age: age / HOUR,
}


@pytest.mark.parametrize("kind", PROGRESS)
@pytest.mark.parametrize("median", [None, 5.0, 90.0, 900.0])
def test_odd_progress_leads_neither_to_a_storm_nor_to_a_long_silence(
    kind: str, median: float | None
) -> None:
    pace = IGNORANT if median is None else pace_of(median)
    looks = looks_at(PROGRESS[kind], 4 * HOUR, pace)
    assert max(later - sooner for sooner, later in pairwise([0, *looks])) <= LOOK_AFTER_AT_MOST_EVER
    in_the_first_hour = sum(look < HOUR for look in looks)
    assert in_the_first_hour <= 120
    # The longer it lasts, the seldomer.
    assert sum(look >= 3 * HOUR for look in looks) <= max(12, in_the_first_hour / 2)


@pytest.mark.parametrize("seconds", [20, 90, 300, 1500])
def test_an_even_download_is_seen_soon_with_few_looks(seconds: float) -> None:
    pace = pace_of(90, 1.0)
    looks = looks_at(lambda age: min(99.9, 100 * age / seconds), 2 * seconds, pace)
    until_ready = [look for look in looks if look < seconds]
    ready_seen = next(look for look in looks if look >= seconds)
    assert ready_seen - seconds <= max(45.0, 0.35 * seconds)
    assert len(until_ready) <= 12


# --- What to do first


def poll(number: int = 1, **changes: Any) -> Download:
    return due(in_progress(f"{number:032x}", **changes), NOW)


def test_every_due_row_is_planned_once() -> None:
    rows = [poll(), poll(2), deleting(), requested()]
    rows += [replace(row, lane=Lane.BACKFILL, download_type=AUDIO) for row in rows]
    assert sorted(map(repr, plan(rows))) == sorted(map(repr, rows))


@pytest.mark.parametrize("urgent", [poll(), requested(), deleting()], ids=lambda row: row.step)
def test_live_rows_go_before_those_of_a_backfill(urgent: Download) -> None:
    rows = [poll(lane=Lane.BACKFILL), due(requested(lane=Lane.BACKFILL), NOW - HOUR), urgent]
    assert plan(rows)[0] is urgent


def test_creates_and_polls_take_turns_the_oldest_of_each_first() -> None:
    creates = [due(requested(f"{late:032x}"), NOW - late) for late in (1, 3, 2)]
    polls = [due(poll(late), NOW - late) for late in (10, 30, 20)]
    assert plan([*creates, *polls]) == [
        *[creates[1], creates[2], polls[1]],
        *[creates[0], polls[2]],
        polls[0],
    ]


# --- The pace


@pytest.mark.parametrize("median", [3.0, 20.0, 90.0, 600.0, 5000.0])
@pytest.mark.parametrize("looks_at_part", [0.3, 1.0])
def test_the_pace_follows_what_is_found_whatever_the_median(
    median: float, looks_at_part: float
) -> None:
    learned = pace_of(median, looks_at=looks_at_part).durations[DEFAULT]
    assert 0.45 * median <= math.exp(learned.mean) <= 1.7 * median


@pytest.mark.parametrize("ready_by", [5.0, 1000.0])
def test_one_sample_moves_the_pace_toward_it_but_not_all_the_way(ready_by: float) -> None:
    sample = Sample(0.9 * ready_by, ready_by)
    before = IGNORANT.durations[DEFAULT].mean
    after = IGNORANT.with_samples([(DEFAULT, sample)]).durations[DEFAULT].mean
    assert abs(after - math.log(ready_by)) < abs(before - math.log(ready_by))
    assert abs(after - math.log(ready_by)) > 0.5 * abs(before - math.log(ready_by))


def test_each_type_has_a_pace_of_its_own() -> None:
    learned = IGNORANT.with_samples([(AUDIO, Sample(0.0, 2.0))] * 50)
    assert learned.durations[AUDIO].mean < learned.durations[DEFAULT].mean
    assert learned.durations[DEFAULT] == IGNORANT.durations[DEFAULT]


def test_a_pace_follows_a_change() -> None:
    slow = pace_of(600).samples[DEFAULT]
    learned = Pace.of({DEFAULT: [*slow, *pace_of(20).samples[DEFAULT]]})
    assert math.exp(learned.durations[DEFAULT].mean) < 60


@pytest.mark.parametrize(
    "samples",
    [
        [Sample(0.0, 0.0)],
        [Sample(1e9, math.inf)] * 20,
        [Sample(0.0, 1.0)] * 96,
        [Sample(100.0, 100.0)] * 96,
        [Sample(200.0, 100.0)],
        [Sample(0.0, 1.0), Sample(1e6, math.inf)] * 40,
    ],
)
def test_no_sample_leads_to_nonsense(samples: list[Sample]) -> None:
    learned = Pace.of({DEFAULT: samples}).durations[DEFAULT]
    assert math.isfinite(learned.mean)
    assert 0 < learned.stdev < 100


def test_a_pace_is_kept_from_run_to_run_and_does_not_grow() -> None:
    learned = pace_of(90).with_samples([(AUDIO, Sample(10.0, math.inf))] * 500)
    value = learned.as_value()
    assert len(json.dumps(value)) < 10_000
    again = Pace.parse(json.loads(json.dumps(value)))
    for kind in DownloadType:
        assert again.durations[kind].mean == pytest.approx(learned.durations[kind].mean, abs=0.01)
        assert len(again.samples[kind]) == len(learned.samples[kind])
    assert again.as_value() == value


def test_a_pace_that_was_never_written_is_the_first_guess() -> None:
    assert Pace.parse({}).durations == IGNORANT.durations


@pytest.mark.parametrize(
    ("percent", "sample"),
    [
        (100.0, Sample(0.0, 60.0)),
        (0.0, Sample(60.0, math.inf)),
        (None, Sample(60.0, math.inf)),
    ],
)
def test_a_first_look_tells_between_what_the_duration_lies(
    percent: float | None, sample: Sample
) -> None:
    assert first_sample(in_progress(), percent, NOW + 60) == sample


def test_a_percentage_narrows_it_down() -> None:
    sample = first_sample(in_progress(), 50.0, NOW + 60)
    assert sample is not None
    assert 60 < sample.longer_than < 120 < sample.at_most < 180


@pytest.mark.parametrize(
    "row",
    [requested(), polled(NOW, 0.0), in_progress(recreations=1)],
    ids=["no create known", "polled before", "created again"],
)
def test_only_the_first_look_at_an_ordinary_download_teaches(row: Download) -> None:
    assert first_sample(row, 100.0, NOW + 60) is None


# --- Retries


@pytest.mark.parametrize(
    ("attempts", "at_most"),
    [(0, 30), (1, 60), (2, 120), (4, 480), (5, 900), (50, 900), (10**6, 900)],
)
def test_a_retry_comes_within_half_a_minute_then_later_up_to_a_quarter_of_an_hour(
    attempts: int, at_most: float
) -> None:
    assert retry_delay(attempts, lambda: 0.0) == 0.0
    assert retry_delay(attempts, lambda: 0.5) == at_most / 2
    assert retry_delay(attempts, lambda: 1.0) == at_most


def test_progress_that_slows_down_is_not_asked_for_more_often() -> None:
    half, most = (polled(NOW + 100, percent) for percent in (47.0, 95.0))
    assert next_poll(half, 95.5, IGNORANT, NOW + 200) - (NOW + 200) < 100
    assert next_poll(most, 95.5, IGNORANT, NOW + 200) - (NOW + 200) >= 100
