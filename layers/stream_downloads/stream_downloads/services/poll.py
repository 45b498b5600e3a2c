"""Processes the due rows once, within the shared limit and the function's time."""

from __future__ import annotations

import math
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import POLLER_LEASE, Lease
from stream_downloads.domain.commands import PollCommand
from stream_downloads.domain.download import MAINTENANCE_QUEUE, Lane, Status, Step, queue_name
from stream_downloads.domain.pace import PACE, Pace
from stream_downloads.domain.polling import plan
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services.steps import Outcome, Verdict
from stream_downloads.services.working_set import WorkingSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stream_downloads.adapters.downloads_table import Key
    from stream_downloads.adapters.shared_state import Grant
    from stream_downloads.domain.download import Download, DownloadType
    from stream_downloads.domain.pace import Sample
    from stream_downloads.services.dependencies import Service
    from stream_downloads.services.steps import Change

BATCH: Final = 16
REQUEST_SECONDS: Final = 10.0
# A batch lasts as long as its slowest request, and what it learned must still be written.
STOP_BEFORE_TIMEOUT: Final = REQUEST_SECONDS + 5.0
# The index is read again this often, because new rows fall due while a run waits.
READ_AGAIN_AFTER: Final = 3.0
READ_LESS_URGENT_AFTER: Final = 15.0
# The last batch begins within this time, so that the run of the next minute need not wait long.
BUSY_AT_MOST: Final = 55.0
MINUTE: Final = 60.0
# A run that is not scheduled leaves the lease free for the scheduled one, which may be early.
HAND_OVER_BEFORE: Final = 1.0
SCHEDULE_STARTS_WITHIN: Final = 5.0
LEASE_SECONDS: Final = 30.0
LEASE_RENEWED_AFTER: Final = 15.0

CONTENDED: Final = "many functions send requests at this moment"
USED_UP: Final = "the requests of these five minutes are used up"

