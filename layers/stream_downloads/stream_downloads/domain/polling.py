"""Decides when to poll a download next, and in which order to send the requests. Pure.

Cloudflare does not announce a ready download, and requests are limited. So the time at which it
will be ready is estimated: from the pace of recent downloads, and from the percentages that this
one has reported. The next poll is at the time of least expected cost, which is the delay until the
poll and the price of the polls that follow it. The price of a poll grows with the use of the
request limit. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from stream_downloads.domain.download import Download, Lane, Step
from stream_downloads.domain.pace import INFORMATIVE_PERCENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from statistics import NormalDist

    from stream_downloads.domain.pace import Pace

# The price of a poll, in seconds of delay: the lowest up to the load `IDLE_UP_TO`, the highest at
# `BUSY_FROM`. In between it grows exponentially.
CHEAPEST: Final = 0.42
DEAREST: Final = 80.0
CHEAPEST_ONCE_A_MINUTE: Final = 8.0
IDLE_UP_TO: Final = 0.5
BUSY_FROM: Final = 1.0

POLL_AFTER_AT_LEAST: Final = 2.0
POLL_AFTER_AT_MOST: Final = 240.0
POLL_AFTER_AT_MOST_EVER: Final = 900.0
# The time between two polls, as a part of the download's age: the older it is, the less a few
# seconds of delay matter.
AT_LEAST_OF_AGE: Final = 0.02
AT_MOST_OF_AGE: Final = 0.2
# At the lowest price a download is polled again after this, in case the estimate is wrong.
POLL_AGAIN_WITHIN: Final = 70.0

# Assumed, not documented: the standard deviation of a percentage in points, the probability that
# percentages mean nothing, and the seconds until Cloudflare begins to make a download, each with
# its probability.
NOISE: Final = 1.75
MEANINGLESS: Final = 0.05
BEGINS: Final = (
    (0.5, 0.12),
    (1.5, 0.16),
    (3.0, 0.18),
    (5.0, 0.18),
    (8.0, 0.16),
    (12.0, 0.11),
    (18.0, 0.06),
    (28.0, 0.03),
)
# The range of ready times that a percentage leaves possible, in standard deviations.
RANGE_LEFT: Final = 4.0

RETRY_WITHIN: Final = 30.0
RETRY_WITHIN_AT_MOST: Final = 900.0

_POINTS: Final = 48
# A smaller tail of a distribution is ignored.
_IGNORED_TAIL: Final = 1e-6


def price(load: float, window: float = 1.0) -> float:
    """Return the price of a poll in seconds of delay.

    Args:
        load: the part of the request limit, 0 to 1, that is used.
        window: PollWindowSeconds. With 0, half a minute passes until the next run on average: a
            lower price would save little delay.
    """
    part = min(1.0, max(0.0, (load - IDLE_UP_TO) / (BUSY_FROM - IDLE_UP_TO)))
    by_load: float = CHEAPEST * (DEAREST / CHEAPEST) ** part
    return by_load if window else max(CHEAPEST_ONCE_A_MINUTE, by_load)


class Belief(NamedTuple):
    """The probability distribution of the age at which a download is ready.

    Attributes:
        ages: of the download, in seconds, ascending.
        weights: the probability of each; together 1.
        meaningless: the probability that its percentages mean nothing.
    """

    ages: Sequence[float]
    weights: Sequence[float]
    meaningless: float


def next_poll(
    row: Download, percent: float | None, pace: Pace, poll_price: float, now: float
) -> float:
    """Return when to poll a download again.

    Args:
        row: as it was before the report; its acceptance may still be unknown.
        percent: the percentage that was just reported, None if none was.
        pace: how long recent downloads took.
        poll_price: seconds of delay that a poll is worth.
        now: the time of the report.
    """
    creation = row.creation
    accepted_at = creation.accepted_at if creation else None
    age = 0.0 if accepted_at is None else max(0.0, now - accepted_at)
    reports = []
    if age > 0:
        if creation and creation.earlier and accepted_at is not None:
            reports.append((creation.earlier.at - accepted_at, creation.earlier.percent))
        reports.append((age, percent or 0.0))
    prior = pace.fits[row.download_type].of(row.duration_seconds)
    belief = believe(prior, age, reports)
    gap = _best_age(belief, poll_price) - age
    if age > 0:  # the belief may be wrong
        within = POLL_AGAIN_WITHIN * (poll_price / CHEAPEST) ** 0.35
        gap = min(gap, max(within, age * AT_MOST_OF_AGE if poll_price > 5 else age * 0.05))
    at_most = min(POLL_AFTER_AT_MOST_EVER, max(POLL_AFTER_AT_MOST, age * AT_MOST_OF_AGE))
    return now + min(at_most, max(POLL_AFTER_AT_LEAST, age * AT_LEAST_OF_AGE, gap))


def believe(prior: NormalDist, age: float, reports: Sequence[tuple[float, float]]) -> Belief:
    """Return the belief about the age at which a download is ready, given that it is not ready.

    Args:
        prior: of the logarithm of that age.
        age: of the download, in seconds.
        reports: ages and the percentages reported then; the last one is of now.
    """
    by_pace = _by_pace(prior, age)
    if not reports or reports[-1][1] < INFORMATIVE_PERCENT:
        return Belief(by_pace, [1 / _POINTS] * _POINTS, 1.0 if reports else 0.0)
    ages = _range_of(*reports[-1])
    weights = _by_percentages(prior, age, ages, reports)
    # Percentages that mean nothing could be any number.
    nothing = MEANINGLESS * (NOISE * math.sqrt(2 * math.pi) / 100) ** len(reports)
    total = sum(weights) + nothing
    points = sorted(
        [(at, weight / total) for at, weight in zip(ages, weights, strict=True)]
        + [(at, nothing / total / _POINTS) for at in by_pace]
    )
    return Belief([at for at, _ in points], [weight for _, weight in points], nothing / total)


def _by_pace(prior: NormalDist, age: float) -> list[float]:
    """Return equally probable ages above ``age``, by the pace alone."""
    before = prior.cdf(math.log(age)) if age > 0 else 0.0
    left = 1 - before
    if left < _IGNORED_TAIL:  # far later than expected: up to a quarter longer
        return [age * (1.02 + 0.25 * number / _POINTS) for number in range(_POINTS)]
    chances = [before + left * (number + 0.5) / _POINTS for number in range(_POINTS)]
    return [math.exp(prior.inv_cdf(chance)) for chance in chances]


def _range_of(age: float, percent: float) -> list[float]:
    """Return the ages that a percentage leaves possible, for every assumed begin."""
    fastest = min(100.0, percent + 3 * NOISE)
    begins = [0.0, *(begin for begin, _ in BEGINS if begin < age)]
    least = min(begin + (age - begin) * 100 / fastest for begin in begins)
    least = max(age * 1.001, least)
    most = max(least * 1.05, age * 100 / max(1.0, percent - 3 * NOISE))
    step = (most / least) ** (1 / (_POINTS - 1))
    return [least * step**number for number in range(_POINTS)]


def _by_percentages(
    prior: NormalDist, age: float, ages: Sequence[float], reports: Sequence[tuple[float, float]]
) -> list[float]:
    """Return the weight of each age: its probability by the pace, times that of the reports."""
    left = max(1 - prior.cdf(math.log(age)), _IGNORED_TAIL)
    step = math.log(ages[1] / ages[0])
    return [prior.pdf(math.log(at)) * step / left * _likelihood(at, reports) for at in ages]


def _likelihood(ready_at: float, reports: Sequence[tuple[float, float]]) -> float:
    """Return the likelihood of the reports, given even progress until ``ready_at``."""
    likelihood = 0.0
    for begin, chance in BEGINS:
        if begin >= ready_at:
            continue
        error = 0.0
        for age, percent in reports:
            expected = 100 * (age - begin) / (ready_at - begin) if age > begin else 0.0
            error += ((percent - expected) / NOISE) ** 2
        likelihood += chance * math.exp(-min(error, 1400) / 2)
    return likelihood


def _best_age(belief: Belief, poll_price: float) -> float:
    """Return the age at which the next poll has the least expected cost.

    A late poll costs the delay. An early one costs further polls: over a range of equally probable
    times, these cost half a poll and the square root of price times range.
    """
    ages, weights, meaningless = belief
    rest, moment = 1.0, sum(at * weight for at, weight in zip(ages, weights, strict=True))
    mean = moment
    best_cost, best = math.inf, ages[-1]
    for at, weight in zip(ages, weights, strict=True):
        rest, moment = rest - weight, moment - at * weight
        cost = at * (1 - rest) - (mean - moment)
        if rest > _IGNORED_TAIL:
            left = _range_left(at, moment / rest, meaningless)
            cost += rest * (poll_price / 2 + math.sqrt(poll_price * left))
        if cost < best_cost:
            best_cost, best = cost, at
    return best


def _range_left(age: float, ready_at: float, meaningless: float) -> float:
    """Return the range of ready times that is left if a poll at ``age`` is too early."""
    left = max(0.0, 2 * (ready_at - age))
    expected = age / ready_at * 100
    if meaningless > 0.5 or expected < INFORMATIVE_PERCENT:
        return left
    by_percentage = RANGE_LEFT * NOISE / 100 * ready_at**2 / max(1.0, age - 4.0)
    return min(left, by_percentage)


def plan(rows: Iterable[Download], start: int = 0) -> list[Download]:
    """Return the due rows in the order in which to send their requests.

    Live rows go before those of a backfill. In each lane creates and polls alternate, so that
    neither waits for all of the other when few requests may be sent.

    Args:
        rows: of any lane and step.
        start: even: a create goes first; odd: a poll. The caller counts the requests sent.
    """
    oldest_first = sorted(rows, key=lambda row: row.due_at or 0.0)
    planned: list[Download] = []
    for lane in Lane:
        creates = [row for row in oldest_first if row.lane is lane and row.step is Step.CREATE]
        polls = [row for row in oldest_first if row.lane is lane and row.step is not Step.CREATE]
        planned += _in_turns(creates, polls) if start % 2 == 0 else _in_turns(polls, creates)
    return planned


def _in_turns(first: Iterable[Download], second: Iterable[Download]) -> Iterator[Download]:
    one, other = iter(first), iter(second)
    while turn := [*islice(one, 1), *islice(other, 1)]:
        yield from turn


def retry_delay(attempts: int, jitter: Callable[[], float]) -> float:
    """Return the seconds until a failed step is tried again.

    Within 30 s, doubling to 15 minutes, with full jitter.

    Args:
        attempts: failures before this one.
        jitter: gives a number from 0 to 1.
    """
    return min(RETRY_WITHIN_AT_MOST, RETRY_WITHIN * 2.0 ** min(attempts, 10)) * jitter()
