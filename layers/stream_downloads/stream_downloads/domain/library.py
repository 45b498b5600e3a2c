"""Pages through the library, and decides where each look-back begins. Pure.

Cloudflare lists at most a thousand videos at a time, in the order of their creation, without a
cursor. Sources disagree whether the bounds are inclusive. So each page starts a second before the
last video of the page before, and videos seen already are dropped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from stream_downloads.domain.download import iso_time
from stream_downloads.domain.video import Video, VideoPage

PAGE: Final = 1000
OVERLAP_SECONDS: Final = 1.0
# Requests carry times in whole milliseconds: one of them is called an instant.
INSTANT_SECONDS: Final = 0.001

# Once a day and once an hour, each less ten minutes: a schedule's runs come a moment early or late.
WHOLE_EVERY: Final = 24 * 3600.0 - 600.0
HOURS_EVERY: Final = 3600.0 - 600.0
# The hourly look-back finds videos that become ready within three hours of their creation.
HOURS_SECONDS: Final = 3 * 3600.0
# The look-backs between the hourly ones list this many videos again. It is half a page, so that
# most of these look-backs need one request.
RECENT_VIDEOS: Final = PAGE // 2


class Reach(StrEnum):
    """The range of a look-back: the frequent ones are short, to save requests."""

    RECENT = "recent"  # the newest videos, with a ReconcileMinutes below an hour
    HOURS = "hours"  # once an hour, three hours further than the one before
    WHOLE = "whole"  # once a day, all of ReconcileLookbackHours


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
        newest: when the newest of the videos seen were created, in order.
    """

    start: float
    seen: set[str] = field(default_factory=set)
    skipped: list[float] = field(default_factory=list)
    done: bool = False
    newest: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_VIDEOS))

    def take(self, page: VideoPage) -> list[Video]:
        """Advance past a page and return its new videos, each once.

        Raises:
            NoTimes: it is a full page without a time, so that the next page has no start.
        """
        new = {video.uid: video for video in page.videos if video.uid not in self.seen}
        created = {video.uid: video.created_at for video in page.videos}
        times = [time for time in created.values() if time is not None]
        self.newest.extend(sorted(v.created_at for v in new.values() if v.created_at is not None))
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
        reach: how far back it goes.
        completed_at: when the last complete one began; None before the first.
        hours_at: when the last complete one of at least three hours began.
        whole_at: when the last complete one of all of ReconcileLookbackHours began.
        recent_from: when the first of the newest ``RECENT_VIDEOS`` videos was created; None if
            the last look-back saw fewer.
        is_done: whether this one reached the end of the library.
    """

    began_at: float
    start: float
    reach: Reach
    completed_at: float | None = None
    hours_at: float | None = None
    whole_at: float | None = None
    recent_from: float | None = None
    is_done: bool = False

    @classmethod
    def following(cls, kept: Mapping[str, Any], now: float, lookback: float) -> LookBack:
        """Return the look-back to make now.

        An interrupted one continues where it stopped. A new one goes back ``lookback`` seconds
        once a day. Once an hour it goes back to three hours before the last long one began, and
        in between to the newest videos. None goes back more than ``lookback`` seconds.

        Args:
            kept: the last result of :meth:`as_value`, empty before the first look-back.
            now: seconds since the epoch.
            lookback: the seconds that a whole look-back covers.
        """
        completed_at, whole_at = kept.get("completed_at"), kept.get("whole_at")
        hours_at, recent_from = kept.get("hours_at", completed_at), kept.get("recent_from")
        earliest = now - lookback
        rest = kept.get("interrupted") or {}
        if "reach" in rest:
            began_at, start, reach = rest["began_at"], rest["start"], Reach(rest["reach"])
        elif completed_at is None or whole_at is None or now - whole_at >= WHOLE_EVERY:
            began_at, start, reach = now, earliest, Reach.WHOLE
        elif hours_at is None or now - hours_at >= HOURS_EVERY:
            began_at, start, reach = now, (hours_at or 0.0) - HOURS_SECONDS, Reach.HOURS
        else:
            start = max(completed_at - HOURS_SECONDS, recent_from or 0.0)
            began_at, reach = now, Reach.RECENT
        start = max(start, earliest)
        return cls(began_at, start, reach, completed_at, hours_at, whole_at, recent_from)

    def after(self, walk: Walk) -> LookBack:
        """Return this look-back with the progress of ``walk``."""
        left = replace(self, start=walk.start, is_done=walk.done)
        if not walk.done:
            return left
        is_full = len(walk.newest) == RECENT_VIDEOS
        return replace(
            left,
            completed_at=self.began_at,
            hours_at=self.hours_at if self.reach is Reach.RECENT else self.began_at,
            whole_at=self.began_at if self.reach is Reach.WHOLE else self.whole_at,
            recent_from=walk.newest[0] - OVERLAP_SECONDS if is_full else None,
        )

    def as_value(self) -> dict[str, Any]:
        """Return the record for the control table, from which the next run continues."""
        rest = {"began_at": self.began_at, "start": self.start, "reach": self.reach}
        return {
            "completed_at": self.completed_at,
            "hours_at": self.hours_at,
            "whole_at": self.whole_at,
            "recent_from": self.recent_from,
            "interrupted": None if self.is_done else rest,
        }


def _instant(time: float) -> float:
    # Half a microsecond corrects floats that lie just below their millisecond.
    return math.floor(time * 1000 + 0.0005) / 1000
