"""Every hour and on demand: ready videos without a row become intents; the backfill, too."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.shared_state import Lease
from stream_downloads.adapters.stream_api import CloudflareError, RefusalKind, Refused
from stream_downloads.domain.download import Download, DownloadType, Lane, iso_time
from stream_downloads.domain.library import OVERLAP_SECONDS, PAGE, LookBack, Walk
from stream_downloads.services import intents
from stream_downloads.services.gateway import CALL_SECONDS, NotNow

if TYPE_CHECKING:
    from stream_downloads.adapters.downloads_table import Downloads
    from stream_downloads.domain.video import Video, VideoPage
    from stream_downloads.services.dependencies import Service

Key = tuple[str, DownloadType]

KEYS_AT_ONCE: Final = 100
# The webhook of a video that has only just become ready may still be on its way.
WEBHOOK_TAKES_AT_MOST: Final = 600.0
# The records of the control table.
LOOK_BACK: Final = "look-back"
BACKFILL: Final = "reconcile-cursor"
ENCODING: Final = "encoding-videos"
# Videos that encode for less than three hours are found by the look-backs alone. Ten minutes less
# than an hour, because the schedule's runs come a moment early or late.
ENCODING_EVERY: Final = 3000.0
LISTING_SECONDS: Final = 30.0
# A page has to be listed and recorded, both types of a thousand videos new.
STOP_BEFORE_TIMEOUT: Final = 90.0
LEASE_SECONDS: Final = 120.0
KNOWN_AT_MOST: Final = 20_000


class OutOfTime(Exception):
    """The function's time is over."""


class Known:
    """Rows that a warm process has seen settled, so that short look-backs need not read them again.

    A row that somebody deletes from the table is noticed by the next whole look-back, which does
    not use this.
    """

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}  # the oldest first

    def __contains__(self, key: Key) -> bool:
        """Tell whether the row has been seen settled."""
        return key in self._keys

    def add(self, keys: set[Key]) -> None:
        """Remember these rows, and forget the oldest beyond a number that fits into memory."""
        self._keys |= dict.fromkeys(keys)
        for key in list(islice(self._keys, max(0, len(self._keys) - KNOWN_AT_MOST))):
            del self._keys[key]


