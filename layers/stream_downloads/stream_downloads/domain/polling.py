"""When to look at a download next, and what to spend a scarce request on.

Nothing tells anyone when a download becomes ready, and requests are scarce. So every look is
aimed: the time that a download takes is taken to be log-normal, learned from what the first
looks at recent downloads found, and sharpened for each download by the percentage it reports.
A look is due when the chance that the download is ready is worth the request: the less is known
of the moment, the longer one would wait for the next chance, and the sooner one looks.

Pure: the time is an argument, in seconds since the epoch, UTC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

from stream_downloads.domain.download import Download, DownloadType, Lane, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

# The control record that keeps the pace from one run to the next.
PACE: Final = "pace"

# What a look costs, in seconds of delay that one would rather bear. One that can only tell "ready"
# from "not yet" costs more: one that tells a percentage aims the next.
LOOK_COSTS: Final = 25.0
LOOK_COSTS_IN_SILENCE: Final = 75.0

LOOK_AFTER_AT_LEAST: Final = 5.0
LOOK_AFTER_AT_MOST: Final = 240.0
LOOK_AFTER_AT_MOST_EVER: Final = 900.0
# The longer a download takes, the less some seconds more of it matter: between these parts of its
# age pass between two looks.
AT_LEAST_OF_AGE: Final = 0.03
AT_MOST_OF_AGE: Final = 0.2

# While creates wait, so many of them go before each poll: with fewer, the mean URL is there sooner
# and the last one later.
CREATES_FOR_EACH_POLL: Final = 2

# Under this percentage the noise says more than the figure. None of what follows is documented:
# by how many points a percentage may be off, how many seconds pass before anything begins, and by
# how much of itself the rest may be longer or shorter, because progress is not even.
PERCENT_SAYS_SOMETHING: Final = 3.0
PERCENT_NOISE: Final = 3.0
BEGINS_WITHIN: Final = 6.0
UNEVEN: Final = 0.15

RETRY_WITHIN: Final = 30.0
RETRY_WITHIN_AT_MOST: Final = 900.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the first look at a download told of its duration: it lies between these seconds."""

    longer_than: float
    at_most: float


# Before anything is learned: seconds to minutes, seldom over five
# (https://developers.cloudflare.com/stream/viewing-videos/download-videos/ gives no figure).
_PRIOR: Final = NormalDist(math.log(60.0), 1.2)
# The prior counts as much as this many samples.
_PRIOR_WEIGHT: Final = 4.0
_DEVIATION_AT_LEAST: Final = 0.15
_SAMPLES_KEPT: Final = 96
_FIT_ROUNDS: Final = 15
# Of a distribution's tail: too little to reckon with.
_NOTHING_LEFT: Final = 1e-6
_OVERDUE_GROWTH: Final = 1.1


@dataclass(frozen=True, slots=True)
class Pace:
    """How long recent downloads took, by type: the samples and what follows from them."""

    samples: Mapping[DownloadType, Sequence[Sample]]
    durations: Mapping[DownloadType, NormalDist]  # of the natural logarithm of the seconds

    @classmethod
    def of(cls, samples: Mapping[DownloadType, Iterable[Sample]]) -> Pace:
        """From the samples of each type, the oldest first; only the latest count."""
        latest = {kind: tuple(samples.get(kind, ()))[-_SAMPLES_KEPT:] for kind in DownloadType}
        return cls(latest, {kind: fit(found) for kind, found in latest.items()})

    @classmethod
    def parse(cls, value: Mapping[str, Mapping[str, Any]]) -> Pace:
        """From a control record's value, which says what follows from the samples too."""
        samples, durations = {}, {}
        for kind in DownloadType:
            kept = value.get(kind.value, {})
            samples[kind] = tuple(
                Sample(low, math.inf if high is None else high)
                for low, high in kept.get("samples", ())
            )
            durations[kind] = NormalDist(
                kept.get("mean", _PRIOR.mean), kept.get("deviation", _PRIOR.stdev)
            )
        return cls(samples, durations)

    def as_value(self) -> dict[str, dict[str, Any]]:
        """For the control record: seconds, and mean and deviation of their logarithm."""
        return {
            str(kind): {
                "samples": [
                    [
                        round(sample.longer_than, 1),
                        None if math.isinf(sample.at_most) else round(sample.at_most, 1),
                    ]
                    for sample in found
                ],
                "mean": round(self.durations[kind].mean, 4),
                "deviation": round(self.durations[kind].stdev, 4),
            }
            for kind, found in self.samples.items()
            if found
        }

    def with_samples(self, found: Iterable[tuple[DownloadType, Sample]]) -> Pace:
        """With what else has been learned."""
        more = {kind: list(samples) for kind, samples in self.samples.items()}
        for kind, sample in found:
            more[kind].append(sample)
        return self.of(more)


