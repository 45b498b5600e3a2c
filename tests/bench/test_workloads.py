"""The benchmark in small: its bounds hold, counted in virtual time, on however slow a machine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from tests.bench.run import Result, run_minute_poller, run_service
from tests.bench.targets import figures
from tests.bench.workloads import SHORT, STEADY, Workload

ODD_PROGRESS = ("silent", "stalling", "jumping", "backwards")


@cache
def service_over(workload: Workload) -> Result:
    return run_service(workload)


def named(workload: Workload) -> str:
    return f"{workload.kind}, window {workload.window:.0f}"


@pytest.mark.parametrize("workload", SHORT, ids=named)
def test_a_workload_reaches_its_targets(workload: Workload) -> None:
    shown = figures(workload, run_minute_poller(workload), service_over(workload))
    assert [figure for figure in shown if not figure.reached] == []


def test_a_workload_runs_the_same_every_time() -> None:
    workload = replace(STEADY, videos=30)
    assert run_service(workload).calls == run_service(workload).calls


@pytest.mark.parametrize("median", [20.0, 300.0])
@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_the_schedule_is_not_made_for_one_median_and_one_sigma(median: float, sigma: float) -> None:
    workload = replace(STEADY, videos=60, median=median, sigma=sigma)
    theirs, ours = run_minute_poller(workload), service_over(workload)
    assert ours.mean_delay <= 0.9 * theirs.mean_delay
    assert ours.lists <= 1.2 * theirs.lists


@pytest.mark.parametrize("progress", ODD_PROGRESS)
def test_odd_progress_leads_to_no_storm_of_looks(progress: str) -> None:
    result = service_over(replace(STEADY, videos=100, progress=progress))
    assert max(result.looks.values()) <= 30
    assert result.lists <= 7


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
