"""The benchmark in small: its bounds hold, counted in virtual time, on however slow a machine."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from tests.bench.run import Result, run_minute_poller, run_service
from tests.bench.targets import missed
from tests.bench.workloads import DEAR, WORKLOADS, Durations, Workload, short

BY_NAME = {workload.name: short(workload) for workload in WORKLOADS}
STEADY = BY_NAME["steady"]

# What a hundred videos or so lead to, and a bit more.
BOUNDS = {
    "steady": {"lists": 5.0, "mean": 3.5, "p95": 15.0, "write_units": 21.0, "read_units": 14.5},
    "quiet": {"mean": 4.0, "p95": 15.0},
    "window0": {"lists": 2.1, "mean": 40.0},
    "bimodal": {"lists": 5.5, "mean": 6.0},
    "silent": {"lists": 9.0, "mean": 15.0, "p99": 60.0},
    "stalling": {"lists": 10.5, "mean": 12.0},
    "jumping": {"lists": 9.0, "mean": 20.0},
    "backwards": {"lists": 9.0, "mean": 20.0},
    "burst": {"mean_of_floor": 0.70, "last_of_floor": 1.5},
    "backfill": {"mean_wait": 2500.0},
    "beside": {"mean": 60.0},
}
VIDEOS = {"steady": 300, "quiet": 60, "window0": 150, "beside": 50}


def with_videos(name: str) -> Workload:
    """Return the workload with so few videos that it takes a second."""
    if BY_NAME[name].rate is None or not BY_NAME[name].videos:
        return BY_NAME[name]
    return replace(BY_NAME[name], videos=VIDEOS.get(name, 100))


@pytest.mark.parametrize("name", BOUNDS)
def test_a_workload_stays_within_its_bounds_without_a_long_silence(name: str) -> None:
    workload = with_videos(name)
    result = run_service(workload)
    assert missed({workload: result.numbers()}, BOUNDS) == []
    # All at once, as a burst or a backfill, they wait for the request limit.
    if workload.videos and workload.rate:
        assert long_silences(result) == []


def long_silences(result: Result) -> list[float]:
    """Return the delays above four minutes, or above a fifth of the download's age if that is more.

    A minute is added: so late may the next run begin.
    """
    took = [wait - delay for wait, delay in zip(result.waits, result.delays, strict=True)]
    return [
        delay
        for delay, seconds in zip(result.delays, took, strict=True)
        if delay > max(240.0, 0.2 * seconds) + 60.0
    ]


def test_polls_are_few_and_in_time_while_they_are_dear() -> None:
    seeds = range(1, 4)
    workloads = [replace(BY_NAME["fixed"], videos=200, seed=seed) for seed in seeds]
    found = [run_service(workload).numbers() for workload in workloads]
    assert fmean(numbers["lists"] or 0 for numbers in found) <= 2.3
    assert fmean(numbers["mean"] or 0 for numbers in found) <= 11.5


def test_the_duration_of_a_video_saves_polls_and_delay() -> None:
    workload = replace(BY_NAME["duration"], videos=200, price=DEAR)
    known = run_service(workload).numbers()
    hidden = run_service(replace(workload, durations=Durations.HIDDEN)).numbers()
    assert (known["lists"] or 0) <= (hidden["lists"] or 0)
    assert (known["mean"] or 0) <= 0.8 * (hidden["mean"] or 0)


def test_a_workload_runs_the_same_every_time() -> None:
    workload = replace(STEADY, videos=30)
    assert run_service(workload).calls == run_service(workload).calls


@pytest.mark.parametrize("median", [20.0, 300.0])
@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_the_schedule_is_not_made_for_one_median_and_one_sigma(median: float, sigma: float) -> None:
    workload = replace(STEADY, videos=60, median=median, sigma=sigma, price=DEAR)
    theirs, ours = run_minute_poller(workload).numbers(), run_service(workload).numbers()
    assert (ours["mean"] or 0) <= 0.9 * (theirs["mean"] or 0)
    assert (ours["lists"] or 0) <= 1.2 * (theirs["lists"] or 0)


@pytest.mark.parametrize("name", ["silent", "stalling", "jumping", "backwards"])
def test_odd_progress_leads_to_no_storm_of_polls(name: str) -> None:
    result = run_service(replace(with_videos(name), price=DEAR))
    assert max(result.polls.values()) <= 20
    assert (result.numbers()["lists"] or 0) <= 5.5


def test_a_pace_that_is_at_the_limit_loses_nothing_and_stays_below_it() -> None:
    workload = replace(STEADY, videos=200, rate=30.0, limit=200)
    assert missed({workload: run_service(workload).numbers()}, {}) == []
