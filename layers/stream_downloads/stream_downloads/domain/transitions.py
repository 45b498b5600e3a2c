"""Every transition that the row of a download can make. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from stream_downloads.domain.download import (
    Download,
    DownloadType,
    ErrorCode,
    Lane,
    Status,
    Step,
    VideoFacts,
    is_publishable,
)

DAY: Final = 86_400.0
# A create that was sent is over by then, whatever became of it: the longest total limit of one
# request, with room for the clocks of two functions.
CREATE_SETTLES_AFTER: Final = 30.0
# Cloudflare may not list a download at once after accepting it. No figure is published.
UNLISTED_GRACE: Final = 60.0
# How long a video must stay unknown to Cloudflare before we believe that it is gone.
GONE_GRACE: Final = 3_600.0
# The pauses before a download that Cloudflare reports as failed is deleted and created again.
RECREATE_PAUSES: Final = (60.0, 300.0, 900.0)
# A day of refusals holds over a hundred: with fewer than these, nobody asked for most of the day,
# as when the credentials were refused or the gate was closed.
REFUSALS_AT_LEAST: Final = 20
# The next create comes within this. If that is refused too, it is with Cloudflare's own words.
WORDS_COME_WITHIN: Final = 3_600.0


# --- Wishes: a webhook, reconciliation, or a person -------------------------------------------


def request(
    video_uid: str,
    download_type: DownloadType,
    now: float,
    *,
    facts: VideoFacts | None = None,
    lane: Lane = Lane.LIVE,
) -> Download:
    """The intent: somebody wants this download, and nothing has been asked of Cloudflare yet."""
    facts = facts or VideoFacts()
    return Download(
        video_uid=video_uid,
        download_type=download_type,
        status=Status.REQUESTED,
        requested_at=now,
        updated_at=now,
        lane=lane,
        step=Step.CREATE,
        due_at=now,
        requires_signed_url=facts.requires_signed_url,
        creator=facts.creator,
        name=facts.name,
        duration_seconds=facts.duration_seconds,
    )


def request_again(row: Download, now: float, *, lane: Lane = Lane.LIVE) -> Download:
    """Somebody wants a download that had ended, was being deleted, or waits in a backfill.

    What is still at Cloudflare goes first: a delete that is under way could be carried out after
    the create, and a create repeated over a failed download answers with the old failure.
    """
    if row.status not in (Status.ERROR, Status.DELETING, Status.DELETED):
        return _brought_forward(row, lane)
    clear_first = row.status is Status.DELETING or _may_exist(row)
    return replace(
        row,
        status=Status.REQUESTED,
        requested_at=now,
        updated_at=_later(row, now),
        ready_at=None,
        url=None,
        percent_complete=None,
        error_code=None,
        error_message=None,
        lane=lane,
        step=Step.DELETE if clear_first else Step.CREATE,
        due_at=_settled(row, now),
        attempts=0,
        recreations=0,
        created_at=None,
        looked_at=None,
        refused_since=None,
        missing_since=None,
        reopens=False,
    )


def retry(row: Download, now: float) -> Download:
    """Somebody wants what ended in ``error`` tried again: the delete if it was that, else all."""
    if row.status is not Status.ERROR:
        return row
    if row.error_code == ErrorCode.DELETE_REFUSED:
        return delete(row, now)
    return request_again(row, now)


def delete(row: Download, now: float) -> Download:
    """Somebody wants the download gone, or its retention is over. The URL goes at once."""
    if row.status in (Status.DELETING, Status.DELETED):
        return row
    return replace(
        row,
        status=Status.DELETING,
        updated_at=_later(row, now),
        ready_at=None,
        url=None,
        error_code=None,
        error_message=None,
        step=Step.DELETE,
        due_at=_settled(row, now),
        attempts=0,
        refused_since=None,
        missing_since=None,
        reopens=False,
    )


# --- What webhooks say of a video that has a row ----------------------------------------------


def video_is_ready(row: Download, now: float, *, lane: Lane = Lane.LIVE) -> Download:
    """The video is ready: only an end for the video's own sake is reopened.

    A webhook brings forward what a backfill has found before it.
    """
    if row.reopens:
        return request_again(row, now, lane=lane)
    return _brought_forward(row, lane)


def video_has_failed(row: Download, now: float) -> Download:
    """A webhook says that the video failed. Webhooks come in any order: ask for the video."""
    if row.status not in (Status.REQUESTED, Status.INPROGRESS) or row.step is Step.DELETE:
        return row
    return replace(row, step=Step.CONFIRM, due_at=now, attempts=0, missing_since=None)


def fail_video(row: Download, code: str | None, message: str | None, now: float) -> Download:
    """The video itself failed. A later webhook can open the row again."""
    ended = fail(row, code or ErrorCode.VIDEO_FAILED, message or "The video failed.", now)
    return replace(ended, reopens=True)


# --- Create -----------------------------------------------------------------------------------


def create_sent(row: Download, now: float) -> Download:
    """Written before a create leaves: if nothing is heard of it, a list comes next."""
    return replace(row, step=Step.LIST, due_at=now + CREATE_SETTLES_AFTER, sent_at=now)


def create_accepted(
    row: Download, percent: float | None, look_at: float, now: float, *, was_there: bool = False
) -> Download:
    """Cloudflare took the create. Its answer never publishes, whatever it says.

    ``was_there``: the download is older than this create, and says nothing of the pace.
    """
    return replace(
        row,
        status=Status.INPROGRESS,
        updated_at=_later(row, now),
        percent_complete=percent or 0.0,
        step=Step.LIST,
        due_at=look_at,
        attempts=0,
        created_at=now,
        sent_at=None,
        looked_at=now if was_there else None,
        refused_since=None,
        missing_since=None,
    )


def create_not_sent(row: Download, due_at: float) -> Download:
    """The create certainly never happened and Cloudflare said nothing against it."""
    return replace(row, step=Step.CREATE, due_at=due_at, sent_at=None)


def create_refused(row: Download, code: str, message: str, retry_at: float, now: float) -> Download:
    """Cloudflare refused the create, as it does while a video is not ready: up to a day."""
    row = replace(row, sent_at=None)
    since = _since(row.refused_since, now)
    if _refused_for_a_day(row, since, now):
        return fail(row, code, message, now)
    step = Step.CREATE if row.attempts % 2 == 0 else Step.CONFIRM
    return replace(row, step=step, due_at=retry_at, attempts=row.attempts + 1, refused_since=since)


def try_again(row: Download, due_at: float) -> Download:
    """The step failed for a passing reason: the same step again, later."""
    return replace(row, due_at=due_at, attempts=row.attempts + 1)


# --- List -------------------------------------------------------------------------------------


def listed_in_progress(
    row: Download, percent: float | None, look_at: float, now: float
) -> Download:
    """The list shows it on its way."""
    created_at = row.created_at if row.created_at is not None else row.sent_at or now
    if now - created_at >= DAY:
        message = "Cloudflare has not finished this download in a day."
        return fail(row, ErrorCode.NOT_READY_FOR_A_DAY, message, now)
    if percent is None:
        percent = row.percent_complete or 0.0
    unchanged = row.status is Status.INPROGRESS and percent == row.percent_complete
    return replace(
        row,
        status=Status.INPROGRESS,
        updated_at=row.updated_at if unchanged else _later(row, now),
        percent_complete=percent,
        step=Step.LIST,
        due_at=look_at,
        attempts=0,
        created_at=created_at,
        looked_at=now,
        refused_since=None,
        missing_since=None,
    )


def listed_ready(
    row: Download, url: str, upkeep: tuple[Step, float] | None, now: float
) -> Download:
    """The list shows it ready: the one way by which a URL reaches the table.

    ``upkeep`` is what to do with the ready download one day, and when.

    Raises:
        ValueError: the URL is not one of this video and type on a Cloudflare Stream host.
    """
    if not is_publishable(url, row.video_uid, row.download_type):
        raise ValueError("not a download URL of this video and type on a Cloudflare Stream host")
    was_ready = row.status is Status.READY and row.url == url
    return replace(
        row,
        status=Status.READY,
        url=url,
        percent_complete=100.0,
        ready_at=row.ready_at if was_ready else now,
        updated_at=row.updated_at if was_ready else _later(row, now),
        error_code=None,
        error_message=None,
        step=upkeep[0] if upkeep else None,
        due_at=upkeep[1] if upkeep else None,
        attempts=0,
        looked_at=now,
        refused_since=None,
        missing_since=None,
    )


def keep(row: Download, step: Step, due_at: float) -> Download:
    """A ready download was to be deleted, but its retention has been changed since."""
    return replace(row, step=step, due_at=due_at, attempts=0)


def listed_with_bad_url(row: Download, retry_at: float, now: float) -> Download:
    """The list says ready with a URL that must not be published: wait for a good one, for a day."""
    since = _since(row.refused_since, now)
    if _refused_for_a_day(row, since, now):
        message = "Cloudflare reports the download as ready with a URL that is not one of its own."
        return fail(row, ErrorCode.URL_REFUSED, message, now)
    return replace(row, due_at=retry_at, attempts=row.attempts + 1, refused_since=since)


def listed_failed(row: Download, now: float) -> Download:
    """The list shows an error: delete and create again, with growing pauses, then give up."""
    if row.recreations >= len(RECREATE_PAUSES):
        message = f"Cloudflare could not make this download in {row.recreations + 1} attempts."
        return fail(row, ErrorCode.DOWNLOAD_FAILED, message, now)
    return replace(
        row,
        step=Step.DELETE,
        due_at=now + RECREATE_PAUSES[row.recreations],
        attempts=0,
        recreations=row.recreations + 1,
        looked_at=now,
    )


def unlisted(row: Download, now: float) -> Download:
    """The list does not show it: the create never happened, or the download is gone again."""
    since = _since(row.missing_since, now)
    ready = row.status is Status.READY
    if (ready or row.created_at is not None) and now - since < UNLISTED_GRACE:
        return replace(row, due_at=since + UNLISTED_GRACE, looked_at=now, missing_since=since)
    if ready:
        return replace(
            row,
            step=Step.CONFIRM,
            due_at=now,
            attempts=0,
            looked_at=now,
            refused_since=since,
            missing_since=None,
        )
    if row.created_at is None:
        if now < _settled(row, now):
            return row
        # Each create that was lost counts, so that the next one waits longer.
        return replace(row, step=Step.CREATE, due_at=now, sent_at=None, missing_since=None)
    return _create_anew(row, now)


# --- Confirm: the video itself ----------------------------------------------------------------


def list_not_found(row: Download, now: float) -> Download:
    """The list of a video's downloads is not there, which may mean that there are none."""
    return replace(not_found(row, now), looked_at=now)


