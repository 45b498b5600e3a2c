"""Test when to poll next, and in which order: properties that hold however it is tuned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_downloads.domain import transitions
from stream_downloads.domain.download import Creation, Download, Lane, Report, Step
from stream_downloads.domain.pace import Pace
from stream_downloads.domain.polling import (
    AT_LEAST_OF_AGE,
    AT_MOST_OF_AGE,
    CHEAPEST,
    DEAREST,
    IDLE_UP_TO,
    POLL_AFTER_AT_LEAST,
    POLL_AFTER_AT_MOST,
    POLL_AFTER_AT_MOST_EVER,
    believe,
    next_poll,
    plan,
    price,
    retry_delay,
)
from tests.support.paces import IGNORANT, pace_of
from tests.support.rows import AUDIO, NOW, deleting, due, in_progress, requested

HOUR = 3600.0
PRICES = (CHEAPEST, 13.0, DEAREST)
PACES = (IGNORANT, *(pace_of(median) for median in (1, 10, 90, 600, 9000)))
AGES = st.floats(0.0, 24 * HOUR)
PERCENTAGES = st.sampled_from([0.0, 3.4, 3.6, 50.0, 99.9, 100.0]) | st.floats(0.0, 100.0)


def polled(at: float, percent: float) -> Download:
    """Return a download that was accepted at ``NOW`` and last polled then, with that answer."""
    creation = Creation(NOW, NOW, polled_at=at, earlier=Report(at, percent))
    return in_progress(creation=creation, percent_complete=percent)


def polls_at(
    progress: Callable[[float], float | None],
    seconds: float,
    pace: Pace = IGNORANT,
    poll_price: float = 13.0,
) -> list[float]:
    """Return when a download is polled in that many seconds, while it reports that progress."""
    row = in_progress()
    at = next_poll(row, 0.0, pace, poll_price, NOW)
    polls = []
    while at - NOW < seconds:
        polls.append(at - NOW)
        percent = progress(at - NOW)
        following = next_poll(row, percent, pace, poll_price, at)
        row = transitions.listed_in_progress(row, percent, following, at)
        at = following
    return polls


# --- The price


def test_a_poll_is_cheap_while_the_limit_is_idle_and_dear_when_it_is_used_up() -> None:
    assert price(0.0) == price(IDLE_UP_TO) == CHEAPEST
    assert price(1.0) == price(1.5) == pytest.approx(DEAREST)
    prices = [price(IDLE_UP_TO + 0.1 * step) for step in range(6)]
    factors = [dearer / cheaper for cheaper, dearer in pairwise(prices)]
    assert factors == pytest.approx([factors[0]] * 5)
    assert factors[0] > 1
    known = [price(load) for load in (0.5, 0.75, 1.0)]
    assert known == pytest.approx([0.42, 5.797, 80.0], rel=1e-3)


def test_a_poll_once_a_minute_has_a_price_floor() -> None:
    assert price(0.0, window=0.0) == 8.0
    assert price(1.0, window=0.0) == price(1.0, window=50.0)


# --- When to poll


@pytest.mark.no_cover
@given(
    age=AGES,
    percent=st.none() | PERCENTAGES,
    earlier=st.none() | st.tuples(st.floats(0.0, 1.0), PERCENTAGES),
    pace=st.sampled_from(PACES),
    poll_price=st.floats(CHEAPEST, DEAREST),
)
def test_a_poll_comes_within_its_bounds_whatever_was_reported(
    age: float,
    percent: float | None,
    earlier: tuple[float, float] | None,
    pace: Pace,
    poll_price: float,
) -> None:
    row = polled(NOW + age * earlier[0], earlier[1]) if earlier else in_progress()
    wait = next_poll(row, percent, pace, poll_price, NOW + age) - (NOW + age)
    at_least = min(POLL_AFTER_AT_MOST_EVER, max(POLL_AFTER_AT_LEAST, AT_LEAST_OF_AGE * age))
    at_most = min(POLL_AFTER_AT_MOST_EVER, max(POLL_AFTER_AT_MOST, AT_MOST_OF_AGE * age))
    assert at_least - 0.001 <= wait <= at_most + 0.001


@pytest.mark.parametrize("age", [-300.0, 0.0, 1e-300, 25 * HOUR, 1e9])
@pytest.mark.parametrize("percent", [-50.0, 150.0, 1e9])
@pytest.mark.parametrize("earlier", [-50.0, 50.0, 1e9])
def test_nonsense_leads_to_an_ordinary_poll(age: float, percent: float, earlier: float) -> None:
    at = next_poll(polled(NOW + age / 2, earlier), percent, IGNORANT, 13.0, NOW + age)
    assert at - (NOW + age) >= POLL_AFTER_AT_LEAST or age > HOUR
    assert math.isfinite(at)


@pytest.mark.no_cover
@given(age=st.floats(0.1, 24 * HOUR), reports=st.lists(PERCENTAGES, max_size=2))
@pytest.mark.parametrize("pace", [NormalDist(4.1, 1.2), NormalDist(0.0, 0.15)])
def test_a_belief_is_a_distribution_over_what_is_still_to_come(
    pace: NormalDist, age: float, reports: list[float]
) -> None:
    ages = [age, age / 1.4][: len(reports)]
    belief = believe(pace, age, list(zip(reversed(ages), reports, strict=True)))
    assert sum(belief.weights) == pytest.approx(1.0)
    assert min(belief.weights) >= 0
    assert min(belief.ages) >= age * 0.999
    assert list(belief.ages) == sorted(belief.ages)
    assert 0 <= belief.meaningless <= 1


@pytest.mark.no_cover
@given(age=st.floats(0.0, HOUR), percent=PERCENTAGES, pace=st.sampled_from(PACES))
def test_a_dearer_poll_is_never_sent_sooner(age: float, percent: float, pace: Pace) -> None:
    polls = [next_poll(in_progress(), percent, pace, each, NOW + age) for each in PRICES]
    # A step of the belief's grid is a few percent of the age.
    assert all(dear >= cheap - 0.1 * (cheap - NOW) for cheap, dear in pairwise(polls))


@pytest.mark.parametrize("poll_price", PRICES)
def test_a_first_poll_comes_later_where_downloads_take_longer(poll_price: float) -> None:
    waits = [
        next_poll(in_progress(), 0.0, pace_of(median), poll_price, NOW)
        for median in (5, 20, 80, 320)
    ]
    assert all(sooner < later for sooner, later in pairwise(waits))


def test_a_row_whose_create_was_never_confirmed_is_polled_as_a_new_one() -> None:
    unconfirmed = next_poll(requested(), None, IGNORANT, 13.0, NOW)
    assert unconfirmed == next_poll(in_progress(), None, IGNORANT, 13.0, NOW)


def test_a_longer_video_is_polled_later_where_its_duration_says_something() -> None:
    fits = {kind: replace(fit, slope=1.0, usual=5.0) for kind, fit in IGNORANT.fits.items()}
    pace = Pace(IGNORANT.samples, fits)
    short, long = (
        next_poll(in_progress(duration_seconds=seconds), 0.0, pace, 13.0, NOW)
        for seconds in (20.0, 2000.0)
    )
    assert short < long


@pytest.mark.parametrize("poll_price", PRICES)
@pytest.mark.parametrize("seconds", [40, 90, 300, 1200])
def test_a_percentage_aims_the_next_poll_at_the_end(seconds: float, poll_price: float) -> None:
    age = seconds / 2
    aimed = next_poll(in_progress(), 50.0, IGNORANT, poll_price, NOW + age) - NOW
    assert min(0.6 * seconds, age + 45) <= aimed <= 1.3 * seconds


def test_the_time_in_the_queue_does_not_count_as_slowness() -> None:
    """Learn from two reports whether 4 % after 20 s began 18 s ago or 4 s ago."""
    late = next_poll(polled(NOW + 20, 4.0), 20.0, IGNORANT, 13.0, NOW + 26) - NOW
    assert late < 80, "20 + 96 % at 16 points in 6 s are 56 s; by age alone 130 s"


def test_the_closer_to_the_end_the_sooner_is_the_next_poll() -> None:
    waits = [next_poll(in_progress(), done, IGNORANT, 13.0, NOW + 200) for done in (10, 30, 60, 90)]
    assert all(later >= sooner for later, sooner in pairwise(waits))


PROGRESS: dict[str, Callable[[float], float | None]] = {
    "stays at 0": lambda _: 0.0,
    "is never told": lambda _: None,
    "stalls at 90": lambda age: min(90.0, age),
    "stalls at 99.9": lambda age: min(99.9, age),
    "stalls at 100": lambda age: min(100.0, age),
    "jumps": lambda age: 25.0 * (age // 900),
    "goes back and forth": lambda age: 80.0 if age // 60 % 2 else 20.0,
    "falls": lambda age: max(1.0, 99.0 - age / 30),
    "creeps": lambda age: age / HOUR,
    "is even": lambda age: min(100.0, age / 3),
}


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", PROGRESS)
@pytest.mark.parametrize("pace", PACES[::2])
@pytest.mark.parametrize("poll_price", PRICES)
def test_odd_progress_leads_neither_to_a_storm_nor_to_a_long_silence(
    kind: str, pace: Pace, poll_price: float
) -> None:
    polls = polls_at(PROGRESS[kind], 4 * HOUR, pace, poll_price)
    assert max(later - sooner for sooner, later in pairwise([0, *polls])) <= POLL_AFTER_AT_MOST_EVER
    in_the_first_hour = sum(poll < HOUR for poll in polls)
    assert in_the_first_hour <= 240
    # The longer it lasts, the fewer polls.
    assert sum(poll >= 3 * HOUR for poll in polls) <= max(16, in_the_first_hour / 2)


@pytest.mark.parametrize("seconds", [200, 300, 400, 600])
def test_progress_that_falls_back_is_trusted_once_at_most(seconds: float) -> None:
    """At 60 % it falls to 20 %: until ready, the old speed leads to one long pause, not to two."""

    def progress(age: float) -> float:
        percent = 100 * age / seconds
        return percent if percent < 60 else percent - 40

    polls = polls_at(progress, seconds + 60, pace_of(90, 1.0), CHEAPEST)
    pauses = [later - sooner for sooner, later in pairwise(polls) if sooner >= 0.6 * seconds]
    assert sum(pause > 30 for pause in pauses) <= 1


@pytest.mark.parametrize("seconds", [20, 90, 300, 1500])
def test_an_even_download_is_seen_soon_with_few_polls(seconds: float) -> None:
    pace = pace_of(90, 1.0)
    polls = polls_at(lambda age: min(99.9, 100 * age / seconds), 2 * seconds + 60, pace)
    until_ready = [poll for poll in polls if poll < seconds]
    ready_seen = next(poll for poll in polls if poll >= seconds)
    assert ready_seen - seconds <= max(45.0, 0.1 * seconds)
    assert len(until_ready) <= 8


@pytest.mark.parametrize(
    ("kind", "poll_price", "polls"),
    [
        ("is even", 0.42, [19.7, 53.2, 123.2, 193.2, 263.2, 294.2]),
        ("is even", 13.0, [39.6, 174.4]),
        ("is even", 80.0, [65.9, 299.8]),
        ("stays at 0", 0.42, [19.7, 27.1, 34.7, 42.6, 50.8, 59.5, 68.5, 78.1, 88.1, 98.7, 107.1]),
        ("stays at 0", 80.0, [65.9, 164.6, 291.6, 442.8, 612.4, 807.3, 1025.9, 1265.8]),
        ("falls", 13.0, [39.6, 41.8, 43.8, 85.6, 134.0]),
        ("stalls at 90", 0.42, [19.7, 47.8, 93.4, 102.2, 112.2, 121.3, 130.6, 140.3, 150.3]),
        ("goes back and forth", 5.1, [32.2, 93.9, 117.4, 152.2, 187.6, 227.1, 266.2, 309.0, 355.9]),
    ],
)
def test_the_polls_of_typical_downloads_are_as_tuned(
    kind: str, poll_price: float, polls: list[float]
) -> None:
    """Show a change of the rule or of its constants: `make bench` tells if it is better."""
    sent = polls_at(PROGRESS[kind], polls[-1] + 1, IGNORANT, poll_price)
    assert sent == pytest.approx(polls, abs=0.1)


@pytest.mark.parametrize(
    ("poll_price", "polls"),
    [
        (0.42, [43.5, 29.3, 69.2, 109.9, 370.0, 3075.6, 9180.0, 90_900.0]),
        (13.0, [64.7, 34.4, 105.0, 120.8, 532.7, 3200.6, 9414.4, 90_900.0]),
        (80.0, [96.1, 36.0, 146.8, 124.3, 540.0, 3372.5, 9742.5, 90_900.0]),
    ],
)
def test_the_polls_after_two_reports_are_as_tuned(poll_price: float, polls: list[float]) -> None:
    reports = [(5, 5), (10, 30), (60, 3.6), (60, 50), (300, 50), (3000, 90), (9000, 10)]
    at = [
        next_poll(polled(NOW + age / 2, percent / 2.1), percent, PACES[3], poll_price, NOW + age)
        for age, percent in [*reports, (90_000, 10)]
    ]
    assert [one - NOW for one in at] == pytest.approx(polls, abs=0.1)


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
        *[creates[1], polls[1]],
        *[creates[2], polls[2]],
        *[creates[0], polls[0]],
    ]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize(("creates", "polls"), [(5, 5), (1, 4), (4, 1), (0, 3), (3, 0)])
def test_either_kind_goes_first_by_turn_and_none_twice_while_the_other_waits(
    start: int, creates: int, polls: int
) -> None:
    rows = [due(requested(f"{number:032x}"), NOW) for number in range(creates)]
    rows += [poll(number) for number in range(polls)]
    steps = [row.step for row in plan(rows, start)]
    first = [Step.CREATE, Step.LIST][start % 2]
    both = 2 * min(creates, polls)
    assert all((step is first) == (place % 2 == 0) for place, step in enumerate(steps[:both]))
    assert len(set(steps[both:])) <= 1


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
