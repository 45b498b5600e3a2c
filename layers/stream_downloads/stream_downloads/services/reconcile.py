"""Finds ready videos without a row, on a schedule and on demand, and backfills the library."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import Lease
from stream_downloads.adapters.stream_api import CloudflareError, RefusalKind, Refused
from stream_downloads.domain.download import Lane, iso_time
from stream_downloads.domain.library import OVERLAP_SECONDS, PAGE, LookBack, Reach, Walk
from stream_downloads.services.gateway import CALL_SECONDS, NotNow
from stream_downloads.services.record import WEBHOOK_TAKES_AT_MOST, Known, Recorder
from stream_downloads.services.signing_secret import REGISTRATION
from stream_downloads.services.waker import wake_poller

if TYPE_CHECKING:
    from stream_downloads.adapters.shared_state import Record
    from stream_downloads.domain.video import Video, VideoPage
    from stream_downloads.services.dependencies import Service

# The records of the control table.
LOOK_BACK: Final = "look-back"
BACKFILL: Final = "reconcile-cursor"
ENCODING: Final = "encoding-videos"
# The look-backs find videos that encode for less than three hours, so an hourly check of the others
# is enough: less ten minutes, because the schedule's runs come a moment early or late.
ENCODING_EVERY: Final = 3000.0
# The record of encoding videos has to stay far below the 400 KB of an item.
ENCODING_AT_MOST: Final = 2000
ENCODING_SECONDS_AT_MOST: Final = 30 * 86_400.0
LISTING_SECONDS: Final = 30.0
# The time to list and record a page of a thousand new videos, with two downloads each.
STOP_BEFORE_TIMEOUT: Final = 90.0
# The backfill and the check of encoding videos stop so long before the next look-back is due.
KEPT_FOR_LOOK_BACK: Final = 15.0
# The check of encoding videos leaves the backfill this much of the function's time.
KEPT_FOR_BACKFILL: Final = 240.0
LEASE_SECONDS: Final = 120.0


class OutOfTime(Exception):
    """The time for the present work is over."""


class LeaseLost(Exception):
    """Another run holds the lease: this one must not save its progress."""


class Run:
    """Look back, check the videos that were encoding, then backfill, while time and budget last."""

    def __init__(
        self,
        service: Service,
        remaining: Callable[[], float],
        in_parallel: Callable[..., Any],
        known: Known | None = None,
        *,
        period: float = 3600.0,
    ) -> None:
        """Prepare one run.

        Args:
            service: the parts of the service.
            remaining: returns the seconds that the function has left.
            in_parallel: ``map`` over a pool of threads, or the plain one.
            known: the rows that earlier runs of the process have seen settled.
            period: ReconcileMinutes, in seconds.
        """
        self._service = service
        self._control = service.control
        self._remaining = remaining
        self._period = period
        self._period_ends_at = service.monotonic() + period - KEPT_FOR_LOOK_BACK
        types = service.download_types
        self._recorder = Recorder(service.downloads, types, in_parallel, known or Known())
        self._lease = Lease(service.control, "reconcile-lease", uuid.uuid4().hex, LEASE_SECONDS)
        self._seen = 0
        self._requested = 0
        self._missed = 0
        self._skipped: list[str] = []
        self._unanswered = 0
        self._problems: list[str] = []

    def reconcile(self, lookback: float, since: float | None) -> dict[str, Any]:
        """Reconcile the table with the library.

        Args:
            lookback: the seconds that a whole look-back covers.
            since: the start of a backfill, seconds since the epoch; None continues the one under
                way, if there is one.

        Returns:
            The answer of the invocation: what was done, and what is left to do.

        Raises:
            NoTimes: Cloudflare lists videos in a way that cannot be paged through.
            botocore.exceptions.ClientError, BotoCoreError: the tables failed.
        """
        if since is not None:
            self._begin_backfill(since)
        if not self._lease.hold():
            self._problems.append("another run is at work; it does what there is to do")
            return self._answer()
        try:
            # A run reaches at least an hour further than the one before it.
            self._find_recent(max(lookback, self._period + 3600.0))
            self._continue_backfill()
        except LeaseLost:
            self._problems.append("Another run has taken over.")
        except (OutOfTime, NotNow) as reason:
            self._problems.append(f"{reason} The next run goes on from there.")
        except SecretUnavailable as error:
            logger.error("The library could not be listed", extra=described(error))
            self._problems.append(f"{error}. The next run tries again.")
        except CloudflareError as error:
            logger.warning("The library could not be listed", extra=described(error))
            self._problems.append("Cloudflare did not list the library. The next run tries again.")
        finally:
            self._lease.release()
        return self._answer()

    # --- videos without a webhook -------------------------------------------------------------

    def _find_recent(self, lookback: float) -> None:
        """Find the videos that became ready lately, and count those whose webhook was missed."""
        expects_webhooks = self._expects_webhooks()
        kept = self._control.read(LOOK_BACK).value
        look_back = LookBack.following(kept, self._service.clock(), lookback)
        try:
            self._look_back(look_back)
            self._find_encoded()
        finally:
            if expects_webhooks:
                # The first look-back finds videos that are older than the stack.
                is_first = look_back.completed_at is None
                record(Metric.VIDEOS_FOUND, 0 if is_first else self._missed)

    def _expects_webhooks(self) -> bool:
        """Return True if a webhook that does not come is to be counted as missed.

        A stack without a registration gets none. One that reconciles before a webhook counts as
        missed does not depend on them.
        """
        if self._period <= WEBHOOK_TAKES_AT_MOST:
            return False
        return bool(self._control.read(REGISTRATION).value)

    def _look_back(self, look_back: LookBack) -> None:
        """Page through the latest videos; the next run goes on where this one has to stop."""
        walk = Walk(look_back.start)

        def remember() -> None:
            kept = self._control.read(LOOK_BACK)
            self._control.write(LOOK_BACK, look_back.after(walk).as_value(), kept.version)

        recorder = self._recorder
        if look_back.reach is Reach.WHOLE:
            recorder = replace(recorder, known=Known())
        self._walk(walk, Lane.LIVE, remember, recorder)

    def _find_encoded(self) -> None:
        """Find the videos that were encoding an hour ago and are ready now.

        The look-backs go by the time of creation, and miss a video that encodes for too long. So
        the uids of all encoding videos are kept, and each that is no longer listed as encoding and
        has no row is looked up. A failure is reported, and does not stop the backfill.
        """
        kept = self._control.read(ENCODING)
        if self._service.clock() - kept.value.get("listed_at", -math.inf) < ENCODING_EVERY:
            return
        try:
            self._check_encoding(kept)
        except (OutOfTime, NotNow, CloudflareError) as error:
            logger.warning("The check of encoding videos stopped", extra=described(error))
            self._problems.append(
                f"The check of encoding videos stopped and goes on later: {error}"
            )
        if self._unanswered:
            self._problems.append(
                f"Cloudflare did not describe {self._unanswered} of the videos that were encoding."
                " The next runs retry within an hour."
            )

    def _check_encoding(self, kept: Record) -> None:
        """Look up the videos that are no longer listed as encoding, and keep the others."""
        now = self._service.clock()
        before = kept.value.get("first_seen", {})
        listed = self._list(status="inprogress").videos
        encoding = {video.uid: before.get(video.uid, int(now)) for video in listed}
        unlisted = {uid: seen_at for uid, seen_at in before.items() if uid not in encoding}
        value: dict[str, Any] = {}
        try:
            self._look_up(unlisted, now)
            value["listed_at"] = now
        finally:
            left = encoding | unlisted
            if len(left) > ENCODING_AT_MOST:
                details = {"videos": len(left) - ENCODING_AT_MOST}
                logger.error("More videos are encoding than are remembered", extra=details)
            value["first_seen"] = dict(islice(left.items(), ENCODING_AT_MOST))
            self._control.write(ENCODING, value, kept.version)

    def _look_up(self, unlisted: dict[str, float], now: float) -> None:
        """Look up each video without a row, and remove from ``unlisted`` those that are done."""
        types = self._service.download_types
        missing = self._recorder.missing(dict.fromkeys(unlisted, types))
        for uid, seen_at in list(unlisted.items()):
            if uid in missing and self._is_still_encoding(uid):
                if now - seen_at < ENCODING_SECONDS_AT_MOST:
                    unlisted[uid] = unlisted.pop(uid)  # the next run looks it up last
                    continue
                details = {"video_uid": uid, "first_seen": iso_time(seen_at)}
                logger.error("A video was not ready for 30 days: it is given up", extra=details)
            del unlisted[uid]

    def _is_still_encoding(self, uid: str) -> bool:
        """Look up a video and record it if it is ready; return True if it may become ready."""
        self._check_time(KEPT_FOR_BACKFILL)
        self._check_period()
        self._keep_lease()
        try:
            gateway = self._service.gateway
            video = gateway.ask(gateway.stream.get_video, uid, seconds=CALL_SECONDS)
        except CloudflareError as error:
            kind = error.kind if isinstance(error, Refused) else None
            if kind in (RefusalKind.CREDENTIALS, RefusalKind.THROTTLED):
                raise
            if kind is RefusalKind.NOT_FOUND:  # it was deleted meanwhile
                return False
            self._unanswered += 1
            details = {"video_uid": uid, **described(error)}
            logger.warning("Cloudflare did not describe a video: it is retried", extra=details)
            return True
        if video.state == "ready":
            self._record([video], Lane.LIVE, self._recorder)
        return video.state not in ("ready", "error")

    # --- backfill -----------------------------------------------------------------------------

    def _begin_backfill(self, since: float) -> None:
        """Begin a backfill; it replaces one of another time that may be under way.

        One of the same time continues: a caller that lost the answer sends the payload again.
        """
        cursor = {"since": since, "start": since - OVERLAP_SECONDS}
        while True:
            kept = self._control.read(BACKFILL)
            if kept.value.get("since") == since:
                return
            if self._control.write(BACKFILL, cursor, kept.version):
                return

    def _continue_backfill(self) -> None:
        """Continue where the backfill stopped; its cursor is saved after every page."""
        cursor = self._control.read(BACKFILL).value
        if not cursor:
            return
        self._check_period()
        walk = Walk(cursor["start"])

        def remember() -> None:
            kept = self._control.read(BACKFILL)
            if kept.value.get("since") == cursor["since"]:  # else another was begun meanwhile
                reached = {} if walk.done else {**cursor, "start": walk.start}
                self._control.write(BACKFILL, reached, kept.version)
            if not walk.done:
                self._check_period()

        fresh = replace(self._recorder, known=Known())
        self._walk(walk, Lane.BACKFILL, remember, fresh)

    # --- shared -------------------------------------------------------------------------------

    def _walk(
        self, walk: Walk, lane: Lane, remember: Callable[[], None], recorder: Recorder
    ) -> None:
        """Record the ready videos page by page to the end; ``remember`` saves the progress."""
        while not walk.done:
            self._check_time()
            page = self._list(status="ready", start=iso_time(walk.start))
            self._record(walk.take(page), lane, recorder)
            if walk.skipped:
                self._note_skipped(walk.skipped.pop())
            self._keep_lease()
            remember()

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

    def _record(self, videos: Sequence[Video], lane: Lane, recorder: Recorder) -> None:
        recorded = recorder.record(videos, lane, self._service.clock())
        self._requested += recorded.opened
        self._missed += recorded.missed
        self._seen += len(videos)
        if recorded.opened and lane is Lane.LIVE:
            wake_poller(self._service.waker, 0.0)

    def _note_skipped(self, instant: float) -> None:
        self._skipped.append(iso_time(instant))
        details = {"created_at": iso_time(instant)}
        logger.error("More videos were created at one instant than are listed", extra=details)

    def _check_time(self, kept: float = STOP_BEFORE_TIMEOUT) -> None:
        if self._remaining() < kept:
            raise OutOfTime("The function's time was over.")

    def _check_period(self) -> None:
        if self._service.monotonic() >= self._period_ends_at:
            raise OutOfTime("The next look-back is due.")

    def _keep_lease(self) -> None:
        if not self._lease.hold():
            raise LeaseLost

    def _answer(self) -> dict[str, Any]:
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
            "ended": " ".join(self._problems) or "done",
        }
        if self._skipped:
            answer["skipped"] = (
                f"More than {PAGE} videos were created at {', '.join(self._skipped)}. Cloudflare"
                " lists no more of them: request the downloads of the others one by one."
            )
        return answer
