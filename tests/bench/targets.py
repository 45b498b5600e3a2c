"""What a workload shows, next to what it is to show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.run import Result
from tests.bench.workloads import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the comparison.

    Attributes:
        name: what was measured.
        minute_poller: of the minute poller, None if it has no such figure.
        service: of the service.
        compared: the service's figure divided by what it is compared with, if it is.
        to: what that is.
        at_most: the target for what is compared, or for the figure itself; None if there is none.
    """

    name: str
    minute_poller: float | None
    service: float
    compared: float | None = None
    to: str = ""
    at_most: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the target is reached, if there is one."""
        judged = self.service if self.compared is None else self.compared
        return self.at_most is None or judged <= self.at_most


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """At most so many lists a download, and seconds of delay.

    Attributes:
        of_theirs: whether these are multiples of what the minute poller has.
    """

    lists: float | None = None
    mean: float | None = None
    p95: float | None = None
    p99: float | None = None
    longest: float | None = None
    of_theirs: bool = False


# By kind and window.
TARGETS = {
    ("steady", 0.0): Targets(lists=0.55, mean=1.25, of_theirs=True),
    ("steady", 50.0): Targets(lists=4.7, mean=4.5, p95=16.0, p99=24.0, longest=70.0),
    ("silent", 50.0): Targets(mean=15.0, p99=60.0),
}
# Of the floor: two requests each at the full limit.
BURST_ALL_READY = 1.3
BURST_MEAN_WAIT = 0.70


def figures(workload: Workload, minute_poller: Result, service: Result) -> Iterator[Figure]:
    """Everything that is measured of a workload."""
    targets = TARGETS.get((workload.kind, workload.window), Targets())

    def figure(name: str, theirs: float, ours: float, at_most: float | None) -> Figure:
        if at_most is not None and not targets.of_theirs:
            return Figure(name=name, minute_poller=theirs, service=ours, at_most=at_most)
        return Figure(
            name=name,
            minute_poller=theirs,
            service=ours,
            compared=ours / theirs,
            to="theirs",
            at_most=at_most,
        )

    yield figure("lists per download", minute_poller.lists, service.lists, targets.lists)
    yield figure("mean delay, s", minute_poller.mean_delay, service.mean_delay, targets.mean)
    for percent, at_most in ((50, None), (95, targets.p95), (99, targets.p99)):
        theirs, ours = minute_poller.delay(percent), service.delay(percent)
        yield figure(f"{percent} % delay, s", theirs, ours, at_most)
    longest = max(minute_poller.delays), max(service.delays)
    yield figure("longest delay, s", *longest, targets.longest)
    if workload.rate is None:
        yield from _of_floor(workload, minute_poller, service)
    yield from _of_limits(workload, minute_poller, service)
    if service.units:
        yield from _of_dynamodb(service)


def _of_floor(workload: Workload, minute_poller: Result, service: Result) -> Iterator[Figure]:
    floor = workload.floor
    yield Figure(
        name=f"all ready, s (floor: {floor:.0f})",
        minute_poller=max(minute_poller.waits),
        service=max(service.waits),
        compared=max(service.waits) / floor,
        to="floor",
        at_most=BURST_ALL_READY,
    )
    yield Figure(
        name="the slowest takes by itself, s",
        minute_poller=minute_poller.slowest,
        service=service.slowest,
        compared=service.slowest / floor,
        to="floor",
    )
    yield Figure(
        name="mean from webhook to URL, s",
        minute_poller=minute_poller.mean_wait,
        service=service.mean_wait,
        compared=service.mean_wait / floor,
        to="floor",
        at_most=BURST_MEAN_WAIT,
    )


def _of_limits(workload: Workload, minute_poller: Result, service: Result) -> Iterator[Figure]:
    yield Figure(
        name="most lists of one download",
        minute_poller=max(minute_poller.looks.values()),
        service=max(service.looks.values()),
    )
    yield Figure(
        name="most requests in five minutes",
        minute_poller=minute_poller.most_in_five_minutes,
        service=service.most_in_five_minutes,
        at_most=workload.limit,
    )
    yield Figure(
        name="answers 429",
        minute_poller=minute_poller.throttled,
        service=service.throttled,
        at_most=0,
    )
    yield Figure(
        name="not ready in the end",
        minute_poller=minute_poller.videos - len(minute_poller.delays),
        service=service.videos - len(service.delays),
        at_most=0,
    )


def _of_dynamodb(service: Result) -> Iterator[Figure]:
    for table, units in zip(("downloads", "control"), service.units or (), strict=False):
        for name, amount in (("read", units.read), ("write", units.write)):
            yield Figure(
                name=f"{name} units per download: {table}",
                minute_poller=None,
                service=amount / service.videos,
            )
