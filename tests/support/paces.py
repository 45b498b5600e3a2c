"""Make paces for tests."""

from __future__ import annotations

import math
from random import Random

from stream_downloads.domain.pace import Pace, first_sample
from tests.support.rows import DEFAULT, NOW, in_progress

IGNORANT = Pace.of({})


def pace_of(median: float, sigma: float = 0.5, polled_at: float = 1.0, seed: int = 0) -> Pace:
    """Return the pace learned from first polls, sent at about ``polled_at`` times the median."""
    chance = Random(seed)  # noqa: S311
    found = []
    for _ in range(96):
        seconds = chance.lognormvariate(math.log(median), sigma)
        age = median * polled_at * chance.uniform(0.5, 1.5)
        sample = first_sample(in_progress(), min(100.0, 100 * age / seconds), NOW + age)
        assert sample is not None
        found.append((DEFAULT, sample))
    return IGNORANT.with_samples(found)