def fit(samples: Sequence[Sample]) -> NormalDist:
    """The log-normal that explains samples of which each is only an interval.

    Expectation and maximisation for interval-censored data, with the prior as a few samples
    more, so that it is defined for none and steady for a few.
    """
    mean, deviation = _PRIOR.mean, _PRIOR.stdev
    if not samples:
        return _PRIOR
    bounds = [
        (math.log(max(sample.longer_than, 0.1)), math.log(max(sample.at_most, 0.2)))
        for sample in samples
    ]
    count = len(bounds) + _PRIOR_WEIGHT
    for _ in range(_FIT_ROUNDS):
        within = [_truncated(mean, deviation, low, high) for low, high in bounds]
        mean = (_PRIOR_WEIGHT * _PRIOR.mean + sum(m for m, _ in within)) / count
        spread = _PRIOR_WEIGHT * (_PRIOR.variance + (mean - _PRIOR.mean) ** 2)
        spread += sum(variance + (m - mean) ** 2 for m, variance in within)
        deviation = max(_DEVIATION_AT_LEAST, math.sqrt(spread / count))
    return NormalDist(mean, deviation)


def _truncated(mean: float, deviation: float, low: float, high: float) -> tuple[float, float]:
    """Mean and variance of a normal variable known to lie between two bounds."""
    standard = NormalDist()
    a, b = (low - mean) / deviation, (high - mean) / deviation
    mass = standard.cdf(b) - standard.cdf(a)
    if mass < 1e-9:  # far out in a tail: all of it lies at the nearer bound
        return (low if a > 0 else high), 0.0
    at_a, at_b = standard.pdf(a), standard.pdf(b)
    shift = (at_a - at_b) / mass
    b_term = 0.0 if math.isinf(b) else b * at_b
    variance = 1 + (a * at_a - b_term) / mass - shift**2
    return mean + deviation * shift, max(0.0, variance) * deviation**2


def first_sample(row: Download, percent: float | None, now: float) -> Sample | None:
    """What a look teaches, if it is the first one at this download.

    Each download counts once, whatever the look found: to learn only from those that are done
    would make the pace seem quicker than it is, from those that are not, slower.

    Args:
        row: as it was before the look.
        percent: what the look found; 100 if it is ready.
        now: the time of the look.
    """
    creation = row.creation
    if creation is None or creation.accepted_at is None:
        return None  # its age is unknown
    if creation.polled_at is not None or row.recreations:
        return None
    age = max(1.0, now - creation.accepted_at)
    if percent is not None and percent >= 100:
        return Sample(0.0, age)
    if percent is None or percent < PERCENT_SAYS_SOMETHING:
        return Sample(age, math.inf)
    most = age * 100 / max(1.0, percent - PERCENT_NOISE)
    least = age * 100 / min(100.0, percent + PERCENT_NOISE)
    return Sample(max(age, least), most)