def not_found(row: Download, now: float) -> Download:
    """Cloudflare does not know what we asked for: is it the video, or only its downloads?"""
    return replace(
        row,
        step=Step.CONFIRM,
        due_at=now,
        sent_at=None,
        refused_since=_since(row.refused_since, now),
        missing_since=None,
    )


def video_found(row: Download, facts: VideoFacts, retry_at: float, now: float) -> Download:
    """The video is there and did not fail.

    If its download may be there too, only lists tell that it is not: one, and one more after a
    grace. Then what is missing is the download: ask for it.
    """
    row = _with_facts(row, facts, now)
    ready = row.status is Status.READY
    if (ready or _may_exist(row)) and not _is_missing(row):
        step = Step.VERIFY if ready else Step.LIST
        due_at = max(now, _tells_from(row))
        return replace(row, step=step, due_at=due_at, attempts=0, missing_since=None)
    if ready:
        vanished = replace(row, status=Status.DELETED, created_at=None, sent_at=None)
        return request_again(vanished, now, lane=row.lane)
    since = _since(row.refused_since, now)
    if _refused_for_a_day(row, since + WORDS_COME_WITHIN, now):
        message = "Cloudflare has the video, but refused this download for a day."
        return fail(row, ErrorCode.REFUSED, message, now)
    if row.created_at is not None:
        return _create_anew(row, now)
    return replace(
        row,
        step=Step.CREATE,
        due_at=retry_at,
        attempts=row.attempts + 1,
        sent_at=None,
        missing_since=None,
    )


