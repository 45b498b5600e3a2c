"""Learns how long recent downloads took, from the first poll of each. Pure.

The time from the accepted create to the ready download is taken to be log-normal, and its median
may grow with the duration of the video. Times are in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

from stream_downloads.domain.download import Download, DownloadType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# The control record that keeps the pace from one run to the next.
PACE: Final = "pace"

# A lower percentage is mostly noise, and is ignored.
INFORMATIVE_PERCENT: Final = 3.5
# The error of a reported percentage, in points, and the seconds that a download may wait before
# Cloudflare begins to make it. Neither is documented.
PERCENT_NOISE: Final = 3.0
BEGINS_WITHIN: Final = 8.0

# Assumed before anything is learned: seconds to minutes, seldom over five minutes
# (https://developers.cloudflare.com/stream/viewing-videos/download-videos/ gives no figure).
_PRIOR: Final = NormalDist(math.log(60.0), 1.2)
# The prior counts as much as this many samples.
_PRIOR_WEIGHT: Final = 4.0
_DEVIATION_AT_LEAST: Final = 0.15
_SAMPLES_KEPT: Final = 96
_FIT_ROUNDS: Final = 15
# The slope is reduced by this many of its standard errors: a smaller one counts as chance.
_SLOPE_ERRORS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The time that one download took, as far as its first poll tells.

    Attributes:
        longer_than: it took at least these seconds.
        at_most: it took at most these seconds; infinite if nothing is known.
        duration: the duration of the video, None if it is unknown.
    """

    longer_than: float
    at_most: float
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """The distribution of the logarithm of the seconds that a download takes.

    Attributes:
        mean: for a video whose duration is the usual one, or unknown.
        deviation: its standard deviation.
        slope: by how much the mean grows with the logarithm of the duration.
        usual: the mean of the logarithm of the durations.
    """

    mean: float = _PRIOR.mean
    deviation: float = _PRIOR.stdev
    slope: float = 0.0
    usual: float = 0.0

    def of(self, duration: float | None) -> NormalDist:
        """Return the distribution for a video of that duration."""
        if not duration or not self.slope:
            return NormalDist(self.mean, self.deviation)
        return NormalDist(
            self.mean + self.slope * (math.log(duration) - self.usual), self.deviation
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """The time that recent downloads took, by type: the samples, and what follows from them."""

    samples: Mapping[DownloadType, Sequence[Sample]]
    fits: Mapping[DownloadType, Fit]

    @classmethod
    def of(cls, samples: Mapping[DownloadType, Iterable[Sample]]) -> Pace:
        """Fit the samples of each type, the oldest first; only the latest count."""
        latest = {kind: tuple(samples.get(kind, ()))[-_SAMPLES_KEPT:] for kind in DownloadType}
        return cls(latest, {kind: fit(found) for kind, found in latest.items()})

    @classmethod
    def parse(cls, value: Mapping[str, Mapping[str, Any]]) -> Pace:
        """Read a control record's value, which holds the samples and their fit."""
        samples, fits = {}, {}
        for kind in DownloadType:
            kept = value.get(kind.value, {})
            samples[kind] = tuple(
                Sample(low, math.inf if high is None else high, *duration)
                for low, high, *duration in kept.get("samples", ())
            )
            fits[kind] = Fit(**{name: kept[name] for name in _FITTED if name in kept})
        return cls(samples, fits)

    def as_value(self) -> dict[str, dict[str, Any]]:
        """Return the control record's value."""
        return {
            str(kind): {"samples": [_stored(sample) for sample in found]}
            | {name: round(getattr(self.fits[kind], name), 4) for name in _FITTED}
            for kind, found in self.samples.items()
            if found
        }

    def with_samples(self, found: Iterable[tuple[DownloadType, Sample]]) -> Pace:
        """Return the pace after more samples."""
        more = {kind: list(samples) for kind, samples in self.samples.items()}
        for kind, sample in found:
            more[kind].append(sample)
        return self.of(more)


_FITTED: Final = ("mean", "deviation", "slope", "usual")


def _stored(sample: Sample) -> list[float | None]:
    most = None if math.isinf(sample.at_most) else round(sample.at_most, 1)
    stored = [round(sample.longer_than, 1), most]
    return stored if sample.duration is None else [*stored, sample.duration]


def fit(samples: Sequence[Sample]) -> Fit:
    """Fit a log-normal distribution to samples, each of which is an interval.

    This is expectation maximisation for interval-censored data. The prior counts as a few samples,
    so that the fit exists without samples and is stable with few. The slope is that of a regression
    on the logarithm of the duration, reduced by its error: 0 if the duration explains nothing.
    """
    if not samples:
        return Fit()
    bounds = [
        (math.log(max(sample.longer_than, 0.1)), math.log(max(sample.at_most, 0.2)))
        for sample in samples
    ]
    logs = [math.log(sample.duration) for sample in samples if sample.duration]
    usual = sum(logs) / len(logs) if logs else 0.0
    centered = [math.log(sample.duration) - usual if sample.duration else 0.0 for sample in samples]
    spread_of_durations = sum(x * x for x in centered)
    count = len(samples) + _PRIOR_WEIGHT
    mean, deviation, slope = _PRIOR.mean, _PRIOR.stdev, 0.0
    for _ in range(_FIT_ROUNDS):
        within = [
            _truncated(mean + slope * x, deviation, low, high)
            for x, (low, high) in zip(centered, bounds, strict=True)
        ]
        means = [m for m, _ in within]
        mean = (_PRIOR_WEIGHT * _PRIOR.mean + sum(means)) / count  # the sum of `centered` is 0
        slope = _slope(centered, means, spread_of_durations, deviation)
        spread = _PRIOR_WEIGHT * (_PRIOR.variance + (mean - _PRIOR.mean) ** 2)
        spread += sum(
            variance + (m - mean - slope * x) ** 2
            for x, (m, variance) in zip(centered, within, strict=True)
        )
        deviation = max(_DEVIATION_AT_LEAST, math.sqrt(spread / count))
    return Fit(mean, deviation, slope, usual)


def _slope(
    centered: Sequence[float], residuals: Sequence[float], spread: float, deviation: float
) -> float:
    """Return the slope of a regression, reduced by its error, but not beyond 0."""
    if spread < 1.0:  # durations that hardly differ explain nothing
        return 0.0
    covariance = sum(x * y for x, y in zip(centered, residuals, strict=True))
    significant = abs(covariance) - _SLOPE_ERRORS * deviation * math.sqrt(spread)
    return math.copysign(max(0.0, significant), covariance) / spread


def _truncated(mean: float, deviation: float, low: float, high: float) -> tuple[float, float]:
    """Return mean and variance of a normal variable known to lie between two bounds."""
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
    """Return the sample that the first poll of a download gives, None for later polls.

    Each download counts once, whatever the poll found. With finished downloads alone the pace would
    seem faster than it is, with unfinished ones alone slower.

    Args:
        row: as it was before the poll.
        percent: what the poll found; 100 if it is ready.
        now: the time of the poll.
    """
    creation = row.creation
    if creation is None or creation.accepted_at is None:
        return None  # its age is unknown
    if creation.polled_at is not None or row.recreations:
        return None
    age, duration = max(1.0, now - creation.accepted_at), row.duration_seconds
    if percent is not None and percent >= 100:
        return Sample(0.0, age, duration)
    if percent is None or percent < INFORMATIVE_PERCENT:
        return Sample(age, math.inf, duration)
    most = age * 100 / (percent - PERCENT_NOISE)
    began_at = min(BEGINS_WITHIN, age / 2)
    least = began_at + (age - began_at) * 100 / (percent + PERCENT_NOISE)
    return Sample(max(age, least), most, duration)
