"""Every hour and on demand: ready videos without a row become intents; the backfill, too."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.shared_state import Lease
from stream_downloads.adapters.stream_api import CloudflareError
from stream_downloads.domain.download import Download, DownloadType, Lane, iso_time
from stream_downloads.domain.library import OVERLAP_SECONDS, PAGE, Walk
from stream_downloads.services import intents
from stream_downloads.services.gateway import NotNow, ask
from stream_downloads.services.steps import facts_of

if TYPE_CHECKING:
    from stream_downloads.adapters.downloads_table import Downloads
    from stream_downloads.domain.video import Video
    from stream_downloads.services.dependencies import Service

KEYS_AT_ONCE: Final = 100
# The webhook of a video that has only just become ready may still be on its way.
WEBHOOK_TAKES_AT_MOST: Final = 600.0
CURSOR: Final = "reconcile-cursor"
# How far a run got through the last hours that had no time, or no allowance, for all of them.
LOOK_BACK: Final = "look-back-cursor"
# Written once the last hours have been walked through for the first time: what was there before
# the stack was, no webhook of it has missed.
FIRST_RUN: Final = "first-reconciliation"
LISTING_SECONDS: Final = 30.0
# A page has to be listed and recorded, both types of a thousand videos new.
STOP_BEFORE_TIMEOUT: Final = 90.0
LEASE_SECONDS: Final = 120.0


class Run:
    """One run: the last hours, then the backfill, for as long as the time and the budget last."""

    def __init__(
        self, service: Service, remaining: Callable[[], float], in_parallel: Callable[..., Any]
    ) -> None:
        """``remaining`` gives the seconds left; ``in_parallel`` is a ``map``."""
        self.service = service
        self.remaining = remaining
        self.in_parallel = in_parallel
        self.lease = Lease(service.control, "reconcile-lease", uuid.uuid4().hex, LEASE_SECONDS)
        self.seen = 0
        self.requested = 0
        self.missed = 0

    def reconcile(self, lookback: float, since: float | None) -> dict[str, Any]:
        """Look back that many seconds; then begin a backfill, or continue the one under way."""
        if since is not None:
            self.write_cursor({"since": since, "start": since - OVERLAP_SECONDS})
        if not self.lease.hold():
            return self.answer("another run is at work; it does what there is to do")
        try:
            self.look_back(lookback)
            self.continue_backfill()
        except (NotNow, OutOfTime) as reason:
            return self.answer(f"{reason} The next run goes on from there.")
        except CloudflareError as error:
            logger.warning("The library could not be listed", extra=described(error))
            return self.answer("Cloudflare did not list the library. The next run tries again.")
        finally:
            self.lease.release()
        return self.answer("done")

    def look_back(self, lookback: float) -> None:
        """Walk through the last hours, from where the run before had to stop, if it had to."""
        first = self.service.control.read(FIRST_RUN)
        reached = self.service.control.read(LOOK_BACK).value
        walk = Walk(reached.get("start", self.service.clock() - lookback))
        try:
            self.walk(walk, Lane.LIVE, lambda: self.remember_look_back(walk))
        finally:
            record(Metric.VIDEOS_FOUND, self.missed if first.version else 0)
        if not first.version:
            self.service.control.write(FIRST_RUN, {"at": self.service.clock()}, first.version)

    def remember_look_back(self, walk: Walk) -> None:
        """Remember how far the last hours have been walked through; mostly that is all of them."""
        record = self.service.control.read(LOOK_BACK)
        reached = {} if walk.done else {"start": walk.start}
        if reached != record.value:
            self.service.control.write(LOOK_BACK, reached, record.version)

    def continue_backfill(self) -> None:
        """Go on where the cursor says, page by page; every page is remembered."""
        cursor = self.service.control.read(CURSOR).value
        if not cursor:
            return
        walk = Walk(cursor["start"])
        self.walk(walk, Lane.BACKFILL, lambda: self.move_cursor(cursor, walk))

    def walk(self, walk: Walk, lane: Lane, after_page: Callable[[], None] = lambda: None) -> None:
        """Record what the library holds from there on."""
        while not walk.done:
            if self.remaining() < STOP_BEFORE_TIMEOUT:
                raise OutOfTime
            start = iso_time(walk.start)
            send = partial(self.service.stream.list_videos, start=start, limit=PAGE)
            page = ask(self.service, send, "list_videos", LISTING_SECONDS)
            if unusable := page.listed - len(page.videos):
                logger.error(
                    "Cloudflare lists videos without a usable uid", extra={"videos": unusable}
                )
            new = walk.take(page)
            types = self.service.download_types
            now = self.service.clock()
            recorded = record_page(self.service.downloads, new, types, lane, now, self.in_parallel)
            self.requested += recorded.opened
            self.missed += recorded.missed
            self.seen += len(new)
            after_page()
            self.lease.hold()

    def move_cursor(self, cursor: dict[str, float], walk: Walk) -> None:
        """Remember how far the backfill has come, unless a new one was begun meanwhile."""
        record = self.service.control.read(CURSOR)
        if record.value.get("since") == cursor["since"]:
            reached = {} if walk.done else {"since": cursor["since"], "start": walk.start}
            self.service.control.write(CURSOR, reached, record.version)

    def write_cursor(self, cursor: dict[str, float]) -> None:
        """Begin a backfill, in place of one of another time that may be under way.

        One of the same time goes on: a client that does not wait for the answer asks again.
        """
        while True:
            record = self.service.control.read(CURSOR)
            if record.value.get("since") == cursor["since"]:
                return
            if self.service.control.write(CURSOR, cursor, record.version):
                return

    def answer(self, ended: str) -> dict[str, Any]:
        """What the run did, and what is left to do."""
        cursor = self.service.control.read(CURSOR).value
        return {
            "videos_seen": self.seen,
            "videos_requested": self.requested,
            "backfill": {
                "since": iso_time(cursor["since"]),
                "reached": iso_time(cursor["start"]),
            }
            if cursor
            else None,
            "ended": ended,
        }


class OutOfTime(Exception):
    """The function's time is over."""

    def __str__(self) -> str:
        """For the answer."""
        return "The function's time was over."


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
        # Older videos lack the time at which they became ready.
        and now - (video.ready_at or video.created_at or now) > WEBHOOK_TAKES_AT_MOST
    ]
    return Recorded(len(opened), len(missed))
