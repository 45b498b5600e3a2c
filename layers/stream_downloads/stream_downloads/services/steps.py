"""One video, one step, one request: where state machine, API, table and budget meet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.stream_api import CloudflareError, NotReached, RefusalKind, Refused
from stream_downloads.domain import download, transitions
from stream_downloads.domain.download import Download, Status, Step, VideoFacts, iso_time
from stream_downloads.domain.polling import first_sample, next_look, retry_delay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream_downloads.adapters.downloads_table import Downloads
    from stream_downloads.adapters.secrets import ApiCredentials
    from stream_downloads.adapters.shared_state import Budget, Grant
    from stream_downloads.adapters.stream_api import DownloadState, StreamClient
    from stream_downloads.domain.download import DownloadType
    from stream_downloads.domain.polling import Pace, Sample
    from stream_downloads.domain.video import Video

# How long after it became ready a download is looked at again, to see whether it is still there.
VERIFY_AFTER: Final = 7 * 86_400.0
# Cloudflare makes no downloads of a live recording over four hours
# (https://developers.cloudflare.com/stream/stream-live/download-stream-live-videos/).
LONGEST_RECORDING_SECONDS: Final = 4 * 3_600.0


class Verdict(StrEnum):
    """What became of the request."""

    ANSWERED = "answered"  # Cloudflare said something to go by
    FAILED = "failed"  # it did not: the row tries again later
    LOST_RACE = "lost_race"  # somebody else wrote the row first: theirs stands
    NOT_SENT = "not_sent"  # the grant had run out: the row stays due
    THROTTLED = "throttled"  # 429: the gate is closed
    CREDENTIALS = "credentials"  # Cloudflare, or Secrets Manager, refused: everything waits


class Outcome(NamedTuple):
    """What became of the request, the rows as written, and what was learned of the pace."""

    verdict: Verdict
    rows: tuple[Download, ...] = ()
    samples: tuple[tuple[DownloadType, Sample], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Advancer:
    """Takes a video's due rows one step further.

    Attributes:
        downloads: the table.
        stream: the API.
        credentials: what the API is asked with.
        budget: where a 429 is told.
        retention: seconds after which a ready download is deleted; 0 keeps it.
        clock: seconds since the epoch.
        jitter: gives a number from 0 to 1.
    """

    downloads: Downloads
    stream: StreamClient
    credentials: ApiCredentials
    budget: Budget
    retention: float
    clock: Callable[[], float]
    jitter: Callable[[], float]

    def advance(
        self, rows: Sequence[Download], grant: Grant, pace: Pace, seconds: float
    ) -> Outcome:
        """Do the next step of rows of one video that wait for the same request.

        Args:
            rows: of one video and one step; more than one only if one request serves them all.
            grant: the leave to send one request.
            pace: how long recent downloads took, which decides when to look again.
            seconds: the total limit of the request.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: the table failed; a row that could not
                be written is still due.
        """
        try:
            # To read the secret can take longer than a grant holds. Read now, it is at hand later.
            self.credentials.headers()
            outcome = self._step(rows, grant, pace, seconds)
        except SecretUnavailable as error:
            return Outcome(self._report("read_secret", rows[0].video_uid, error))
        except LostRace:
            return Outcome(Verdict.LOST_RACE)
        for row in outcome.rows:
            logger.info("Download", extra=_described_row(row))
        return outcome

    def _step(self, rows: Sequence[Download], grant: Grant, pace: Pace, seconds: float) -> Outcome:
        match rows[0].step:
            case Step.CREATE:
                return self._create(rows[0], grant, pace, seconds)
            case Step.LIST | Step.VERIFY:
                return self._list(rows, grant, pace, seconds)
            case Step.CONFIRM:
                return self._confirm(rows, grant, seconds)
            case Step.DELETE:
                return self._delete(rows[0], grant, seconds)
            case None:
                return Outcome(Verdict.ANSWERED, tuple(rows))

    # --- the four requests --------------------------------------------------------------------

    def _create(self, row: Download, grant: Grant, pace: Pace, seconds: float) -> Outcome:
        due_at = row.due_at or self.clock()
        row = self.downloads.save(transitions.create_sent(row, self.clock()))
        if not self.budget.is_current(grant):
            return self._saved(Verdict.NOT_SENT, transitions.create_not_sent(row, due_at))
        try:
            states = self.stream.create_download(row.video_uid, row.download_type, seconds=seconds)
        except (CloudflareError, SecretUnavailable) as error:
            return self._create_failed(row, due_at, error)
        now = self.clock()
        state = states.get(row.download_type)
        percent = state.percent_complete if state else None
        done = state is not None and state.status in ("ready", "error")
        look_at = now if done else next_look(row, percent, pace, now)
        self._count("create_download", "ok")
        accepted = transitions.create_accepted(
            row, percent, look_at, now, was_there=done or bool(percent)
        )
        return self._saved(Verdict.ANSWERED, accepted)

    def _create_failed(
        self, row: Download, due_at: float, error: CloudflareError | SecretUnavailable
    ) -> Outcome:
        now = self.clock()
        verdict = self._report("create_download", row.video_uid, error)
        if verdict is not Verdict.FAILED:
            return self._saved(verdict, transitions.create_not_sent(row, due_at))
        retry_at = now + retry_delay(row.attempts, self.jitter)
        match error:
            case Refused(kind=RefusalKind.CONFLICT):
                there = transitions.create_accepted(row, None, now, now, was_there=True)
                return self._saved(verdict, there)
            case Refused(kind=RefusalKind.NOT_FOUND):
                return self._saved(verdict, transitions.not_found(row, now))
            case Refused(kind=RefusalKind.REJECTED):
                code, message = _reason(error)
                refused = transitions.create_refused(row, code, message, retry_at, now)
                return self._saved(verdict, refused)
            case CloudflareError(ambiguous=True):
                # It may have been done. The row says so already: a list comes next.
                return self._saved(
                    verdict, transitions.try_again(row, max(retry_at, row.due_at or 0))
                )
            case _:
                again = transitions.try_again(transitions.create_not_sent(row, retry_at), retry_at)
                return self._saved(verdict, again)

    def _list(self, rows: Sequence[Download], grant: Grant, pace: Pace, seconds: float) -> Outcome:
        uid = rows[0].video_uid
        if not self.budget.is_current(grant):
            return Outcome(Verdict.NOT_SENT)
        try:
            states = self.stream.list_downloads(uid, seconds=seconds)
        except (CloudflareError, SecretUnavailable) as error:
            return self._read_failed("list_downloads", rows, error)
        self._count("list_downloads", "ok")
        if not states.keys() <= {row.download_type for row in rows}:
            # One list answers for all types of a video, due or not.
            step = rows[0].step
            rows = [row for row in self.downloads.of_video(uid) if row.step is step] or rows
        now = self.clock()
        saved: list[Download] = []
        samples = []
        lost = False
        for row in rows:
            state = states.get(row.download_type)
            listed = self._listed(row, state, pace, now)
            if listed is row:
                continue
            try:
                saved.append(self.downloads.save(listed))
            except LostRace:
                lost = True
                continue
            sample = first_sample(row, _percent(state), now) if state else None
            if sample is not None:
                samples.append((row.download_type, sample))
        verdict = Verdict.LOST_RACE if lost and not saved else Verdict.ANSWERED
        return Outcome(verdict, tuple(saved), tuple(samples))

    def _listed(
        self, row: Download, state: DownloadState | None, pace: Pace, now: float
    ) -> Download:
        """What a list's answer makes of one row."""
        if state is None:
            return transitions.unlisted(row, now)
        if state.status == "ready":
            if state.url and download.is_publishable(state.url, *row.key):
                return transitions.listed_ready(row, state.url, self._upkeep(row, now), now)
            record(Metric.URLS_REFUSED)
            logger.error(
                "Cloudflare reports a download as ready with a URL that is not its own",
                extra={"video_uid": row.video_uid, "download_type": row.download_type},
            )
            retry_at = now + retry_delay(row.attempts, self.jitter)
            return transitions.listed_with_bad_url(row, retry_at, now)
        if row.status is Status.READY:
            return transitions.unlisted(row, now)
        if state.status == "error":
            return transitions.listed_failed(row, now)
        look_at = next_look(row, state.percent_complete, pace, now)
        return transitions.listed_in_progress(row, state.percent_complete, look_at, now)

    def _confirm(self, rows: Sequence[Download], grant: Grant, seconds: float) -> Outcome:
        if not self.budget.is_current(grant):
            return Outcome(Verdict.NOT_SENT)
        try:
            video = self.stream.get_video(rows[0].video_uid, seconds=seconds)
        except Refused as error:
            if error.kind is not RefusalKind.NOT_FOUND:
                return self._read_failed("get_video", rows, error)
            self._count("get_video", "not_found")
            now = self.clock()
            return self._saved(
                Verdict.ANSWERED, *(transitions.video_not_found(row, now) for row in rows)
            )
        except (NotReached, SecretUnavailable) as error:
            return self._read_failed("get_video", rows, error)
        self._count("get_video", "ok")
        now = self.clock()
        return self._saved(Verdict.ANSWERED, *(self._confirmed(row, video, now) for row in rows))

    def _confirmed(self, row: Download, video: Video, now: float) -> Download:
        """What the video itself makes of one row."""
        if video.state == "error":
            return transitions.fail_video(row, video.error_code, video.error_message, now)
        too_long = (video.duration_seconds or 0.0) > LONGEST_RECORDING_SECONDS
        if video.live_input and too_long and row.refused_since is not None:
            message = "Cloudflare makes no downloads of live recordings of over four hours."
            return transitions.fail(row, download.ErrorCode.RECORDING_TOO_LONG, message, now)
        retry_at = now + (retry_delay(row.attempts, self.jitter) if row.attempts else 0.0)
        return transitions.video_found(row, facts_of(video), retry_at, now)

    def _delete(self, row: Download, grant: Grant, seconds: float) -> Outcome:
        if row.status is Status.READY:
            now = self.clock()
            step, due_at = self._upkeep(row, now)
            if step is not Step.DELETE or due_at > now:
                return self._saved(Verdict.ANSWERED, transitions.keep(row, step, due_at))
            # Its retention is over: no URL while it vanishes.
            row = self.downloads.save(transitions.delete(row, now))
        if not self.budget.is_current(grant):
            return Outcome(Verdict.NOT_SENT)
        try:
            self.stream.delete_downloads(row.video_uid, row.download_type, seconds=seconds)
            self._count("delete_downloads", "ok")
        except (CloudflareError, SecretUnavailable) as error:
            if not (isinstance(error, Refused) and error.kind is RefusalKind.NOT_FOUND):
                return self._delete_failed(row, error)
            self._count("delete_downloads", "not_found")
        return self._saved(Verdict.ANSWERED, transitions.deleted(row, self.clock()))

    def _delete_failed(self, row: Download, error: CloudflareError | SecretUnavailable) -> Outcome:
        verdict = self._report("delete_downloads", row.video_uid, error)
        if verdict is not Verdict.FAILED:
            return Outcome(verdict)
        now = self.clock()
        retry_at = now + retry_delay(row.attempts, self.jitter)
        if isinstance(error, Refused) and error.kind is RefusalKind.REJECTED:
            code, message = _reason(error)
            return self._saved(
                verdict, transitions.delete_refused(row, code, message, retry_at, now)
            )
        return self._saved(verdict, transitions.try_again(row, retry_at))

    # --- what they share ----------------------------------------------------------------------

    def _read_failed(
        self, call: str, rows: Sequence[Download], error: CloudflareError | SecretUnavailable
    ) -> Outcome:
        verdict = self._report(call, rows[0].video_uid, error)
        if verdict is not Verdict.FAILED:
            return Outcome(verdict)
        now = self.clock()
        if isinstance(error, Refused) and error.kind is RefusalKind.NOT_FOUND:
            return self._saved(verdict, *(transitions.list_not_found(row, now) for row in rows))
        return self._saved(
            verdict,
            *(
                transitions.try_again(row, now + retry_delay(row.attempts, self.jitter))
                for row in rows
            ),
        )

    def _report(
        self, call: str, video_uid: str, error: CloudflareError | SecretUnavailable
    ) -> Verdict:
        """Log and count a call that did not succeed; say whether it concerns more than the row."""
        kind = error.kind if isinstance(error, Refused) else None
        details = {"video_uid": video_uid, **described(error)}
        if isinstance(error, SecretUnavailable):
            logger.error("The credentials for Cloudflare cannot be read", extra=details)
            return Verdict.CREDENTIALS
        self._count(call, kind or "not_reached")
        if kind is RefusalKind.THROTTLED and isinstance(error, Refused):
            self.budget.close(error.retry_after)
            logger.error("Cloudflare's rate limit was reached: the gate is closed", extra=details)
            record(Metric.GATE_CLOSED)
            return Verdict.THROTTLED
        if kind is RefusalKind.CREDENTIALS:
            logger.error("Cloudflare refuses the credentials", extra=details)
            return Verdict.CREDENTIALS
        logger.warning("A request to Cloudflare did not succeed", extra=details)
        return Verdict.FAILED

    def _saved(self, verdict: Verdict, *rows: Download) -> Outcome:
        """Write the rows; one that somebody else wrote first stays theirs.

        A verdict that concerns more than the rows stands all the same.
        """
        saved = []
        for row in rows:
            try:
                saved.append(self.downloads.save(row))
            except LostRace:
                continue
        stands = saved or verdict in (Verdict.THROTTLED, Verdict.CREDENTIALS)
        return Outcome(verdict if stands else Verdict.LOST_RACE, tuple(saved))

    def _upkeep(self, row: Download, now: float) -> tuple[Step, float]:
        """What to do with a ready download one day, and when."""
        verify_at = now + VERIFY_AFTER
        delete_at = (row.ready_at or now) + self.retention
        if self.retention and delete_at <= verify_at:
            return Step.DELETE, delete_at
        return Step.VERIFY, verify_at

    @staticmethod
    def _count(call: str, outcome: str) -> None:
        record(Metric.CLOUDFLARE_REQUESTS, call=call, outcome=outcome)


def facts_of(video: Video) -> VideoFacts:
    """What a row repeats of a video."""
    return VideoFacts(
        requires_signed_url=video.requires_signed_url,
        creator=video.creator,
        name=video.name,
        duration_seconds=video.duration_seconds,
    )


def _described_row(row: Download) -> dict[str, Any]:
    """What the log tells of each step that a row takes."""
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


def _reason(error: Refused) -> tuple[str, str]:
    """Cloudflare's own code and message, for the row."""
    if error.errors:
        first = error.errors[0]
        return str(first.code), first.message
    return download.ErrorCode.REFUSED, f"Cloudflare answered {error.status}."
