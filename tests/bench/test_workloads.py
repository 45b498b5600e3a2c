"""The benchmark in small: its bounds hold, counted in virtual time, on however slow a machine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import fmean

import pytest

from tests.bench.run import Result, run_minute_poller, run_service
from tests.bench.targets import figures
from tests.bench.workloads import SHORT, STEADY, Workload

# The mean delay that odd progress may lead to, in seconds.
ODD_PROGRESS = {"silent": 15.0, "stalling": 12.0, "jumping": 20.0, "backwards": 20.0}
# Of a poll, in seconds, when more than half of the limit is used.
PRICE_WHEN_BUSY = 13.0


@cache
def service_over(workload: Workload) -> Result:
    return run_service(workload)


def named(workload: Workload) -> str:
    return f"{workload.kind}, window {workload.window:.0f}"


@pytest.mark.parametrize("workload", SHORT, ids=named)
def test_a_workload_reaches_its_targets(workload: Workload) -> None:
    shown = figures(workload, run_minute_poller(workload), service_over(workload))
    assert [figure for figure in shown if not figure.reached] == []


def test_polls_are_few_and_in_time_while_they_are_dear() -> None:
    seeds = range(1, 6)
    workloads = [replace(STEADY, videos=300, price=PRICE_WHEN_BUSY, seed=seed) for seed in seeds]
    results = [service_over(workload) for workload in workloads]
    assert fmean(result.lists for result in results) <= 2.24
    assert fmean(result.mean_delay for result in results) <= 11.5


def test_a_workload_runs_the_same_every_time() -> None:
    workload = replace(STEADY, videos=30)
    assert run_service(workload).calls == run_service(workload).calls


@pytest.mark.parametrize("median", [20.0, 300.0])
@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_the_schedule_is_not_made_for_one_median_and_one_sigma(median: float, sigma: float) -> None:
    workload = replace(STEADY, videos=60, median=median, sigma=sigma, price=PRICE_WHEN_BUSY)
    theirs, ours = run_minute_poller(workload), service_over(workload)
    assert ours.mean_delay <= 0.9 * theirs.mean_delay
    assert ours.lists <= 1.2 * theirs.lists


@pytest.mark.parametrize("progress", ODD_PROGRESS)
def test_odd_progress_leads_to_no_storm_of_polls(progress: str) -> None:
    workload = replace(STEADY, videos=100, progress=progress, price=PRICE_WHEN_BUSY)
    result = service_over(workload)
    assert max(result.looks.values()) <= 20
    assert result.lists <= 5


@pytest.mark.parametrize("progress", ODD_PROGRESS)
def test_an_idle_limit_is_used_for_odd_progress(progress: str) -> None:
    result = service_over(replace(STEADY, videos=100, progress=progress))
    assert result.mean_delay <= ODD_PROGRESS[progress]
    assert result.lists <= 9


@pytest.mark.parametrize("progress", ODD_PROGRESS)
def test_odd_progress_leads_to_no_long_silence(progress: str) -> None:
    result = service_over(replace(STEADY, videos=100, progress=progress))
    # Four minutes, or a fifth of its age; and a minute until the next run.
    took = [wait - delay for wait, delay in zip(result.waits, result.delays, strict=True)]
    late = [
        delay
        for delay, seconds in zip(result.delays, took, strict=True)
        if delay > max(240.0, 0.2 * seconds) + 60.0
    ]
    assert late == []


def test_a_pace_that_is_at_the_limit_loses_nothing_and_stays_below_it() -> None:
    workload = replace(STEADY, videos=200, rate=30.0, limit=200)
    result = service_over(workload)
    assert result.most_in_five_minutes <= workload.limit
    assert result.throttled == 0
    assert len(result.delays) == workload.videos
