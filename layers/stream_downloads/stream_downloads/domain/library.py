"""Walks the library page by page, the oldest video first. Pure.

Cloudflare lists at most a thousand videos at a time, by the time they were created, without a
cursor; whether the bounds are inclusive is disputed. So each page starts a second before the last
video of the page before, and what was seen already is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from stream_downloads.domain.download import iso_time
from stream_downloads.domain.video import Video, VideoPage

PAGE: Final = 1000
OVERLAP_SECONDS: Final = 1.0


class TooManyAtOnce(Exception):
    """More videos were created within a second than Cloudflare lists at a time."""


@dataclass(slots=True)
class Walk:
    """A way through the library, the oldest video first.

    Attributes:
        start: where the next page starts, seconds since the epoch: all videos created before it
            have been seen.
        seen: the videos seen that the next page may repeat.
        done: whether the end of the library was reached.
    """

    start: float
    seen: set[str] = field(default_factory=set)
    done: bool = False

    def take(self, page: VideoPage) -> list[Video]:
        """Go past a page; the videos of it that were not seen before.

        Raises:
            TooManyAtOnce: a full page holds nothing new, so that what lies behind it cannot be
                reached.
        """
        new = [video for video in page.videos if video.uid not in self.seen]
        if page.listed < PAGE:
            self.done = True
        elif not new:
            raise TooManyAtOnce(
                f"Over {PAGE} videos were created within a second of {iso_time(self.start)}, and"
                " Cloudflare lists no more at a time: request the downloads of these one by one."
            )
        created = {video.uid: video.created_at for video in page.videos}
        latest = max((time for time in created.values() if time is not None), default=self.start)
        self.start = max(self.start, latest - OVERLAP_SECONDS)
        self.seen = {uid for uid, time in created.items() if time is None or time >= self.start}
        return new
