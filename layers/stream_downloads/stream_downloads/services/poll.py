"""One run of the poller: the due rows, the best first, within the budget and the time."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.shared_state import Lease
from stream_downloads.domain.download import UPKEEP_QUEUE, Lane, Status, Step, queue_name
from stream_downloads.domain.polling import PACE, Pace, plan
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services.steps import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stream_downloads.adapters.shared_state import Grant
    from stream_downloads.domain.download import Download, DownloadType
    from stream_downloads.domain.polling import Sample
    from stream_downloads.services.dependencies import Service

BATCH: Final = 16
REQUEST_SECONDS: Final = 10.0
# A batch lasts as long as its slowest request, and what it learned must still be written.
STOP_BEFORE_TIMEOUT: Final = REQUEST_SECONDS + 5.0
# New rows fall due while a run waits for the next one that it knows of.
LOOK_AGAIN_AFTER: Final = 5.0
# The run of the next minute finds the lease free if the last batch begins by then.
BUSY_AT_MOST: Final = 50.0
ROWS_READ: Final = 250
LEASE_SECONDS: Final = 30.0
LEASE_RENEWED_AFTER: Final = 10.0

# The queues whose work goes together, the most urgent first, and the part of the request limit
# that each leaves to those before it.
LIVE_QUEUES: Final = (queue_name(Lane.LIVE, creates=False), queue_name(Lane.LIVE, creates=True))
QUEUES: Final = (
    (LIVE_QUEUES, 0.0),
    (
        (queue_name(Lane.BACKFILL, creates=False), queue_name(Lane.BACKFILL, creates=True)),
        0.1,
    ),
    ((UPKEEP_QUEUE,), 0.5),
)


@dataclass(slots=True)
class Summary:
    """What a run did, for the log and for whoever started it."""

    requests: int = 0
    ready: int = 0
    failed: int = 0
    oldest_due_seconds: float = 0.0
    ended: str = "nothing more is due"

    def as_answer(self) -> dict[str, Any]:
        """For the answer of the invocation."""
        return {
            "requests": self.requests,
            "ready": self.ready,
            "failed": self.failed,
            "oldest_due_seconds": round(self.oldest_due_seconds, 1),
            "ended": self.ended,
        }


class Stop(Exception):
    """The run ends here: what is due stays due. The text says why."""


class Poller:
    """Works off the due rows, once."""

    def __init__(
        self,
        service: Service,
        remaining: Callable[[], float],
        in_parallel: Callable[..., Iterable[Outcome]],
    ) -> None:
        """The poller of one run.

        Args:
            service: the parts of the service.
            remaining: seconds that the function has left.
            in_parallel: ``map`` over a pool of threads, or the plain one.
        """
        self._service = service
        self._remaining = remaining
        self._in_parallel = in_parallel
        self._advancer = service.advancer()
        self._clock = service.clock
        self._lease = Lease(service.control, "poller-lease", uuid.uuid4().hex, LEASE_SECONDS)
        self._leased_at = 0.0
        self._stop_at = math.inf
        self._summary = Summary()
        self._pace = Pace.of({})
        self._pace_version = 0
        self._samples: list[tuple[DownloadType, Sample]] = []
        self._refreshed = False
        # The index lags: the rows that this run has dealt with, and the version up to which.
        self._handled: dict[tuple[str, DownloadType], int] = {}

    def run(self, window: float) -> Summary:
        """Work off what is due, and what falls due within the window.

        Args:
            window: how many seconds to follow rows that fall due; 0: those that are due now.
        """
        if not self._lease.hold():
            self._summary.ended = "another run is at work"
            return self._summary
        self._leased_at = self._clock()
        self._stop_at = self._leased_at + max(window, BUSY_AT_MOST)
        try:
            self._read_pace()
            self._follow(self._leased_at, window)
        except Stop as stop:
            self._summary.ended = str(stop)
        finally:
            self._write_pace()
            self._lease.release()
        record(Metric.OLDEST_DUE, self._summary.oldest_due_seconds)
        allowance = self._service.budget.state()
        record(Metric.BUDGET_USED, 100 * allowance["used"] / allowance["limit"])
        return self._summary

    def _follow(self, started: float, window: float) -> None:
        end = started + window
        while True:
            now = self._clock()
            due, leave, next_due = self._read_due(now if window else started, end)
            self._note_oldest(due, now)
            if due and self._work(due, leave, now):
                continue
            wake = now + LOOK_AGAIN_AFTER if due else min(next_due, now + LOOK_AGAIN_AFTER)
            if next_due > end or wake >= end:
                if due:
                    raise Stop("what is left waits for the request allowance")
                return
            self._check_time()
            self._service.sleep(max(1.0, wake - now))
            self._keep_lease()

    def _read_due(self, now: float, end: float) -> tuple[list[Download], float, float]:
        """The due rows of the most urgent queues that have any.

        Returns:
            The rows, the part of the limit that they leave to others, and when the next row that
            was seen on the way falls due.
        """
        next_due = math.inf
        for queues, leave in QUEUES:
            rows = [
                row
                for queue in queues
                for row in self._service.downloads.due(queue, end, ROWS_READ)
                if row.version > self._handled.get(row.key, 0)
            ]
            next_due = min([next_due, *(row.due_at or 0.0 for row in rows)])
            due = [row for row in rows if (row.due_at or 0.0) <= now]
            if due:
                return due, leave, next_due
        return [], 0.0, next_due

    def _work(self, due: Sequence[Download], leave: float, now: float) -> bool:
        """Batches of requests, until new rows may have fallen due; False if none could be made."""
        # No more of it than one queue can give: beyond that another's rows may be worth more.
        jobs = _jobs(plan(due, self._pace, now))[:ROWS_READ]
        worked = False
        while jobs and self._clock() - now < LOOK_AGAIN_AFTER:
            self._check_time()
            grant = self._service.budget.take(min(BATCH, len(jobs)), Asker.POLLER, leave=leave)
            if grant.blocked_until:
                raise Stop("the gate is closed after a 429")
            if not grant.count:
                break
            self._make_requests(jobs[: grant.count], grant)
            jobs = jobs[grant.count :]
            worked = True
        return worked

    def _make_requests(self, jobs: Sequence[Sequence[Download]], grant: Grant) -> None:
        outcomes = self._in_parallel(lambda job: self._advance(job, grant), jobs)
        verdicts = set()
        for job, outcome in zip(jobs, outcomes, strict=True):
            self._note(job, outcome)
            verdicts.add(outcome.verdict)
        self._summary.requests += len(jobs)
        self._after_batch(verdicts)

    def _advance(self, job: Sequence[Download], grant: Grant) -> Outcome:
        """One job; whatever happens in it, the others go on."""
        try:
            return self._advancer.advance(job, grant, self._pace, REQUEST_SECONDS)
        except (ClientError, BotoCoreError) as error:
            details = {"video_uid": job[0].video_uid, **described(error)}
            logger.error("The table failed: the row stays due", extra=details)
        except Exception:  # noqa: BLE001 - one bad row blocks no other
            logger.exception(
                "A row fails in a way nobody foresaw", extra={"video_uid": job[0].video_uid}
            )
        return Outcome(Verdict.FAILED)

    def _note(self, job: Sequence[Download], outcome: Outcome) -> None:
        """Remember what came of a job."""
        if outcome.verdict in (Verdict.ANSWERED, Verdict.FAILED, Verdict.LOST_RACE):
            self._handled.update((row.key, row.version) for row in job)
        self._samples.extend(outcome.samples)
        before = {row.key: row for row in job}
        for row in outcome.rows:
            self._handled[row.key] = row.version - 1
            self._count(before.get(row.key), row)

    def _count(self, before: Download | None, row: Download) -> None:
        """What a step has made of a row, for the summary and the metrics."""
        was_ready = before is not None and before.status is Status.READY
        if row.status is Status.READY and row.ready_at == row.looked_at and not was_ready:
            self._summary.ready += 1
            record(Metric.DOWNLOADS_READY)
            asked_at = row.created_at or row.requested_at  # a create's answer can get lost
            record(Metric.READY_DELAY, (row.ready_at or asked_at) - asked_at)
        elif row.status is Status.ERROR:
            self._summary.failed += 1
            record(Metric.DOWNLOADS_FAILED)
        elif before and before.step is Step.CONFIRM and before.url and not row.url:
            record(Metric.DRIFT)

    def _after_batch(self, verdicts: set[Verdict]) -> None:
        """What concerns more than a row."""
        self._service.budget.settle()
        if Verdict.THROTTLED in verdicts:
            raise Stop("Cloudflare answered 429")
        if Verdict.CREDENTIALS in verdicts:
            if self._refreshed or not self._service.credentials.refresh():
                record(Metric.CREDENTIALS_REFUSED)
                raise Stop("the credentials are refused")
            self._refreshed = True
        self._keep_lease()

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
        """Leave what was learned to the next run; if somebody else did so meanwhile, let it be."""
        if self._samples:
            learned = self._pace.with_samples(self._samples)
            self._service.control.write(PACE, learned.as_value(), self._pace_version)

    def _note_oldest(self, due: Sequence[Download], now: float) -> None:
        # A backfill may wait for hours, and shall: only live rows tell that the service is late.
        live = [row.due_at or now for row in due if row.queue in LIVE_QUEUES]
        oldest = now - min(live, default=now)
        self._summary.oldest_due_seconds = max(self._summary.oldest_due_seconds, oldest)


def _jobs(rows: Sequence[Download]) -> list[list[Download]]:
    """Rows that one request serves go together: lists and look-ups of the same video."""
    jobs: dict[tuple[object, ...], list[Download]] = {}
    for row in rows:
        shared = row.step in (Step.LIST, Step.VERIFY, Step.CONFIRM)
        key = (row.video_uid, row.step) if shared else (*row.key, row.step)
        jobs.setdefault(key, []).append(row)
    return list(jobs.values())
