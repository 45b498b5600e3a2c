"""Works off the due rows once, within the shared limit and the function's time."""

from __future__ import annotations

import math
import uuid
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import Lease
from stream_downloads.domain.download import MAINTENANCE_QUEUE, Lane, Status, Step, queue_name
from stream_downloads.domain.pace import PACE, Pace
from stream_downloads.domain.polling import plan
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services.steps import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stream_downloads.adapters.shared_state import Grant
    from stream_downloads.domain.download import Download, DownloadType
    from stream_downloads.domain.pace import Sample
    from stream_downloads.services.dependencies import Service
    from stream_downloads.services.steps import Change

# The record of the control table with the lease, and with the end of the last complete run.
POLLER_LEASE: Final = "poller-lease"
BATCH: Final = 16
REQUEST_SECONDS: Final = 10.0
# A batch lasts as long as its slowest request, and what it learned must still be written.
STOP_BEFORE_TIMEOUT: Final = REQUEST_SECONDS + 5.0
# New rows fall due while a run waits for the next one that it knows of.
READ_AGAIN_AFTER: Final = 5.0
# The run of the next minute finds the lease free if the last batch begins by then.
BUSY_AT_MOST: Final = 50.0
ROWS_READ: Final = 250
LEASE_SECONDS: Final = 30.0
LEASE_RENEWED_AFTER: Final = 10.0

CONTENDED: Final = "many functions send requests at this moment"
USED_UP: Final = "the requests of these five minutes are used up"

# The queues whose work goes together, the most urgent first, and the part of the request limit
# that each leaves to those before it.
LIVE_QUEUES: Final = (queue_name(Lane.LIVE, creates=False), queue_name(Lane.LIVE, creates=True))
QUEUES: Final = (
    (LIVE_QUEUES, 0.0),
    (
        (queue_name(Lane.BACKFILL, creates=False), queue_name(Lane.BACKFILL, creates=True)),
        0.1,
    ),
    ((MAINTENANCE_QUEUE,), 0.5),
)


@dataclass(slots=True)
class Summary:
    """The result of a run, for the log and for the caller.

    Attributes:
        requests: how many were sent to Cloudflare.
        ready: downloads that became ready.
        failed: downloads that ended in ``error``.
        oldest_due_seconds: for how long the oldest live row had been due.
        ended: why the run ended.
    """

    requests: int = 0
    ready: int = 0
    failed: int = 0
    oldest_due_seconds: float = 0.0
    ended: str = "nothing more is due"

    def as_answer(self) -> dict[str, Any]:
        """Return the answer of the invocation."""
        return asdict(self) | {"oldest_due_seconds": round(self.oldest_due_seconds, 1)}


class Stop(Exception):
    """The end of a run, with the reason; all due rows stay due."""