# The groups of queues that are processed together, the most urgent first, each with the part of the
# request limit that it leaves to those before it.
Group = tuple[str, ...]
LIVE_QUEUES: Final[Group] = (
    queue_name(Lane.LIVE, creates=False),
    queue_name(Lane.LIVE, creates=True),
)
QUEUES: Final[tuple[tuple[Group, float], ...]] = (
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
    """Processes the due rows, once."""

    def __init__(
        self,
        service: Service,
        remaining: Callable[[], float],
        in_parallel: Callable[..., Iterable[Any]],
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
        self._rows = WorkingSet(service.downloads)
        self._read_at: dict[Group, float] = {}
        self._summary = Summary()
        self._held_up = USED_UP
        self._samples: dict[Key, Sample] = {}

    def run(self, window: float, command: PollCommand) -> Summary:
        """Process the rows that are due, and those that fall due within the window.

        Args:
            window: for how many seconds to wait for rows that fall due; 0: only those due now.
            command: how the run was started.
        """
        started = self._clock()
        self._lease = Lease(
            self._service.control, POLLER_LEASE, uuid.uuid4().hex, LEASE_SECONDS, command.claim
        )
        if not self._acquire(started, scheduled=command.scheduled):
            self._summary.ended = "another run is at work"
            return self._summary
        scheduled_at = self._lease.notes.get("scheduled_at")
        self._end, self._stop_at = end_of(started, window, command, scheduled_at)
        self._turn = int(started / MINUTE)  # another kind of request first in each run
        sent_before = self._service.gateway.sent
        try:
            while self._work(window):
                pass
        finally:
            self._finish()
        self._summary.requests = self._service.gateway.sent - sent_before
        record(Metric.OLDEST_DUE, self._summary.oldest_due_seconds)
        return self._summary

    # --- its lease and its time ---------------------------------------------------------------

    def _acquire(self, started: float, *, scheduled: bool) -> bool:
        """Take the lease. A scheduled run waits until another has ended or its lease expires."""
        notes = {"scheduled_at": started} if scheduled else {}
        give_up_at = started + (LEASE_SECONDS + 1 if scheduled else 0)
        while not self._lease.hold(**notes):
            if self._clock() >= give_up_at:
                return False
            self._service.sleep(1.0)
        self._leased_at = self._service.monotonic()
        return True

    def _work(self, window: float) -> bool:
        """Process due rows and release the lease; return True if it is held again for new rows.

        A webhook that finds the lease held starts no run, so its rows are looked for at the end.
        """
        completed = False
        try:
            self._read_pace()
            self._follow(window)
            completed = True
        except Stop as stop:
            self._summary.ended, completed = str(stop), True
            return False
        finally:
            self._hand_over(completed=completed)
        now = self._clock()
        if now >= self._end:
            return False
        del self._read_at[LIVE_QUEUES]
        self._read(LIVE_QUEUES, now)
        has_news = self._rows.next_due_at() < self._end
        return has_news and self._acquire(now, scheduled=False)

    def _check_time(self) -> None:
        if self._remaining() <= STOP_BEFORE_TIMEOUT:
            raise Stop("the function's time is over")
        if self._clock() >= self._stop_at:
            raise Stop("the next run goes on")

    def _keep_lease(self) -> None:
        if self._service.monotonic() - self._leased_at < LEASE_RENEWED_AFTER:
            return
        if not self._lease.hold():
            raise Stop("another run has taken over")
        self._leased_at = self._service.monotonic()

    # --- which rows ---------------------------------------------------------------------------

    def _follow(self, window: float) -> None:
        """Process due rows until no more fall due within the window."""
        while True:
            now = self._clock()
            due, leave = self._due(now if window else min(now, self._end))
            self._note_oldest(due, now)
            if due and self._process(due, leave, now):
                continue
            next_due_at = self._rows.next_due_at()
            read_again_at = self._read_at[LIVE_QUEUES] + READ_AGAIN_AFTER
            wake_at = now + READ_AGAIN_AFTER if due else min(next_due_at, read_again_at)
            if next_due_at >= self._end or wake_at >= self._end:
                if due:
                    raise Stop(self._held_up)
                return
            self._check_time()
            self._service.sleep(min(READ_AGAIN_AFTER, max(1.0, wake_at - now)))
            self._keep_lease()

    def _due(self, now: float) -> tuple[list[Download], float]:
        """Return the due rows of the most urgent queues, and the part of the limit they leave."""
        for queues, leave in QUEUES:
            self._read(queues, now)
            due = self._rows.due(queues, now)
            if due:
                return due, leave
        return [], 0.0

    def _read(self, queues: Group, now: float) -> None:
        """Read new rows of these queues if the last read is too old or left more to read."""
        again_after = READ_AGAIN_AFTER if queues == LIVE_QUEUES else READ_LESS_URGENT_AFTER
        if now - self._read_at.get(queues, -math.inf) < again_after:
            return
        until = max(now, self._end)
        has_more = [self._rows.read(queue, now, until) for queue in queues]
        self._read_at[queues] = -math.inf if any(has_more) else now

    def _note_oldest(self, due: Sequence[Download], now: float) -> None:
        # A backfill may wait for hours: only live rows tell that the service is late.
        live = [row.due_at or now for row in due if row.queue in LIVE_QUEUES]
        oldest = now - min(live, default=now)
        self._summary.oldest_due_seconds = max(self._summary.oldest_due_seconds, oldest)

    # --- their requests -----------------------------------------------------------------------

    def _process(self, due: Sequence[Download], leave: float, now: float) -> bool:
        """Send batches of requests until new rows may be due; return False if none was granted."""
        jobs = _jobs(plan(due, self._turn))
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
        follow = self._rows.can_follow
        outcomes = self._in_parallel(lambda job: self._perform(job, grant, follow=follow), jobs)
        verdicts = set()
        for job, outcome in zip(jobs, outcomes, strict=True):
            self._rows.take(job, outcome)
            self._samples |= dict(outcome.samples)
            for change in outcome.changes:
                self._count(change)
            verdicts.add(outcome.verdict)
        self._service.gateway.settle()
        if Verdict.THROTTLED in verdicts:
            raise Stop("Cloudflare answered 429")
        if Verdict.CREDENTIALS in verdicts:
            raise Stop("the credentials are refused")
        self._keep_lease()

    def _perform(self, job: Sequence[Download], grant: Grant, *, follow: bool) -> Outcome:
        """Perform one job. One bad row blocks no other."""
        try:
            return self._steps.perform(job, grant, self._pace, REQUEST_SECONDS, follow=follow)
        except (ClientError, BotoCoreError) as error:
            details = {"video_uid": job[0].video_uid, **described(error)}
            logger.error("The table failed: the row stays due", extra=details)
        except Exception:  # noqa: BLE001 - one bad row blocks no other
            logger.exception(
                "A row cannot be processed: it stays due", extra={"video_uid": job[0].video_uid}
            )
        return Outcome(Verdict.FAILED)

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

    def _hand_over(self, *, completed: bool) -> None:
        """Write the rows that were followed, and release the lease."""
        failed = self._rows.write(self._in_parallel)
        # A download whose poll was not written is polled for the first time again.
        learned = [(key[1], sample) for key, sample in self._samples.items() if key not in failed]
        self._samples.clear()
        try:
            self._write_pace(learned)
        except (ClientError, BotoCoreError) as error:
            logger.warning("The pace of downloads could not be written", extra=described(error))
        try:
            self._lease.release(completed=completed)
        except (ClientError, BotoCoreError) as error:  # it expires
            logger.warning("The lease could not be released", extra=described(error))

    def _finish(self) -> None:
        """Record the use of the request limit; a failure does not fail the run."""
        try:
            usage = self._service.gateway.usage()
            record(Metric.BUDGET_USED, 100 * usage.used / usage.limit)
        except (ClientError, BotoCoreError) as error:
            logger.warning("The request budget could not be read", extra=described(error))

    def _read_pace(self) -> None:
        kept = self._service.control.read(PACE)
        self._pace, self._pace_version = Pace.parse(kept.value), kept.version

    def _write_pace(self, learned: Sequence[tuple[DownloadType, Sample]]) -> None:
        """Write what was learned, unless another run has done so meanwhile."""
        if learned:
            value = self._pace.with_samples(learned).as_value()
            self._service.control.write(PACE, value, self._pace_version)


def end_of(
    started: float, window: float, command: PollCommand, scheduled_at: float | None
) -> tuple[float, float]:
    """Return by when a run stops to wait for rows, and by when its last batch begins.

    Args:
        started: when the run was started.
        window: for how many seconds it follows rows that fall due.
        command: how it was started. A run in between ends where the next scheduled one begins.
        scheduled_at: when the last scheduled run was started, None if none ever was.
    """
    end, stop_at = started + window, started + max(window, BUSY_AT_MOST)
    if command.scheduled or scheduled_at is None:
        return end, stop_at
    minutes, since = divmod(started - scheduled_at, MINUTE)
    next_run_at = started + MINUTE - since - HAND_OVER_BEFORE
    if command.claim and minutes and since < SCHEDULE_STARTS_WITHIN:
        next_run_at = started  # the scheduled run of this minute waits for the lease
    return min(end, next_run_at), min(stop_at, max(next_run_at, started + 1.0))


def _jobs(rows: Sequence[Download]) -> list[list[Download]]:
    """Group the rows that one request serves: lists and checks of the same video."""
    jobs: dict[tuple[object, ...], list[Download]] = {}
    for row in rows:
        shared = row.step in (Step.LIST, Step.RECHECK, Step.GET_VIDEO)
        key = (row.video_uid, row.step) if shared else (*row.key, row.step)
        jobs.setdefault(key, []).append(row)
    return list(jobs.values())