class Run:
    """One run: look back, check what was encoding, then backfill, while time and budget last.

    Args:
        service: the parts of the service.
        remaining: gives the seconds that the function has left.
        in_parallel: ``map`` over a pool of threads, or the plain one.
        known: what earlier runs of the process have seen settled.
    """

    def __init__(
        self,
        service: Service,
        remaining: Callable[[], float],
        in_parallel: Callable[..., Any],
        known: Known | None = None,
    ) -> None:
        self._service = service
        self._control = service.control
        self._remaining = remaining
        self._in_parallel = in_parallel
        self._known = known or Known()
        self._lease = Lease(service.control, "reconcile-lease", uuid.uuid4().hex, LEASE_SECONDS)
        self._seen = 0
        self._requested = 0
        self._missed = 0
        self._skipped: list[str] = []

    def reconcile(self, lookback: float, since: float | None) -> dict[str, Any]:
        """Reconcile the table with the library.

        Args:
            lookback: how far a whole look-back goes back, in seconds.
            since: where to begin a backfill, seconds since the epoch; None continues the one
                under way, if there is one.

        Returns:
            The answer of the invocation: what was done, and what is left to do.

        Raises:
            NoTimes: Cloudflare lists videos in a way that cannot be walked through.
            SecretUnavailable: the credentials for Cloudflare cannot be used.
            botocore.exceptions.ClientError, BotoCoreError: the tables failed.
        """
        if since is not None:
            self._begin_backfill(since)
        if not self._lease.hold():
            return self._answer("another run is at work; it does what there is to do")
        try:
            self._find_recent(lookback)
            self._continue_backfill()
        except OutOfTime:
            return self._answer("The function's time was over. The next run goes on from there.")
        except NotNow as reason:
            return self._answer(f"{reason} The next run goes on from there.")
        except CloudflareError as error:
            logger.warning("The library could not be listed", extra=described(error))
            return self._answer("Cloudflare did not list the library. The next run tries again.")
        finally:
            self._lease.release()
        return self._answer("done")

    # What no webhook told of

    def _find_recent(self, lookback: float) -> None:
        """Find the videos that became ready lately, and count those whose webhook was missed."""
        kept = self._control.read(LOOK_BACK).value
        look_back = LookBack.following(kept, self._service.clock(), lookback)
        try:
            self._look_back(look_back)
            self._find_encoded()
        finally:
            # Videos older than the stack were missed by no webhook of it.
            is_first = look_back.completed_at is None
            record(Metric.VIDEOS_FOUND, 0 if is_first else self._missed)

    def _look_back(self, look_back: LookBack) -> None:
        """Walk through the last hours; where the walk has to stop, the next run goes on."""
        walk = Walk(look_back.start)

        def remember() -> None:
            kept = self._control.read(LOOK_BACK)
            self._control.write(LOOK_BACK, look_back.after(walk).as_value(), kept.version)

        self._walk(walk, Lane.LIVE, remember, Known() if look_back.is_whole else self._known)

    def _find_encoded(self) -> None:
        """Find the videos that were encoding an hour ago and are ready now.

        The look-backs go by creation: they miss a video that encodes for longer than they reach.
        So the uids of all encoding videos are remembered, and each that is listed no more and has
        no row is asked for.
        """
        kept = self._control.read(ENCODING)
        if self._service.clock() - kept.value.get("listed_at", 0.0) < ENCODING_EVERY:
            return
        listed_at = self._service.clock()
        encoding = {video.uid for video in self._list(status="inprogress").videos}
        gone = [uid for uid in kept.value.get("uids", []) if uid not in encoding]
        types = self._service.download_types
        settled = read_settled(self._service.downloads, gone, types, self._known)
        for uid in gone:
            if any((uid, kind) not in settled for kind in types) and self._is_still_encoding(uid):
                encoding.add(uid)
        value = {"listed_at": listed_at, "uids": sorted(encoding)}
        self._control.write(ENCODING, value, kept.version)

    def _is_still_encoding(self, uid: str) -> bool:
        """Ask for a video that was encoding: record it if it is ready, tell if it is not yet."""
        self._check_time()
        try:
            gateway = self._service.gateway
            video = gateway.ask(gateway.stream.get_video, uid, seconds=CALL_SECONDS)
        except Refused as refusal:
            if refusal.kind in (RefusalKind.CREDENTIALS, RefusalKind.THROTTLED):
                raise
            if refusal.kind is RefusalKind.NOT_FOUND:  # it was deleted meanwhile
                return False
            details = {"video_uid": uid, **described(refusal)}
            logger.warning("Cloudflare did not describe a video: asked again later", extra=details)
            return True
        if video.state == "ready":
            self._record([video], Lane.LIVE, self._known)
        return video.state not in ("ready", "error")

    # The backfill

    def _begin_backfill(self, since: float) -> None:
        """Begin a backfill, in place of one of another time that may be under way.

        One of the same time goes on: a client that does not wait for the answer asks again.
        """
        cursor = {"since": since, "start": since - OVERLAP_SECONDS}
        while True:
            kept = self._control.read(BACKFILL)
            if kept.value.get("since") == since:
                return
            if self._control.write(BACKFILL, cursor, kept.version):
                return

    def _continue_backfill(self) -> None:
        """Go on where the backfill stopped; its cursor moves with every page."""
        cursor = self._control.read(BACKFILL).value
        if not cursor:
            return
        walk = Walk(cursor["start"])

        def remember() -> None:
            kept = self._control.read(BACKFILL)
            if kept.value.get("since") == cursor["since"]:  # no other one was begun meanwhile
                reached = {} if walk.done else {**cursor, "start": walk.start}
                self._control.write(BACKFILL, reached, kept.version)

        self._walk(walk, Lane.BACKFILL, remember, Known())

    # Both

    def _walk(self, walk: Walk, lane: Lane, remember: Callable[[], None], known: Known) -> None:
        """Record the ready videos from there on, page by page; ``remember`` keeps the place."""
        while not walk.done:
            self._check_time()
            page = self._list(status="ready", start=iso_time(walk.start))
            self._record(walk.take(page), lane, known)
            if walk.skipped:
                self._note_skipped(walk.skipped.pop())
            remember()
            self._lease.hold()

    def _list(self, *, status: str, start: str | None = None) -> VideoPage:
        gateway = self._service.gateway
        page = gateway.ask(
            gateway.stream.list_videos,
            status=status,
            start=start,
            limit=PAGE,
            seconds=LISTING_SECONDS,
        )
        if unusable := page.listed - len(page.videos):
            details = {"videos": unusable}
            logger.error("Cloudflare lists videos without a usable uid", extra=details)
        return page

    def _record(self, videos: Sequence[Video], lane: Lane, known: Known) -> None:
        now = self._service.clock()
        types = self._service.download_types
        recorded = record_page(
            self._service.downloads, videos, types, lane, now, self._in_parallel, known
        )
        self._requested += recorded.opened
        self._missed += recorded.missed
        self._seen += len(videos)

    def _note_skipped(self, instant: float) -> None:
        self._skipped.append(iso_time(instant))
        details = {"created_at": iso_time(instant)}
        logger.error("More videos were created at one instant than are listed", extra=details)

    def _check_time(self) -> None:
        if self._remaining() < STOP_BEFORE_TIMEOUT:
            raise OutOfTime

    def _answer(self, ended: str) -> dict[str, Any]:
        cursor = self._control.read(BACKFILL).value
        backfill = (
            {
                "since": iso_time(cursor["since"]),
                "reached": iso_time(cursor["start"]),
            }
            if cursor
            else None
        )
        answer = {
            "videos_seen": self._seen,
            "videos_requested": self._requested,
            "backfill": backfill,
            "ended": ended,
        }
        if self._skipped:
            answer["skipped"] = (
                f"More than {PAGE} videos were created at {', '.join(self._skipped)}. Cloudflare"
                " lists no more of them: request the downloads of the others one by one."
            )
        return answer


