"""Test how first polls teach the pace of downloads, and how it is stored."""

from __future__ import annotations

import json
import math
from dataclasses import astuple
from random import Random

import pytest

from stream_downloads.domain.download import Creation, Download, DownloadType
from stream_downloads.domain.pace import INFORMATIVE_PERCENT, Fit, Pace, Sample, first_sample, fit
from tests.support.paces import IGNORANT, pace_of
from tests.support.rows import AUDIO, DEFAULT, NOW, in_progress, requested

POLLED = in_progress(creation=Creation(NOW, NOW, polled_at=NOW))


def of_durations(slope: float, seed: int = 0) -> Fit:
    """Return the fit of downloads whose time grows with that power of the duration."""
    chance = Random(seed)  # noqa: S311
    samples = []
    for _ in range(96):
        duration = chance.lognormvariate(math.log(300), 1.0)
        took = 60 * (duration / 300) ** slope * chance.lognormvariate(0, 0.3)
        samples.append(Sample(0.9 * took, 1.1 * took, duration))
    return fit(samples)


@pytest.mark.parametrize("median", [3.0, 20.0, 90.0, 600.0, 5000.0])
@pytest.mark.parametrize("polled_at", [0.3, 1.0])
def test_the_pace_follows_what_is_found_whatever_the_median(
    median: float, polled_at: float
) -> None:
    learned = pace_of(median, polled_at=polled_at).fits[DEFAULT]
    assert 0.45 * median <= math.exp(learned.mean) <= 1.7 * median


@pytest.mark.parametrize("ready_by", [5.0, 1000.0])
def test_one_sample_moves_the_pace_toward_it_but_not_all_the_way(ready_by: float) -> None:
    sample = Sample(0.9 * ready_by, ready_by)
    before = IGNORANT.fits[DEFAULT].mean
    after = IGNORANT.with_samples([(DEFAULT, sample)]).fits[DEFAULT].mean
    assert abs(after - math.log(ready_by)) < abs(before - math.log(ready_by))
    assert abs(after - math.log(ready_by)) > 0.5 * abs(before - math.log(ready_by))


def test_each_type_has_a_pace_of_its_own() -> None:
    learned = IGNORANT.with_samples([(AUDIO, Sample(0.0, 2.0))] * 50)
    assert learned.fits[AUDIO].mean < learned.fits[DEFAULT].mean
    assert learned.fits[DEFAULT] == IGNORANT.fits[DEFAULT]


def test_a_pace_follows_a_change() -> None:
    slow = pace_of(600).samples[DEFAULT]
    learned = Pace.of({DEFAULT: [*slow, *pace_of(20).samples[DEFAULT]]})
    assert math.exp(learned.fits[DEFAULT].mean) < 60


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
    learned = Pace.of({DEFAULT: samples}).fits[DEFAULT]
    assert math.isfinite(learned.mean)
    assert 0 < learned.deviation < 100


def test_a_pace_is_kept_from_run_to_run_and_does_not_grow() -> None:
    learned = pace_of(90).with_samples([(AUDIO, Sample(10.0, math.inf))] * 500)
    assert len(learned.samples[AUDIO]) == 96
    value = learned.as_value()
    assert len(json.dumps(value)) < 10_000
    again = Pace.parse(json.loads(json.dumps(value)))
    for kind in DownloadType:
        assert again.fits[kind].mean == pytest.approx(learned.fits[kind].mean, abs=0.01)
        assert len(again.samples[kind]) == len(learned.samples[kind])
    assert again.as_value() == value


def test_a_pace_is_kept_to_a_tenth_of_a_second() -> None:
    value = Pace.of({DEFAULT: [Sample(1.26, 2.34, 61.5)]}).as_value()["default"]
    assert value["samples"] == [[1.3, 2.3, 61.5]]
    assert value["mean"] == round(value["mean"], 4)


def test_a_pace_that_was_never_written_is_the_first_guess() -> None:
    assert Pace.parse({}).fits == IGNORANT.fits


@pytest.mark.parametrize(
    ("percent", "sample"),
    [(100.0, Sample(0.0, 60.0)), (0.0, Sample(60.0, math.inf)), (None, Sample(60.0, math.inf))],
)
def test_a_first_poll_tells_between_what_the_time_taken_lies(
    percent: float | None, sample: Sample
) -> None:
    assert first_sample(in_progress(), percent, NOW + 60) == sample


@pytest.mark.parametrize(
    ("age", "percent", "longer_than", "at_most"),
    [(60, 50.0, 106.113, 127.66), (10, 98.0, 10.0, 10.526), (10, 3.5, 81.923, 2000.0)],
)
def test_a_percentage_narrows_it_down(
    age: float, percent: float, longer_than: float, at_most: float
) -> None:
    sample = first_sample(in_progress(), percent, NOW + age)
    assert sample is not None
    assert sample.longer_than == pytest.approx(longer_than, abs=0.001)
    assert sample.at_most == pytest.approx(at_most, abs=0.001)


