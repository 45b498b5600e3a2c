"""Every hour and on demand: ready videos without a row become intents; the backfill, too."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from stream_downloads import payload
from stream_downloads.ask import NotNow, ask
from stream_downloads.budget import Lease
from stream_downloads.cloudflare import CloudflareError
from stream_downloads.download import Lane
from stream_downloads.observability import Metric, described, logger, observed, record
from stream_downloads.reconcile import OVERLAP_SECONDS, PAGE, Walk, record_page
from stream_downloads.service import Service
from stream_downloads.table import iso_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_lambda_powertools.utilities.typing import LambdaContext

SERVICE = Service.from_environment()
LOOKBACK_SECONDS: Final = float(os.environ["RECONCILE_LOOKBACK_HOURS"]) * 3600

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
THREADS: Final = 8


@observed
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """One reconciliation; with ``since``, the backfill from then on as well."""
    since = payload.since(event, SERVICE.clock())
    with ThreadPoolExecutor(THREADS) as pool:
        run = Run(SERVICE, lambda: context.get_remaining_time_in_millis() / 1000, pool.map)
        answer = run.reconcile(LOOKBACK_SECONDS, since)
    logger.info("Reconciliation", extra=answer)
    return answer


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
