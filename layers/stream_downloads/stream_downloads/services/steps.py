"""Performs the next step of a download: one request to Cloudflare, then the row is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.stream_api import CloudflareError, RefusalKind, Refused
from stream_downloads.domain import transitions
from stream_downloads.domain.download import (
    Download,
    ErrorCode,
    Reason,
    Status,
    Step,
    TroubleKind,
    Work,
    is_publishable,
    iso_time,
)
from stream_downloads.domain.pace import first_sample
from stream_downloads.domain.polling import next_poll, retry_delay
from stream_downloads.services.gateway import SendAgain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_downloads.adapters.downloads_table import Downloads, Key
    from stream_downloads.adapters.shared_state import Grant
    from stream_downloads.adapters.stream_api import DownloadState
    from stream_downloads.domain.pace import Pace, Sample
    from stream_downloads.domain.video import Video
    from stream_downloads.services.gateway import Gateway

# Returns when to poll a row again, after a percentage that was reported now.
PollAt = Callable[[Download, float | None, float], float]

# How long after it became ready a download is listed again, to see that it is still there.
RECHECK_AFTER: Final = 7 * 86_400.0
# Cloudflare makes no downloads of a live recording over four hours
# (https://developers.cloudflare.com/stream/stream-live/download-stream-live-videos/).
LONGEST_RECORDING_SECONDS: Final = 4 * 3_600.0


class Verdict(StrEnum):
    """The result of a request."""

    ANSWERED = "answered"  # Cloudflare's answer says how to go on
    FAILED = "failed"  # the request did not succeed: the row tries again later
    LOST_RACE = "lost_race"  # another function wrote the row first, and its version stands
    NOT_SENT = "not_sent"  # the row stays due
    THROTTLED = "throttled"  # 429: the gate is closed
    CREDENTIALS = "credentials"  # the credentials are refused, or cannot be read


class Change(NamedTuple):
    """A row before a step, and as it was written after it."""

    before: Download
    after: Download


class Outcome(NamedTuple):
    """The result of a step.

    Attributes:
        verdict: of the request.
        changes: the rows that were written.
        followed: the rows that show nothing but progress, and were not written.
        samples: what the pace can learn.
    """

    verdict: Verdict
    changes: tuple[Change, ...] = ()
    followed: tuple[Download, ...] = ()
    samples: tuple[tuple[Key, Sample], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Performs the next step of due rows.

    Attributes:
        downloads: the table.
        gateway: the way to Cloudflare.
        retention: seconds after which a ready download is deleted; 0 keeps it.
        price: the price of a poll at a load, as `stream_downloads.domain.polling.price`.
        clock: seconds since the epoch.
        jitter: gives a number from 0 to 1.
    """

    downloads: Downloads
    gateway: Gateway
    retention: float
    price: Callable[[float], float]
    clock: Callable[[], float]
    jitter: Callable[[], float]

    def perform(
        self,
        rows: Sequence[Download],
        grant: Grant,
        pace: Pace,
        seconds: float,
        *,
        follow: bool = False,
    ) -> Outcome:
        """Perform the next step of rows of one video that wait for the same request.

        Args:
            rows: of one video and one step; more than one only if one request serves them all.
            grant: for one request.
            pace: how long recent downloads took, which decides when to poll again.
            seconds: the total limit of the request.
            follow: the caller keeps rows that show nothing but progress, and writes them later.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: the table failed; a row that could not
                be written is still due.
        """
        step, poll_at = rows[0].step, self._poll_at(grant, pace)
        try:
            if step is Step.CREATE:
                sent = self.downloads.save(transitions.create_sent(rows[0], self.clock()))
                outcome = self._send_create(rows[0], sent, grant, poll_at, seconds)
            elif step is Step.GET_VIDEO:
                outcome = self._get_video(rows, grant, seconds)
            elif step is Step.DELETE:
                outcome = self._delete(rows[0], grant, seconds)
            else:  # a list or a recheck
                outcome = self._list(rows, grant, poll_at, seconds, follow=follow)
        except SendAgain:
            return Outcome(Verdict.NOT_SENT)
        except LostRace:
            return Outcome(Verdict.LOST_RACE)
        return _logged(outcome)

    def send_create(self, row: Download, grant: Grant, pace: Pace, seconds: float) -> Outcome:
        """Send the create of a row that was just added with its create sent.

        Args:
            row: as it was added.
            grant: for this request.
            pace: as for ``perform``.
            seconds: the total limit of the request.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: the table failed; the list that
                follows an unanswered create is still due.
        """
        poll_at = self._poll_at(grant, pace)
        wanted = transitions.create_not_sent(row, self.clock())
        return _logged(self._send_create(wanted, row, grant, poll_at, seconds))

    def _poll_at(self, grant: Grant, pace: Pace) -> PollAt:
        poll_price = self.price(grant.load)

        def poll_at(row: Download, percent: float | None, now: float) -> float:
            return next_poll(row, percent, pace, poll_price, now)

        return poll_at

    # --- the four requests --------------------------------------------------------------------

    def _send_create(
        self, before: Download, row: Download, grant: Grant, poll_at: PollAt, seconds: float
    ) -> Outcome:
        """Send a create that is written down as sent.

        Args:
            before: the row that waits for its create.
            row: the row as it is written, with the create sent.
            grant: for this request.
            poll_at: returns when to poll a row again.
            seconds: the total limit of the request.
        """
        due_at = before.due_at or self.clock()
        create = self.gateway.stream.create_download
        try:
            states = self.gateway.send(grant, create, *row.key, seconds=seconds)
        except SendAgain:
            not_sent = transitions.create_not_sent(row, due_at)
            return self._saved(Verdict.NOT_SENT, Change(before, not_sent))
        except (CloudflareError, SecretUnavailable) as error:
            verdict = self._report(row, error)
            if verdict is Verdict.FAILED:
                after = self._create_failed(row, error)
            else:
                after = transitions.create_not_sent(row, due_at)
            return self._saved(verdict, Change(before, after))
        after = self._created(row, states.get(row.download_type), poll_at)
        return self._saved(Verdict.ANSWERED, Change(before, after))

    def _created(self, row: Download, state: DownloadState | None, poll_at: PollAt) -> Download:
        """Return the row of an accepted create; a finished download is polled at once."""
        now = self.clock()
        percent = state.percent_complete if state else None
        finished = state is not None and state.status in ("ready", "error")
        first_poll_at = now if finished else poll_at(row, percent, now)
        was_there = finished or bool(percent)
        return transitions.create_accepted(row, percent, first_poll_at, now, was_there=was_there)

    def _create_failed(self, row: Download, error: CloudflareError | SecretUnavailable) -> Download:
        """Return the row of a create that failed for a reason that concerns this row alone."""
        now, retry_at, reason = self.clock(), self._retry_at(row), _reason(error)
        match error:
            case Refused(kind=RefusalKind.CONFLICT):
                return transitions.create_accepted(row, None, now, now, was_there=True)
            case Refused(kind=RefusalKind.NOT_FOUND):
                return transitions.create_not_found(row, reason, now)
            case Refused(kind=RefusalKind.REJECTED):
                return transitions.create_refused(row, reason, retry_at, now)
            case CloudflareError(ambiguous=True):
                # Cloudflare may have made it: the next step stays a list, and gets no earlier.
                return transitions.try_again(row, max(retry_at, row.due_at or 0.0), reason, now)
            case _:
                return transitions.create_failed(row, retry_at, reason, now)

    def _list(
        self,
        rows: Sequence[Download],
        grant: Grant,
        poll_at: PollAt,
        seconds: float,
        *,
        follow: bool,
    ) -> Outcome:
        uid, step = rows[0].video_uid, rows[0].step
        try:
            states = self.gateway.send(
                grant, self.gateway.stream.list_downloads, uid, seconds=seconds
            )
        except (CloudflareError, SecretUnavailable) as error:
            if not _is_not_found(error):
                return self._failed(rows, error)
            states = {}
        if not states.keys() <= {row.download_type for row in rows}:
            # One list answers for all types of a video, due or not.
            rows = self._of_video(rows, step)
        now = self.clock()
        listed = [Change(row, self._listed(row, states, poll_at, now)) for row in rows]
        changes, kept = [], []
        for change in listed:
            row = transitions.followed(*change) if follow else None
            if row:
                kept.append(Change(change.before, row))
            elif change.after is not change.before:
                changes.append(change)
        outcome = self._saved(Verdict.ANSWERED, *changes)
        samples = [
            (before.key, sample)
            for before, _ in (*outcome.changes, *kept)
            if (state := states.get(before.download_type))
            and (sample := first_sample(before, _percent(state), now))
        ]
        rows_kept = tuple(row for _, row in kept)
        return outcome._replace(followed=rows_kept, samples=tuple(samples))

    def _of_video(self, known: Sequence[Download], step: Step | None) -> Sequence[Download]:
        """Return all rows of a video that wait for a step, those in ``known`` if still current."""
        copies = {(row.key, row.version): row for row in known}
        rows = [row for row in self.downloads.of_video(known[0].video_uid) if row.step is step]
        return [copies.get((row.key, row.version), row) for row in rows] or known

    def _listed(
        self, row: Download, states: dict[str, DownloadState], poll_at: PollAt, now: float
    ) -> Download:
        """Return the row that follows from the answer to a list."""
        state = states.get(row.download_type)
        if state is None:
            return transitions.unlisted(row, now)
        if state.status == "ready":
            return self._listed_ready(row, state.url or "", now)
        if row.status is Status.READY:
            return transitions.unlisted(row, now)
        if state.status == "error":
            return transitions.listed_failed(row, now)
        percent = state.percent_complete
        return transitions.listed_in_progress(row, percent, poll_at(row, percent, now), now)

    def _listed_ready(self, row: Download, url: str, now: float) -> Download:
        if is_publishable(url, *row.key):
            changed = row.url != url
            return transitions.listed_ready(row, url, self._maintenance(row, now, new=changed), now)
        record(Metric.URLS_REFUSED)
        logger.error(
            "Cloudflare reports a download as ready with a URL that is not its own",
            extra={"video_uid": row.video_uid, "download_type": row.download_type},
        )
        maintenance = self._maintenance(row, now)
        return transitions.listed_with_bad_url(row, self._retry_at(row), maintenance, now)

    def _get_video(self, rows: Sequence[Download], grant: Grant, seconds: float) -> Outcome:
        get = self.gateway.stream.get_video
        try:
            video = self.gateway.send(grant, get, rows[0].video_uid, seconds=seconds)
        except (CloudflareError, SecretUnavailable) as error:
            if not _is_not_found(error):
                return self._failed(rows, error)
            now, reason = self.clock(), _reason(error)
            return self._saved(
                Verdict.ANSWERED,
                *(Change(row, transitions.video_not_found(row, reason, now)) for row in rows),
            )
        now = self.clock()
        return self._saved(
            Verdict.ANSWERED, *(Change(row, self._video_found(row, video, now)) for row in rows)
        )

    def _video_found(self, row: Download, video: Video, now: float) -> Download:
        """Return the row that follows from the state of its video."""
        if video.state == "error":
            return transitions.fail_video(row, video, now)
        too_long = (video.duration_seconds or 0.0) > LONGEST_RECORDING_SECONDS
        trouble = row.work.trouble if row.work else None
        if video.live_input and too_long and trouble and trouble.kind is TroubleKind.REFUSED:
            message = "Cloudflare makes no downloads of live recordings of over four hours."
            return transitions.fail(row, Reason(ErrorCode.RECORDING_TOO_LONG, message), now)
        retry_at = self._retry_at(row) if row.work and row.work.attempts else now
        return transitions.video_found(row, video, retry_at, now)

    def _delete(self, row: Download, grant: Grant, seconds: float) -> Outcome:
        before = row
        if row.status is Status.READY:
            maintenance = self._maintenance(row, self.clock())
            if maintenance.step is not Step.DELETE or maintenance.due_at > self.clock():
                kept = transitions.keep_ready(row, maintenance)
                return self._saved(Verdict.ANSWERED, Change(before, kept))
            # Its retention is over: remove the URL before Cloudflare deletes the download.
            row = self.downloads.save(transitions.delete(row, self.clock()))
        delete = self.gateway.stream.delete_downloads
        try:
            self.gateway.send(grant, delete, *row.key, seconds=seconds)
        except (CloudflareError, SecretUnavailable) as error:
            if not _is_not_found(error):
                return self._delete_failed(row, error)
        return self._saved(Verdict.ANSWERED, Change(before, transitions.deleted(row, self.clock())))

    def _delete_failed(self, row: Download, error: CloudflareError | SecretUnavailable) -> Outcome:
        if not (isinstance(error, Refused) and error.kind is RefusalKind.REJECTED):
            return self._failed([row], error)
        verdict = self._report(row, error)
        refused = transitions.delete_refused(row, _reason(error), self._retry_at(row), self.clock())
        return self._saved(verdict, Change(row, refused))

    # --- what they share ----------------------------------------------------------------------

    def _failed(
        self, rows: Sequence[Download], error: CloudflareError | SecretUnavailable
    ) -> Outcome:
        """Schedule a retry of rows whose request failed for a passing reason."""
        verdict = self._report(rows[0], error)
        if verdict is not Verdict.FAILED:
            return Outcome(verdict)
        now, reason = self.clock(), _reason(error)
        return self._saved(
            verdict,
            *(
                Change(row, transitions.try_again(row, self._retry_at(row), reason, now))
                for row in rows
            ),
        )

    def _report(self, row: Download, error: CloudflareError | SecretUnavailable) -> Verdict:
        """Log a request that did not succeed; return the verdict, which may concern all rows."""
        details = {"video_uid": row.video_uid, **described(error)}
        kind = error.kind if isinstance(error, Refused) else None
        if isinstance(error, SecretUnavailable):
            logger.error("The credentials for Cloudflare cannot be read", extra=details)
            return Verdict.CREDENTIALS
        if kind is RefusalKind.THROTTLED:
            logger.error("Cloudflare's rate limit was reached: the gate is closed", extra=details)
            return Verdict.THROTTLED
        if kind is RefusalKind.CREDENTIALS:
            logger.error("Cloudflare refuses the credentials", extra=details)
            return Verdict.CREDENTIALS
        logger.warning("A request to Cloudflare did not succeed", extra=details)
        return Verdict.FAILED

    def _saved(self, verdict: Verdict, *changes: Change) -> Outcome:
        """Write rows; where another function wrote first, its version stands.

        A verdict that concerns all rows is returned all the same.
        """
        saved = []
        for before, after in changes:
            try:
                saved.append(Change(before, self.downloads.save(after)))
            except LostRace:
                continue
        lost = changes and not saved
        if lost and verdict not in (Verdict.THROTTLED, Verdict.CREDENTIALS):
            verdict = Verdict.LOST_RACE
        return Outcome(verdict, tuple(saved))

    def _retry_at(self, row: Download) -> float:
        attempts = row.work.attempts if row.work else 0
        return self.clock() + retry_delay(attempts, self.jitter)

    def _maintenance(self, row: Download, now: float, *, new: bool = False) -> Work:
        """Return what to do with a ready download later: delete it, or list it again.

        Args:
            row: ready, or about to be.
            now: the time.
            new: its URL is new, and its retention begins now.
        """
        recheck_at = now + RECHECK_AFTER
        ready_at = now if new or row.ready_at is None else row.ready_at
        delete_at = ready_at + self.retention
        if self.retention and delete_at <= recheck_at:
            return Work(Step.DELETE, delete_at)
        return Work(Step.RECHECK, recheck_at)


def _logged(outcome: Outcome) -> Outcome:
    for row in (*(change.after for change in outcome.changes), *outcome.followed):
        logger.info("Download", extra=_described_row(row))
    return outcome


def _described_row(row: Download) -> dict[str, Any]:
    """Return what the log tells of each step of a row."""
    said = {
        "video_uid": row.video_uid,
        "download_type": row.download_type,
        "status": row.status,
        "percent_complete": row.percent_complete,
        "error_code": row.error_code,
        "next_step": row.step,
        "due_at": iso_time(row.due_at) if row.due_at else None,
    }
    return {key: value for key, value in said.items() if value is not None}


def _percent(state: DownloadState) -> float | None:
    return 100.0 if state.status == "ready" else state.percent_complete


def _is_not_found(error: Exception) -> bool:
    return isinstance(error, Refused) and error.kind is RefusalKind.NOT_FOUND


def _reason(error: CloudflareError | SecretUnavailable) -> Reason:
    """Return Cloudflare's own code and message, or our own."""
    if isinstance(error, Refused):
        if error.errors:
            return Reason(str(error.errors[0].code), error.errors[0].message)
        return Reason(ErrorCode.REFUSED, f"Cloudflare answered {error.status}.")
    return Reason("not_reached", str(error))