@pytest.mark.parametrize(
    ("samples", "fitted"),
    [
        (
            [
                *(Sample(5, 20, 60), Sample(30, math.inf, 600), Sample(0, 8, 30)),
                *(Sample(70, 90, 1200), Sample(0.05, 0.15)),
            ],
            Fit(2.991425, 2.370951, slope=0.0, usual=5.245638),
        ),
        (
            [
                *(Sample(5, 20, 60), Sample(30, 40, 600), Sample(6, 8, 30)),
                *(Sample(70, 90, 1200), Sample(100, 120, 2400), Sample(10, 12)),
            ]
            * 10,
            Fit(3.268140, 0.561667, slope=0.538692, usual=5.753154),
        ),
        ([Sample(100, 100)] * 96, Fit(4.584737, 0.260039)),
        ([Sample(1e9, math.inf)] * 20, Fit(36.417079, 19.524980)),
    ],
)
def test_a_fit_is_as_tuned(samples: list[Sample], fitted: Fit) -> None:
    assert astuple(fit(samples)) == pytest.approx(astuple(fitted), abs=1e-5)


@pytest.mark.parametrize(
    "row",
    [requested(), POLLED, in_progress(recreations=1)],
    ids=["no create known", "polled before", "created again"],
)
def test_only_the_first_poll_at_an_ordinary_download_teaches(row: Download) -> None:
    assert first_sample(row, 100.0, NOW + 60) is None


# --- The duration of the video


@pytest.mark.parametrize("slope", [0.6, 1.0, -0.6])
def test_the_pace_learns_how_the_time_grows_with_the_duration(slope: float) -> None:
    learned = of_durations(slope)
    assert 0.65 <= learned.slope / slope <= 1.05  # less two standard errors
    shorter, longer = (learned.of(seconds).mean for seconds in (100.0, 1000.0))
    assert longer - shorter == pytest.approx(learned.slope * math.log(10))


def test_a_duration_that_says_nothing_changes_nothing() -> None:
    slopes = [of_durations(0.0, seed).slope for seed in range(20)]
    assert slopes.count(0.0) >= 18  # within two standard errors is chance
    assert max(map(abs, slopes)) < 0.05


@pytest.mark.parametrize("duration", [None, 300.0])
def test_durations_that_are_unknown_or_the_same_leave_no_slope(duration: float | None) -> None:
    samples = [Sample(took, 1.1 * took, duration) for took in (10.0, 40.0, 90.0)]
    learned = fit(samples * 20)
    assert learned.slope == 0.0
    assert learned.usual == pytest.approx(math.log(duration or 1.0))
    assert learned.of(5.0) == learned.of(None)


@pytest.mark.parametrize("duration", [None, 0.0])
def test_an_unknown_duration_gets_the_pace_of_a_usual_one(duration: float | None) -> None:
    learned = of_durations(1.0)
    assert learned.of(duration).mean == learned.mean


def test_a_first_poll_keeps_the_duration_of_the_video() -> None:
    row = in_progress(duration_seconds=120.0)
    for percent in (None, 0.0, 50.0, 100.0):
        sample = first_sample(row, percent, NOW + 60)
        assert sample
        assert sample.duration == 120.0


def test_a_pace_of_durations_is_kept_from_run_to_run() -> None:
    learned = Pace.of({DEFAULT: [Sample(1.0, math.inf), Sample(20.0, 30.0, 61.5)] * 20})
    value = json.loads(json.dumps(learned.as_value()))
    assert Pace.parse(value).samples == learned.samples
    assert Pace.parse(value).as_value() == learned.as_value()


def test_a_pace_that_was_kept_without_durations_is_read() -> None:
    former = {"samples": [[1.0, None], [0.0, 9.5]], "mean": 3.5, "deviation": 0.8}
    learned = Pace.parse({"default": former})
    assert learned.samples[DEFAULT] == (Sample(1.0, math.inf), Sample(0.0, 9.5))
    assert learned.fits[DEFAULT] == Fit(3.5, 0.8, slope=0.0, usual=0.0)


@pytest.mark.parametrize(("percent", "is_known"), [(-0.01, False), (0.01, True)])
def test_a_percentage_within_the_noise_tells_no_end(percent: float, *, is_known: bool) -> None:
    sample = first_sample(in_progress(), INFORMATIVE_PERCENT + percent, NOW + 60)
    assert sample
    assert math.isfinite(sample.at_most) == is_known