def video_not_found(row: Download, now: float) -> Download:
    """The video is not there: believe it after a grace, and a second look."""
    since = _since(row.missing_since, now)
    if now - since < GONE_GRACE:
        return replace(row, step=Step.CONFIRM, due_at=since + GONE_GRACE, missing_since=since)
    if row.status is Status.READY:
        return deleted(delete(row, now), now)
    ended = fail(row, ErrorCode.VIDEO_GONE, "Cloudflare does not know this video any more.", now)
    return replace(ended, reopens=True)


# --- Delete -----------------------------------------------------------------------------------


def delete_refused(row: Download, code: str, message: str, retry_at: float, now: float) -> Download:
    """Cloudflare refused the delete: try for a day, then say so."""
    since = _since(row.refused_since, now)
    if _refused_for_a_day(row, since, now):
        if row.status is Status.DELETING:  # else it was to be made anew
            message = f"Cloudflare refused to delete it for a day: {code} {message}"
            code = ErrorCode.DELETE_REFUSED
        return fail(row, code, message, now)
    return replace(row, due_at=retry_at, attempts=row.attempts + 1, refused_since=since)


def deleted(row: Download, now: float) -> Download:
    """Cloudflare deleted it, or had nothing to delete. A tombstone stays, unless it is wanted."""
    if row.status is not Status.DELETING:
        return replace(
            row,
            step=Step.CREATE,
            due_at=now,
            attempts=0,
            created_at=None,
            sent_at=None,
            looked_at=None,
        )
    return replace(
        row,
        status=Status.DELETED,
        updated_at=_later(row, now),
        percent_complete=None,
        step=None,
        due_at=None,
        attempts=0,
        created_at=None,
        sent_at=None,
        looked_at=None,
        refused_since=None,
        missing_since=None,
    )


