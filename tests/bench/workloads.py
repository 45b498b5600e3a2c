"""Describes workloads: the numbers of a workload and its seed decide every upload."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from stream_downloads.domain.polling import price
from tests.simulator import Upload
from tests.support.template import environment

DEFAULT_WINDOW = float(environment()["POLL_WINDOW_SECONDS"])
LONGEST_SECONDS = 3 * 3600.0
MEAN_QUEUE_SECONDS = 5.0
NOISE_POINTS = 3.0
SHORT_VIDEOS = 300
MEDIAN_DURATION = 300.0
# The seconds that a download takes: a constant, and a part of the duration of its video.
SECONDS_OF_EACH = 10.0
SECONDS_OF_DURATION = 0.25
# A price of a poll, in seconds, at which a download takes a little over two polls.
DEAR = 13.0
# At this price the duration of a video saves both polls and delay, at the other one delay alone.
DEARER = 22.0


class Durations(StrEnum):
    """The durations of the videos: log-normal around five minutes, unless they are the same."""

    SAME = "same"
    UNRELATED = "unrelated"  # the time to generate does not depend on them
    RELATED = "related"  # it does
    HIDDEN = "hidden"  # it does, but Cloudflare reports the same duration for each


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Videos that become ready, and the time that their downloads take. Times are in seconds.

    Attributes:
        name: one lower-case word.
        videos: how many become ready while the stack is at work, each with a webhook.
        library: how many were ready before; a backfill requests them at the start.
        rate: videos a minute, at random moments; None if all of them come at once.
        median: of the log-normal time that a download takes to generate.
        sigma: the standard deviation of its logarithm.
        second_median: that of every other download, if there are two kinds of them.
        durations: how the durations of the videos differ, and whether the time follows them.
        progress: how the percentage grows (`tests.simulator.PROGRESS`).
        limit: ``CloudflareRequestLimit``.
        window: ``PollWindowSeconds``.
        price: of a poll, if it is fixed; None if it follows the load.
        seed: of all random numbers.
    """

    name: str
    videos: int = 1000
    library: int = 0
    rate: float | None = 10.0
    median: float = 90.0
    sigma: float = 1.0
    second_median: float | None = None
    durations: Durations = Durations.SAME
    progress: str = "linear"
    limit: int = 600
    window: float = DEFAULT_WINDOW
    price: float | None = None
    seed: int = 1

    def price_of_a_poll(self, load: float) -> float:
        """Return the price of a poll at a load, unless the workload fixes it."""
        return price(load, self.window) if self.price is None else self.price

    @property
    def floor(self) -> float:
        """Return when all could be ready with two requests each, sent at the full limit."""
        return 2 * self.videos * 300.0 / self.limit

    def uploads(self) -> list[Upload]:
        """Return the videos with a webhook, in the order in which they become ready."""
        chance = random.Random(self.seed)  # noqa: S311
        length = self.videos * 60.0 / self.rate if self.rate else 0.0
        moments = sorted(chance.uniform(0.0, length) for _ in range(self.videos))
        return self._described(chance, moments)

    def library_uploads(self) -> list[Upload]:
        """Return the videos that were ready before, without a webhook."""
        chance = random.Random(-self.seed)  # noqa: S311
        uploads = self._described(chance, [0.0] * self.library)
        return [replace(upload, webhook_delays=()) for upload in uploads]

    def _described(self, chance: random.Random, moments: Sequence[float]) -> list[Upload]:
        lengths = random.Random(self.seed)  # noqa: S311 - leaves the other numbers as they are
        medians = (self.median, self.second_median or self.median)
        uploads = []
        for number, moment in enumerate(moments):
            seconds = chance.lognormvariate(math.log(medians[number % 2]), self.sigma)
            duration = lengths.lognormvariate(math.log(MEDIAN_DURATION), 1.0)
            if self.durations in (Durations.RELATED, Durations.HIDDEN):
                seconds *= (SECONDS_OF_EACH + SECONDS_OF_DURATION * duration) / self.median
            upload = Upload(
                encode_seconds=moment,
                generation_seconds=min(LONGEST_SECONDS, seconds),
                queue_seconds=chance.expovariate(1 / MEAN_QUEUE_SECONDS),
                progress=self.progress,
                noise=NOISE_POINTS,
            )
            if self.durations in (Durations.RELATED, Durations.UNRELATED):
                upload = replace(upload, duration_seconds=round(duration, 1))
            uploads.append(upload)
        return uploads


STEADY = Workload(name="steady", videos=2000)
BY_DURATION = Workload(name="duration", durations=Durations.RELATED, sigma=0.3, price=DEARER)
BURST = Workload(name="burst", videos=5000, rate=None, limit=1000)
BACKFILL = Workload(name="backfill", videos=0, library=1500, limit=60)

WORKLOADS = (
    STEADY,
    Workload(name="quiet", videos=300, rate=0.2, median=10.0),
    replace(STEADY, name="window0", window=0.0),
    replace(STEADY, name="fixed", price=DEAR),
    Workload(name="rate20", videos=2000, rate=20.0),
    Workload(name="rate30", videos=2000, rate=30.0),
    Workload(name="rate36", videos=2000, rate=36.0),
    *(Workload(name=name, progress=name) for name in ("silent", "stalling")),
    *(Workload(name=name, progress=name) for name in ("jumping", "backwards")),
    Workload(name="bimodal", median=20.0, second_median=300.0, sigma=0.4),
    BY_DURATION,
    replace(BY_DURATION, name="durationless", durations=Durations.HIDDEN, price=DEAR),
    replace(STEADY, name="unrelated", durations=Durations.UNRELATED, price=DEAR),
    BURST,
    BACKFILL,
    replace(STEADY, name="beside", library=20_000),
)


def short(workload: Workload) -> Workload:
    """Return the workload with fewer videos, and with the same floor if it has one."""
    videos = min(workload.videos, SHORT_VIDEOS)
    limit = workload.limit
    if workload.rate is None:
        limit = limit * videos // workload.videos
    return replace(
        workload, videos=videos, library=min(workload.library, SHORT_VIDEOS), limit=limit
    )
