"""Walks the library, and finds the ready videos that no webhook told of.

Cloudflare lists at most a thousand videos at a time, by the time they were created, without a
cursor; whether the bounds are inclusive is disputed. So each page starts a second before the last
video of the page before, and what was seen already is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from stream_downloads import intents
from stream_downloads.advance import facts_of
from stream_downloads.download import Download, DownloadType, Lane
from stream_downloads.table import iso_time

if TYPE_CHECKING:
    from stream_downloads.cloudflare import Video, VideoPage
    from stream_downloads.table import Downloads

PAGE: Final = 1000
OVERLAP_SECONDS: Final = 1.0
KEYS_AT_ONCE: Final = 100
# The webhook of a video that has only just become ready may still be on its way.
WEBHOOK_TAKES_AT_MOST: Final = 600.0


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
        created = {video.uid: _time(video.created) for video in page.videos}
        latest = max((time for time in created.values() if time is not None), default=self.start)
        self.start = max(self.start, latest - OVERLAP_SECONDS)
        self.seen = {uid for uid, time in created.items() if time is None or time >= self.start}
        return new


class Recorded(NamedTuple):
    """What became of a page.

    Attributes:
        opened: videos that lacked a row, or had one that a ready video opens again.
        missed: those of them whose webhook should have been here by now.
    """

    opened: int
    missed: int


def record_page(
    downloads: Downloads,
    videos: Sequence[Video],
    download_types: Sequence[DownloadType],
    lane: Lane,
    now: float,
    in_parallel: Callable[..., Iterator[list[Download]]],
) -> Recorded:
    """Make sure that each wanted download of these ready videos has a row.

    Rows that are there cost a read, not a write.

    Args:
        downloads: the table.
        videos: of one page.
        download_types: which downloads each has to have.
        lane: where new rows wait.
        now: seconds since the epoch.
        in_parallel: ``map`` over a pool of threads, or the plain one.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: not everything could be written; to walk
            over the page again does no harm.
    """
    keys = iter([(video.uid, kind) for video in videos for kind in download_types])
    settled: set[tuple[str, DownloadType]] = set()
    while some := list(islice(keys, KEYS_AT_ONCE)):
        settled |= downloads.settled(some)

    def open_rows(video: Video) -> list[Download]:
        missing = [kind for kind in download_types if (video.uid, kind) not in settled]
        facts = facts_of(video)
        return intents.video_is_ready(downloads, video.uid, missing, facts, now, lane=lane)

    lacking = [
        video
        for video in videos
        if any((video.uid, kind) not in settled for kind in download_types)
    ]
    found = zip(lacking, in_parallel(open_rows, lacking), strict=True)
    opened = [video for video, rows in found if rows]
    # A video with a row of one type has been heard of: another type is wanted only since then.
    missed = [
        video
        for video in opened
        if not any((video.uid, kind) in settled for kind in download_types)
        and now - _ready_at(video, now) > WEBHOOK_TAKES_AT_MOST
    ]
    return Recorded(len(opened), len(missed))


def _ready_at(video: Video, otherwise: float) -> float:
    # https://developers.cloudflare.com/api/resources/stream/ names readyToStreamAt, but older
    # videos may lack it.
    return _time(video.ready_at) or _time(video.created) or otherwise


def _time(text: str | None) -> float | None:
    """Seconds since the epoch, None for what is no time."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        return None