def next_poll(row: Download, percent: float | None, pace: Pace, now: float) -> float:
    """When to look again.

    The rule is the same whether requests are plenty or scarce: what to spend a scarce one on is
    for ``plan`` to say.

    Args:
        row: as it was before what has just been learned; ``created_at`` may still be unknown.
        percent: what was just reported, None if nothing was or nothing of use.
        pace: how long recent downloads took.
        now: the time of the report.
    """
    creation = row.creation
    accepted_at = creation.accepted_at if creation else None
    age = 0.0 if accepted_at is None else max(0.0, now - accepted_at)
    finish = _finish(row.download_type, percent, age, pace)
    silent = age > 0 and (percent or 0.0) < PERCENT_SAYS_SOMETHING
    wanted = _worth_a_look(finish, age, LOOK_COSTS_IN_SILENCE if silent else LOOK_COSTS) - age
    at_least = max(LOOK_AFTER_AT_LEAST, age * AT_LEAST_OF_AGE)
    if creation and creation.polled_at is not None and _has_stalled(row, percent, now):
        at_least = max(at_least, now - creation.polled_at)  # no sooner than it was this time
    at_most = min(LOOK_AFTER_AT_MOST_EVER, max(LOOK_AFTER_AT_MOST, age * AT_MOST_OF_AGE))
    return now + min(at_most, max(at_least, wanted))


def plan(rows: Iterable[Download]) -> list[Download]:
    """Return the due rows in the order in which to send their requests; requests may end first.

    Live rows go before those of a backfill. In each lane creates and polls take turns: a poll ends
    a download, but a download takes its time from the create on.
    """
    oldest_first = sorted(rows, key=lambda row: row.due_at or 0.0)
    planned: list[Download] = []
    for lane in Lane:
        creates = [row for row in oldest_first if row.lane is lane and row.step is Step.CREATE]
        others = [row for row in oldest_first if row.lane is lane and row.step is not Step.CREATE]
        planned += _in_turns(creates, others)
    return planned


def retry_delay(attempts: int, jitter: Callable[[], float]) -> float:
    """Seconds until a failed step is tried again: within 30 s, doubling to 15 min, full jitter.

    Args:
        attempts: failures before this one.
        jitter: gives a number from 0 to 1.
    """
    return min(RETRY_WITHIN_AT_MOST, RETRY_WITHIN * 2.0 ** min(attempts, 10)) * jitter()


def _finish(kind: DownloadType, percent: float | None, age: float, pace: Pace) -> NormalDist:
    """The logarithm of the whole duration, by the pace and what the percentage adds to it."""
    prior = pace.durations[kind]
    if percent is None or percent < PERCENT_SAYS_SOMETHING or age <= 0:
        return prior
    percent = min(percent, 99.5)
    told = age * 100 / percent
    by_the_rest = (told - age) * math.hypot(UNEVEN, BEGINS_WITHIN / max(age, BEGINS_WITHIN))
    deviation = math.hypot(by_the_rest, told * PERCENT_NOISE / 100) / told
    weight_told, weight_prior = deviation**-2, prior.variance**-1
    total = weight_told + weight_prior
    mean = (math.log(told) * weight_told + prior.mean * weight_prior) / total
    return NormalDist(mean, total**-0.5)


def _in_turns(creates: Iterable[Download], polls: Iterable[Download]) -> Iterator[Download]:
    create, poll = iter(creates), iter(polls)
    while turn := [*islice(create, CREATES_FOR_EACH_POLL), *islice(poll, 1)]:
        yield from turn


def _has_stalled(row: Download, percent: float | None, now: float) -> bool:
    """Return True if the percentage grew less than half as fast as it had until the last poll."""
    creation = row.creation
    if creation is None or creation.accepted_at is None or creation.polled_at is None:
        return False
    before = row.percent_complete or 0.0
    speed = before / max(1.0, creation.polled_at - creation.accepted_at)
    return (percent or 0.0) - before <= speed / 2 * (now - creation.polled_at)


def _done_by(finish: NormalDist, age: float) -> float:
    return finish.cdf(math.log(age)) if age > 0 else 0.0


def _worth_a_look(finish: NormalDist, age: float, costs: float) -> float:
    """The age at which to look, given that it was not ready at this age.

    A look too early is wasted: what it ``costs``. One that is left out, though it would have
    found it ready, costs about as much delay as the moment is uncertain: the half of all cases in
    the middle lie so far apart. The chance at which both weigh the same is the one to look at.
    """
    before = _done_by(finish, age)
    left = 1 - before
    if left < _NOTHING_LEFT:  # far past what was expected: the longer it took, the longer it takes
        return age * _OVERDUE_GROWTH

    def by(chance: float) -> float:
        return math.exp(finish.inv_cdf(before + chance * left))

    return by(costs / (costs + by(0.75) - by(0.25)))