class Poller:
    """Works off the due rows, once."""

    def __init__(
        self,
        service: Service,
        remaining: Callable[[], float],
        in_parallel: Callable[..., Iterable[Outcome]],
    ) -> None:
        """Prepare one run.

        Args:
            service: the parts of the service.
            remaining: returns the seconds that the function has left.
            in_parallel: ``map`` over a pool of threads, or the plain one.
        """
        self._service = service
        self._remaining = remaining
        self._in_parallel = in_parallel
        self._steps = service.steps()
        self._clock = service.clock
        self._lease = Lease(service.control, POLLER_LEASE, uuid.uuid4().hex, LEASE_SECONDS)
        self._leased_at = 0.0
        self._stop_at = math.inf
        self._summary = Summary()
        self._turn = 0
        self._pace = Pace.of({})
        self._pace_version = 0
        self._held_up = USED_UP
        self._samples: list[tuple[DownloadType, Sample]] = []
        # The index lags: the rows that this run has processed, and the version up to which.
        self._handled: dict[tuple[str, DownloadType], int] = {}

    def run(self, window: float) -> Summary:
        """Work off what is due, and what falls due within the window.

        Args:
            window: for how many seconds to follow rows that fall due; 0: those that are due now.
        """
        if not self._lease.hold():
            self._summary.ended = "another run is at work"
            return self._summary
        self._leased_at = self._clock()
        self._stop_at = self._leased_at + max(window, BUSY_AT_MOST)
        self._turn = int(self._leased_at // 60)  # another kind of request first in each run
        sent_before = self._service.gateway.sent
        completed = False
        try:
            self._read_pace()
            self._follow(self._leased_at, window)
            completed = True
        except Stop as stop:
            self._summary.ended, completed = str(stop), True
        finally:
            self._finish(completed=completed)
        self._summary.requests = self._service.gateway.sent - sent_before
        record(Metric.OLDEST_DUE, self._summary.oldest_due_seconds)
        return self._summary

    # --- which rows ---------------------------------------------------------------------------

    def _follow(self, started: float, window: float) -> None:
        """Process due rows until nothing more falls due within the window."""
        end = started + window
        while True:
            now = self._clock()
            due, leave, next_due = self._read_due(now if window else started, end)
            self._note_oldest(due, now)
            if due and self._process(due, leave, now):
                continue
            wake = now + READ_AGAIN_AFTER if due else min(next_due, now + READ_AGAIN_AFTER)
            if next_due > end or wake >= end:
                if due:
                    raise Stop(self._held_up)
                return
            self._check_time()
            self._service.sleep(max(1.0, wake - now))
            self._keep_lease()

    def _read_due(self, now: float, end: float) -> tuple[list[Download], float, float]:
        """Read the due rows of the most urgent queues that have any.

        Returns:
            The rows, the part of the limit that they leave to others, and when the next row that
            was seen on the way falls due.
        """
        next_due = math.inf
        for queues, leave in QUEUES:
            rows = [row for queue in queues for row in self._read_queue(queue, end)]
            next_due = min([next_due, *(row.due_at or 0.0 for row in rows)])
            due = [row for row in rows if (row.due_at or 0.0) <= now]
            if due:
                return due, leave, next_due
        return [], 0.0, next_due

    def _read_queue(self, queue: str, until: float) -> Iterable[Download]:
        """Read the first rows of a queue, past those that this run has processed."""
        rows = self._service.downloads.due(queue, until, ROWS_READ)
        new = (row for row in rows if row.version > self._handled.get(row.key, 0))
        return islice(new, ROWS_READ)

    def _note_oldest(self, due: Sequence[Download], now: float) -> None:
        # A backfill may wait for hours: only live rows tell that the service is late.
        live = [row.due_at or now for row in due if row.queue in LIVE_QUEUES]
        oldest = now - min(live, default=now)
        self._summary.oldest_due_seconds = max(self._summary.oldest_due_seconds, oldest)

    # --- their requests -----------------------------------------------------------------------

    def _process(self, due: Sequence[Download], leave: float, now: float) -> bool:
        """Send batches of requests until new rows may be due; return False if none was granted."""
        # No more than one queue can give: beyond that, rows of the other may be more urgent.
        jobs = _jobs(plan(due, self._turn))[:ROWS_READ]
        worked = False
        while jobs and self._clock() - now < READ_AGAIN_AFTER:
            self._check_time()
            grant = self._permit(min(BATCH, len(jobs)), leave)
            if not grant.count:
                break
            self._send_batch(jobs[: grant.count], grant)
            self._turn += grant.count
            jobs = jobs[grant.count :]
            worked = True
        return worked

    def _permit(self, wanted: int, leave: float) -> Grant:
        try:
            grant = self._service.gateway.permit(
                wanted, Asker.BACKGROUND if leave else Asker.POLLER, leave=leave
            )
        except SecretUnavailable as error:
            logger.error("The credentials for Cloudflare cannot be read", extra=described(error))
            raise Stop("the credentials for Cloudflare cannot be read") from None
        if grant.blocked_until:
            raise Stop("the gate is closed after a 429")
        self._held_up = CONTENDED if grant.contended else USED_UP
        return grant

    def _send_batch(self, jobs: Sequence[Sequence[Download]], grant: Grant) -> None:
        outcomes = self._in_parallel(lambda job: self._perform(job, grant), jobs)
        verdicts = set()
        for job, outcome in zip(jobs, outcomes, strict=True):
            self._remember(job, outcome)
            verdicts.add(outcome.verdict)
        self._service.gateway.settle()
        if Verdict.THROTTLED in verdicts:
            raise Stop("Cloudflare answered 429")
        if Verdict.CREDENTIALS in verdicts:
            raise Stop("the credentials are refused")
        self._keep_lease()

    def _perform(self, job: Sequence[Download], grant: Grant) -> Outcome:
        """Perform one job. One bad row blocks no other."""
        try:
            return self._steps.perform(job, grant, self._pace, REQUEST_SECONDS)
        except (ClientError, BotoCoreError) as error:
            details = {"video_uid": job[0].video_uid, **described(error)}
            logger.error("The table failed: the row stays due", extra=details)
        except Exception:  # noqa: BLE001 - one bad row blocks no other
            logger.exception(
                "A row cannot be processed: it stays due", extra={"video_uid": job[0].video_uid}
            )
        return Outcome(Verdict.FAILED)

    def _remember(self, job: Sequence[Download], outcome: Outcome) -> None:
        """Remember the result of a job."""
        if outcome.verdict in (Verdict.ANSWERED, Verdict.FAILED, Verdict.LOST_RACE):
            self._handled.update((row.key, row.version) for row in job)
        self._samples.extend(outcome.samples)
        for change in outcome.changes:
            self._handled[change.after.key] = change.after.version - 1
            self._count(change)

    def _count(self, change: Change) -> None:
        """Count a step for the summary and the metrics."""
        before, after = change
        if after.status is Status.READY and before.status is not Status.READY:
            self._summary.ready += 1
            record(Metric.DOWNLOADS_READY)
            created_at = after.creation.accepted_at if after.creation else None
            record(Metric.READY_DELAY, after.updated_at - (created_at or after.requested_at))
        elif after.status is Status.ERROR:
            self._summary.failed += 1
            record(Metric.DOWNLOADS_FAILED)
        elif before.step is Step.GET_VIDEO and before.url and not after.url:
            record(Metric.DRIFT)

    # --- its end ------------------------------------------------------------------------------

    def _finish(self, *, completed: bool) -> None:
        """Release the lease and write what was learned; what has been done stands without that."""
        try:
            self._lease.release(completed=completed)
            self._write_pace()
            usage = self._service.gateway.usage()
            record(Metric.BUDGET_USED, 100 * usage.used / usage.limit)
        except (ClientError, BotoCoreError) as error:
            logger.warning("The end of a run could not be written", extra=described(error))

    def _check_time(self) -> None:
        if self._remaining() <= STOP_BEFORE_TIMEOUT:
            raise Stop("the function's time is over")
        if self._clock() >= self._stop_at:
            raise Stop("the next run goes on")

    def _keep_lease(self) -> None:
        if self._clock() - self._leased_at < LEASE_RENEWED_AFTER:
            return
        if not self._lease.hold():
            raise Stop("another run has taken over")
        self._leased_at = self._clock()

    def _read_pace(self) -> None:
        kept = self._service.control.read(PACE)
        self._pace, self._pace_version = Pace.parse(kept.value), kept.version

    def _write_pace(self) -> None:
        """Write what was learned, unless another run has done so meanwhile."""
        if self._samples:
            learned = self._pace.with_samples(self._samples)
            self._service.control.write(PACE, learned.as_value(), self._pace_version)


def _jobs(rows: Sequence[Download]) -> list[list[Download]]:
    """Group the rows that one request serves: lists and checks of the same video."""
    jobs: dict[tuple[object, ...], list[Download]] = {}
    for row in rows:
        shared = row.step in (Step.LIST, Step.RECHECK, Step.GET_VIDEO)
        key = (row.video_uid, row.step) if shared else (*row.key, row.step)
        jobs.setdefault(key, []).append(row)
    return list(jobs.values())