# --- The end ----------------------------------------------------------------------------------


def fail(row: Download, code: str, message: str, now: float) -> Download:
    """Waiting cannot mend it: the row ends in ``error``, with a reason."""
    return replace(
        row,
        status=Status.ERROR,
        updated_at=_later(row, now),
        ready_at=None,
        url=None,
        error_code=code,
        error_message=message,
        step=None,
        due_at=None,
        attempts=0,
        refused_since=None,
        missing_since=None,
    )


def _brought_forward(row: Download, lane: Lane) -> Download:
    # Whoever asks today does not wait behind a backfill.
    waits = row.status in (Status.REQUESTED, Status.INPROGRESS) and row.lane is Lane.BACKFILL
    return replace(row, lane=lane) if waits and lane is Lane.LIVE else row


def _with_facts(row: Download, facts: VideoFacts, now: float) -> Download:
    known = {name: value for name, value in facts._asdict().items() if value is not None}
    updated = replace(row, **known)
    return updated if updated == row else replace(updated, updated_at=_later(row, now))


def _create_anew(row: Download, now: float) -> Download:
    # Cloudflare took the create, but the download is gone, or never came.
    if row.recreations >= len(RECREATE_PAUSES):
        message = f"Cloudflare took {row.recreations + 1} creates and shows no download."
        return fail(row, ErrorCode.DOWNLOAD_FAILED, message, now)
    return replace(
        row,
        step=Step.CREATE,
        due_at=now,
        attempts=0,
        recreations=row.recreations + 1,
        created_at=None,
        sent_at=None,
        looked_at=None,
        missing_since=None,
    )


def _may_exist(row: Download) -> bool:
    # Cloudflare took a create, or may have taken one.
    return row.created_at is not None or row.sent_at is not None


def _is_missing(row: Download) -> bool:
    # The last list did not show it, and came late enough to tell.
    asked = row.refused_since is not None and row.looked_at is not None
    return asked and (row.looked_at or 0.0) >= _tells_from(row)


def _tells_from(row: Download) -> float:
    # From when on a list that does not show the download tells that it is not there.
    grace = 0.0 if row.refused_since is None else row.refused_since + UNLISTED_GRACE
    return max(grace, _settled(row, 0.0))


def _refused_for_a_day(row: Download, since: float, now: float) -> bool:
    return now - since >= DAY and row.attempts >= REFUSALS_AT_LEAST


def _settled(row: Download, now: float) -> float:
    # A delete waits for a create that may still be on its way, or it would be made again.
    return now if row.sent_at is None else max(now, row.sent_at + CREATE_SETTLES_AFTER)


def _since(since: float | None, now: float) -> float:
    return now if since is None else since


def _later(row: Download, now: float) -> float:
    # Two functions' clocks may differ: the row's own time never goes back.
    return max(row.updated_at, now)
