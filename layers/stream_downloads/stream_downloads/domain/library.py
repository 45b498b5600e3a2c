"""Pages through the library, and decides where each look-back begins. Pure.

Cloudflare lists at most a thousand videos at a time, by the time they were created, without a
cursor; whether the bounds are inclusive is disputed. So each page starts a second before the last
video of the page before, and videos seen already are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from stream_downloads.domain.download import iso_time
from stream_downloads.domain.video import Video, VideoPage

PAGE: Final = 1000
OVERLAP_SECONDS: Final = 1.0
# Cloudflare is asked in whole milliseconds: this is an instant, and the step past one.
INSTANT_SECONDS: Final = 0.001

# A video that is ready within three hours of its creation is in the look-back of the next run.
SHORT_SECONDS: Final = 3 * 3600.0
# A schedule's runs come a moment early or late: ten minutes less than a day is once a day.
WHOLE_EVERY: Final = 24 * 3600.0 - 600.0


class NoTimes(Exception):
    """A full page of the library has no video with a usable time of creation."""


@dataclass(slots=True)
class Walk:
    """Page through the library, the oldest video first.

    Attributes:
        start: where the next page starts, seconds since the epoch: all videos created before it
            have been seen, except those at the instants of ``skipped``.
        seen: the videos seen that the next page may repeat.
        skipped: instants at which more videos were created than Cloudflare lists at a time.
        done: whether the end of the library was reached.
    """

    start: float
    seen: set[str] = field(default_factory=set)
    skipped: list[float] = field(default_factory=list)
    done: bool = False

    def take(self, page: VideoPage) -> list[Video]:
        """Advance past a page and return its new videos, each once.

        Raises:
            NoTimes: it is a full page without a time, so that the next page has no start.
        """
        new = {video.uid: video for video in page.videos if video.uid not in self.seen}
        created = {video.uid: video.created_at for video in page.videos}
        times = [time for time in created.values() if time is not None]
        if page.listed < PAGE:
            self.done = True
        elif not times:
            raise NoTimes(
                f"Cloudflare lists {page.listed} videos from {iso_time(self.start)} on, none with a"
                " usable `created`: the reconciliation cannot go past them. Request their downloads"
                " one by one, and look for a newer version of this project."
            )
        latest = _instant(max(times)) if times else self.start
        if new or self.done:
            self.start = max(self.start, _instant(latest - OVERLAP_SECONDS))
        elif latest > self.start:  # a page within a second: continue without an overlap
            self.start = latest
        else:  # a page within an instant: there is no way to list the rest of it
            self.skipped.append(latest)
            self.start += INSTANT_SECONDS
        self.seen = {uid for uid, time in created.items() if time is None or time >= self.start}
        return list(new.values())


@dataclass(frozen=True, slots=True)
class LookBack:
    """Hold the progress of one look-back, and when the last complete ones began.

    Attributes:
        began_at: when this one began, seconds since the epoch.
        start: the time of creation up to which all videos have been seen.
        is_whole: whether it covers all of ReconcileLookbackHours.
        completed_at: when the last complete one began; None before the first.
        whole_at: when the last complete whole one began; None before the first.
        is_done: whether this one reached the end of the library.
    """

    began_at: float
    start: float
    is_whole: bool
    completed_at: float | None
    whole_at: float | None
    is_done: bool = False

    @classmethod
    def following(cls, kept: Mapping[str, Any], now: float, lookback: float) -> LookBack:
        """Return the look-back to make now.

        An interrupted one continues where it stopped. Otherwise it begins three hours before the
        last complete one began, and once a day ``lookback`` seconds before ``now``. It never
        begins earlier than that.

        Args:
            kept: the last result of :meth:`as_value`, empty before the first look-back.
            now: seconds since the epoch.
            lookback: ReconcileLookbackHours, in seconds.
        """
        completed_at, whole_at = kept.get("completed_at"), kept.get("whole_at")
        earliest = now - lookback
        if rest := kept.get("interrupted"):
            start = max(rest["start"], earliest)
            return cls(rest["began_at"], start, rest["is_whole"], completed_at, whole_at)
        start, is_whole = earliest, True
        if completed_at is not None and whole_at is not None and now - whole_at < WHOLE_EVERY:
            start, is_whole = max(completed_at - SHORT_SECONDS, earliest), False
        return cls(now, start, is_whole, completed_at, whole_at)

    def after(self, walk: Walk) -> LookBack:
        """Return this look-back with the progress of ``walk``."""
        left = replace(self, start=walk.start, is_done=walk.done)
        if not walk.done:
            return left
        whole_at = self.began_at if self.is_whole else self.whole_at
        return replace(left, completed_at=self.began_at, whole_at=whole_at)

    def as_value(self) -> dict[str, Any]:
        """Return the record for the control table, from which the next run continues."""
        rest = {"began_at": self.began_at, "start": self.start, "is_whole": self.is_whole}
        return {
            "completed_at": self.completed_at,
            "whole_at": self.whole_at,
            "interrupted": None if self.is_done else rest,
        }


def _instant(time: float) -> float:
    # The half microsecond is for floats that lie just below the millisecond they stand for.
    return math.floor(time * 1000 + 0.0005) / 1000