class Recorded(NamedTuple):
    """The result of recording a page.

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
    known: Known,
) -> Recorded:
    """Make sure that each wanted download of these ready videos has a row.

    Rows that are there cost a read, not a write.

    Args:
        downloads: the table.
        videos: of one page, each once.
        download_types: which downloads each has to have.
        lane: where new rows wait.
        now: seconds since the epoch.
        in_parallel: ``map`` over a pool of threads, or the plain one.
        known: the rows that need not be read.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: not everything could be written; to walk
            over the page again does no harm.
    """
    settled = read_settled(downloads, [video.uid for video in videos], download_types, known)

    def open_rows(video: Video) -> list[Download]:
        missing = [kind for kind in download_types if (video.uid, kind) not in settled]
        return intents.video_is_ready(downloads, video, missing, now, lane=lane)

    lacking = [
        video
        for video in videos
        if any((video.uid, kind) not in settled for kind in download_types)
    ]
    found = zip(lacking, in_parallel(open_rows, lacking), strict=True)
    opened = [video for video, rows in found if rows]
    known.add({(video.uid, kind) for video in opened for kind in download_types})
    # A video with a row of one type has been heard of: another type is wanted only since then.
    missed = [
        video
        for video in opened
        if not any((video.uid, kind) in settled for kind in download_types)
        # Older videos lack the time at which they became ready.
        and now - (video.ready_at or video.created_at or now) > WEBHOOK_TAKES_AT_MOST
    ]
    return Recorded(len(opened), len(missed))


def read_settled(
    downloads: Downloads, uids: Sequence[str], download_types: Sequence[DownloadType], known: Known
) -> set[Key]:
    """Return the downloads of these videos that a ready video would leave as they are."""
    wanted = [(uid, kind) for uid in uids for kind in download_types]
    settled = {key for key in wanted if key in known}
    unread = (key for key in wanted if key not in settled)
    while keys := list(islice(unread, KEYS_AT_ONCE)):
        settled |= downloads.settled(keys)
    known.add(settled)
    return settled
