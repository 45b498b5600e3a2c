"""Compares the measured figures with the targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.bench.workloads import Workload

Numbers = Mapping[str, float | None]

# By workload and figure: lists and units of a download, seconds, or parts of the floor.
AT_MOST: Mapping[str, Mapping[str, float]] = {
    "steady": {
        "lists": 4.5,
        "mean": 3.2,
        "p95": 11.0,
        "p99": 24.0,
        "max": 70.0,
        "write_units": 20.0,
        "read_units": 14.0,
    },
    "quiet": {"mean": 3.0, "p95": 11.0},
    "window0": {"lists": 1.85, "mean": 36.0},
    "fixed": {"lists": 2.24, "mean": 10.5},
    "rate36": {"lists": 2.05, "mean": 17.6},
    "silent": {"mean": 15.0, "p99": 60.0},
    "stalling": {"lists": 9.0, "mean": 10.0},
    "jumping": {"mean": 20.0},
    "backwards": {"mean": 20.0},
    "burst": {"mean_of_floor": 0.60, "last_of_floor": 1.85},
    "backfill": {"mean_wait": 11_000.0},
}


class Relative(NamedTuple):
    """A target that follows from another workload of the same seeds: factor * figure + more."""

    workload: str
    figure: str
    other: str
    factor: float
    more: float = 0.0


RELATIVE = (
    Relative("duration", "lists", "durationless", 0.85),
    Relative("duration", "mean", "durationless", 0.80),
    Relative("unrelated", "lists", "fixed", 1.05),
    Relative("unrelated", "mean", "fixed", 1.05),
    Relative("beside", "mean", "steady", 1.0, 4.0),
)


def missed(
    measured: Mapping[Workload, Numbers], at_most: Mapping[str, Mapping[str, float]] = AT_MOST
) -> list[str]:
    """Return a line for each figure of the service that is above its target."""
    by_name = {workload.name: numbers for workload, numbers in measured.items()}
    limits = {workload.name: workload.limit for workload in measured}
    return [
        f"{name}: {figure} is {value:.2f}, the target is at most {target:.2f}"
        for name, figure, target in _bounds(by_name, limits, at_most)
        if (value := by_name[name][figure]) is not None and value > target
    ]


def _bounds(
    by_name: Mapping[str, Numbers],
    limits: Mapping[str, int],
    at_most: Mapping[str, Mapping[str, float]],
) -> Iterator[tuple[str, str, float]]:
    """Yield each workload, figure and its upper bound."""
    for name, limit in limits.items():
        yield name, "most_in_five_minutes", limit
        yield name, "throttled", 0.0
        yield name, "unfinished", 0.0
        for figure, target in at_most.get(name, {}).items():
            yield name, figure, target
    for workload, figure, other, factor, more in RELATIVE:
        if {workload, other} <= by_name.keys():
            yield workload, figure, factor * (by_name[other][figure] or 0.0) + more
