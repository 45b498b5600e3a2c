"""Every transition of a download, in the order of its life.

Each function takes a row and what was just learned, and returns the next row: the same object if
nothing changes. New `Work` has no failures and no trouble: a transition that keeps them passes them
on. `Creation` is kept for as long as something of ours may exist at Cloudflare.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

from stream_downloads.domain.download import (
    Creation,
    Download,
    DownloadType,
    ErrorCode,
    Lane,
    Reason,
    Report,
    Status,
    Step,
    Trouble,
    TroubleKind,
    Work,
    is_publishable,
)
from stream_downloads.domain.video import Video

DAY: Final = 86_400.0
# A create has arrived or failed by then: this is the longest limit of one request, and room for
# different clocks of two functions.
CREATE_SETTLES_AFTER: Final = 30.0
# Cloudflare may list a download some time after accepting it. No figure is published.
UNLISTED_GRACE: Final = 60.0
# A video has to be unknown to Cloudflare for this long before it counts as gone.
GONE_GRACE: Final = 3_600.0
# Two reports of progress are compared when the age of the download has grown by this factor.
COMPARED_OVER: Final = 2.0
# The pauses before a download that Cloudflare reports as failed is deleted and created again.
RECREATE_PAUSES: Final = (60.0, 300.0, 900.0)
# A day of retries has about a hundred refusals. With fewer than this, most of the day had no
# requests, as when the credentials were refused or Cloudflare's rate limit was reached.
REFUSALS_AT_LEAST: Final = 20


# --- Requested: by a webhook, by reconciliation or by an operator -----------------------------


def request(
    video: Video, download_type: DownloadType, now: float, *, lane: Lane = Lane.LIVE
) -> Download:
    """Return the row of a download that is wanted from now on."""
    return Download(
        video_uid=video.uid,
        download_type=download_type,
        status=Status.REQUESTED,
        requested_at=now,
        updated_at=now,
        requires_signed_url=video.requires_signed_url,
        creator=video.creator,
        name=video.name,
        duration_seconds=video.duration_seconds,
        work=Work(Step.CREATE, now),
        lane=lane,
    )


def request_again(
    row: Download, now: float, *, video: Video | None = None, lane: Lane = Lane.LIVE
) -> Download:
    """Request a download that had ended or was being deleted; bring forward one of a backfill.

    What exists at Cloudflare is deleted first: a delete that is under way could be carried out
    after the create, and a create over a failed download answers with the old failure.

    Args:
        row: in any status.
        now: the time of the request.
        video: the video, if it is known; the row takes over its facts.
        lane: the priority of the request.
    """
    if video:
        row = _with_facts(row, video, now)
    if row.status in (Status.ERROR, Status.DELETING, Status.DELETED):
        return _requested_again(row, now, lane)
    return _brought_forward(row, lane)


def retry(row: Download, now: float) -> Download:
    """Retry a row that ended in ``error``: its delete if that was refused, else the download."""
    if row.status is not Status.ERROR:
        return row
    if row.error_code == ErrorCode.DELETE_REFUSED:
        return delete(row, now)
    return request_again(row, now)


def video_is_ready(row: Download, video: Video, now: float, *, lane: Lane = Lane.LIVE) -> Download:
    """Request again a row that ended because of its video; bring forward one of a backfill."""
    if row.reopens:
        return request_again(row, now, video=video, lane=lane)
    return _brought_forward(row, lane)


def video_has_failed(row: Download, now: float) -> Download:
    """Check a video after a webhook said that it failed: webhooks come in any order."""
    if row.work is None or row.status not in (Status.REQUESTED, Status.INPROGRESS):
        return row
    if row.work.step is Step.DELETE:
        return row
    return replace(row, work=Work(Step.GET_VIDEO, now, trouble=row.work.trouble))


def fail_video(row: Download, video: Video, now: float) -> Download:
    """End a row whose video failed. It is requested again when the video is ready."""
    code = video.error_code or ErrorCode.VIDEO_FAILED
    reason = Reason(code, video.error_message or "The video failed.")
    return replace(fail(row, reason, now), reopens=True)


# --- Create -----------------------------------------------------------------------------------


def create_sent(row: Download, now: float) -> Download:
    """Record a create before it is sent. If no answer comes, the next step is a list."""
    work = replace(_work(row), step=Step.LIST, due_at=now + CREATE_SETTLES_AFTER)
    return replace(row, work=work, creation=Creation(sent_at=now))


def create_not_sent(row: Download, due_at: float) -> Download:
    """Undo a create that was not sent, or did not arrive."""
    work = replace(_work(row), step=Step.CREATE, due_at=due_at)
    return replace(row, work=work, creation=None)


def create_failed(row: Download, retry_at: float, reason: Reason, now: float) -> Download:
    """Repeat, after a pause, a create that did not arrive."""
    return try_again(create_not_sent(row, retry_at), retry_at, reason, now)


def create_accepted(
    row: Download, percent: float | None, poll_at: float, now: float, *, was_there: bool = False
) -> Download:
    """Record that Cloudflare accepted the create. Its answer never publishes a URL.

    Args:
        row: with the create sent.
        percent: what the answer says, 0 to 100.
        poll_at: when to list it for the first time.
        now: the time of the answer.
        was_there: the download is older than this create, so that its age is unknown.
    """
    sent_at = row.creation.sent_at if row.creation else now
    return replace(
        _in_progress(row, now),
        percent_complete=percent or 0.0,
        work=Work(Step.LIST, poll_at),
        creation=Creation(sent_at, accepted_at=now, polled_at=now if was_there else None),
    )


def create_refused(row: Download, reason: Reason, retry_at: float, now: float) -> Download:
    """Repeat a refused create for a day: Cloudflare refuses while the video is not ready.

    From the second refusal on, the video is checked before each create: it may have failed.
    """
    trouble = _trouble(row, TroubleKind.REFUSED, reason, now)
    row = replace(row, creation=None)
    if _lasted_a_day(trouble, now):
        return fail(row, reason, now)
    step = Step.CREATE if trouble.count == 1 else Step.GET_VIDEO
    return replace(row, work=_next_attempt(row, step, retry_at, trouble))


def create_not_found(row: Download, reason: Reason, now: float) -> Download:
    """Check the video of a create that was answered with 404: is it gone, or not ready yet?"""
    trouble = _trouble(row, TroubleKind.REFUSED, reason, now)
    row = replace(row, creation=None)
    if _lasted_a_day(trouble, now):
        return fail(row, reason, now)
    return replace(row, work=_next_attempt(row, Step.GET_VIDEO, now, trouble))


def try_again(row: Download, due_at: float, reason: Reason, now: float) -> Download:
    """Repeat a step that failed for a passing reason; other trouble of the row stays."""
    trouble = _trouble(row, TroubleKind.FAILING, reason, now)
    return replace(row, work=_next_attempt(row, _work(row).step, due_at, trouble))


# --- List -------------------------------------------------------------------------------------


def listed_in_progress(
    row: Download, percent: float | None, poll_at: float, now: float
) -> Download:
    """Record the progress that a list shows. After a day of progress the row ends in ``error``."""
    creation = _listed(row, now)
    if now - (creation.accepted_at or now) >= DAY:
        message = "Cloudflare has not finished this download in a day."
        return fail(row, Reason(ErrorCode.NOT_READY_FOR_A_DAY, message), now)
    if percent is None:
        percent = row.percent_complete or 0.0
    creation = replace(creation, earlier=_earlier_report(creation, percent, now))
    work = Work(Step.LIST, poll_at)
    row = _in_progress(row, now)
    return replace(row, percent_complete=percent, work=work, creation=creation)


def followed(before: Download, after: Download) -> Download | None:
    """Return the row to keep in memory after a list, or None if it has to be written at once.

    A row with nothing new but progress need not be written. Its due time in the index stays: if
    the memory is lost, the download is polled once more.

    Args:
        before: the row before the list.
        after: the row that followed from the list.
    """
    work, polled = before.work, after.work
    accepted_at = before.creation.accepted_at if before.creation else None
    if work is None or polled is None or accepted_at is None or work.trouble or work.attempts:
        return None
    progress = replace(
        before,
        percent_complete=after.percent_complete,
        work=polled,
        creation=after.creation,
    )
    if after != progress or polled.step is not Step.LIST or polled.trouble:
        return None
    if before.indexed_at is None or polled.due_at < before.indexed_at:
        return None
    return replace(after, work=replace(polled, indexed_at=before.indexed_at))


def listed_ready(row: Download, url: str, maintenance: Work, now: float) -> Download:
    """Publish the URL of a download that a list shows as ready. Nothing else publishes one.

    Args:
        row: the row before the list.
        url: as listed.
        maintenance: what to do with the ready download later.
        now: the time of the list.

    Raises:
        ValueError: the URL is not one of this video and type on a Cloudflare Stream host.
    """
    if not is_publishable(url, row.video_uid, row.download_type):
        raise ValueError("not a download URL of this video and type on a Cloudflare Stream host")
    creation = _listed(row, now)
    if row.status is Status.READY and row.url == url:
        return replace(row, work=maintenance, creation=creation)
    row = _become(
        row,
        Status.READY,
        now,
        url=url,
        percent_complete=100.0,
        work=maintenance,
        creation=creation,
    )
    return replace(row, ready_at=row.updated_at)


def keep_ready(row: Download, maintenance: Work) -> Download:
    """Keep a ready download that was to be deleted: its retention has been changed since."""
    return replace(row, work=maintenance)


def listed_with_bad_url(row: Download, retry_at: float, maintenance: Work, now: float) -> Download:
    """Retry a list with a bad URL for a day. A ready download keeps the URL that it has."""
    message = "Cloudflare reports the download as ready with a URL that is not one of its own."
    reason = Reason(ErrorCode.URL_REFUSED, message)
    trouble = _trouble(row, TroubleKind.BAD_URL, reason, now)
    row = replace(row, creation=_listed(row, now))
    if row.status is Status.READY:
        return replace(row, work=replace(maintenance, trouble=trouble))
    if _lasted_a_day(trouble, now):
        return fail(row, reason, now)
    return replace(row, work=_next_attempt(row, Step.LIST, retry_at, trouble))


def listed_failed(row: Download, now: float) -> Download:
    """Delete a download that Cloudflare failed to make, and create it again, a few times."""
    row = replace(row, creation=_listed(row, now))
    if row.recreations >= len(RECREATE_PAUSES):
        message = f"Cloudflare could not make this download in {row.recreations + 1} attempts."
        return fail(row, Reason(ErrorCode.DOWNLOAD_FAILED, message), now)
    work = Work(Step.DELETE, now + RECREATE_PAUSES[row.recreations])
    return replace(row, work=work, recreations=row.recreations + 1)


def unlisted(row: Download, now: float) -> Download:
    """Handle a list that does not show the download.

    A create that was never confirmed is repeated. Anything that Cloudflare had accepted must be
    missing from two lists, `UNLISTED_GRACE` apart. Then the video of a ready download is checked,
    and any other download is created again.
    """
    if row.creation and row.creation.accepted_at is None and row.status is not Status.READY:
        if now < _create_settled_at(row, now):
            return row  # the create may still be on its way
        return create_not_sent(row, now)
    message = "Cloudflare does not list this download."
    reason = Reason(ErrorCode.DOWNLOAD_FAILED, message)
    trouble = _trouble(row, TroubleKind.UNLISTED, reason, now)
    row = replace(row, creation=_polled(row, now))
    step = _work(row).step
    if now - trouble.since < UNLISTED_GRACE:
        return replace(row, work=Work(step, trouble.since + UNLISTED_GRACE, trouble=trouble))
    if row.status is Status.READY:
        return replace(row, work=Work(Step.GET_VIDEO, now, trouble=trouble))
    if row.recreations >= len(RECREATE_PAUSES):
        message = f"Cloudflare accepted {row.recreations + 1} creates, but lists no download."
        return fail(row, Reason(ErrorCode.DOWNLOAD_FAILED, message), now)
    return replace(row, work=Work(Step.CREATE, now), creation=None, recreations=row.recreations + 1)


# --- The video itself -------------------------------------------------------------------------


def video_found(row: Download, video: Video, retry_at: float, now: float) -> Download:
    """Continue a row whose video exists and did not fail.

    A ready download that is missing from two recent lists is requested again. If the video was
    unknown in between, or the lists are old, the download is listed once more.
    """
    row = _with_facts(row, video, now)
    work = _work(row)
    trouble = work.trouble
    if trouble and trouble.kind in (TroubleKind.VIDEO_UNKNOWN, TroubleKind.FAILING):
        trouble = None
    if row.status is Status.READY:
        polled_at = row.creation.polled_at if row.creation else None
        is_old = polled_at is None or now - polled_at > UNLISTED_GRACE
        if is_old or trouble is None or trouble.kind is not TroubleKind.UNLISTED:
            return replace(row, work=Work(Step.RECHECK, now, trouble=trouble))
        return _requested_again(replace(row, creation=None), now, row.lane)
    if row.creation is not None:
        return replace(row, work=Work(Step.LIST, _create_settled_at(row, now), trouble=trouble))
    return replace(row, work=Work(Step.CREATE, retry_at, work.attempts, trouble))


def video_not_found(row: Download, reason: Reason, now: float) -> Download:
    """Check again after `GONE_GRACE` that the video is gone; then end the row."""
    trouble = _trouble(row, TroubleKind.VIDEO_UNKNOWN, reason, now)
    if now - trouble.since < GONE_GRACE:
        work = Work(Step.GET_VIDEO, trouble.since + GONE_GRACE, trouble=trouble)
        return replace(row, work=work)
    if row.status is Status.READY:
        return deleted(delete(row, now), now)
    gone = Reason(ErrorCode.VIDEO_GONE, "Cloudflare does not know this video any more.")
    return replace(fail(row, gone, now), reopens=True)


# --- Delete -----------------------------------------------------------------------------------


def delete(row: Download, now: float) -> Download:
    """Delete a download, on request or at the end of its retention. The URL is removed at once."""
    if row.status in (Status.DELETING, Status.DELETED):
        return row
    return _become(row, Status.DELETING, now, work=Work(Step.DELETE, _create_settled_at(row, now)))


def delete_refused(row: Download, reason: Reason, retry_at: float, now: float) -> Download:
    """Repeat a delete that Cloudflare refused, for a day."""
    trouble = _trouble(row, TroubleKind.REFUSED, reason, now)
    if not _lasted_a_day(trouble, now):
        return replace(row, work=_next_attempt(row, Step.DELETE, retry_at, trouble))
    if row.status is Status.DELETING:  # else it was deleted only to be created again
        message = f"Cloudflare refused to delete it for a day: {reason.code} {reason.message}"
        reason = Reason(ErrorCode.DELETE_REFUSED, message)
    return fail(row, reason, now)


def deleted(row: Download, now: float) -> Download:
    """Record that the download is gone from Cloudflare, and create it again if it is wanted.

    A deleted row stays, so that only a new request brings the download back.
    """
    if row.status is not Status.DELETING:
        return replace(row, work=Work(Step.CREATE, now), creation=None)
    return _become(row, Status.DELETED, now, percent_complete=None, work=None, creation=None)


# --- Error ------------------------------------------------------------------------------------


def fail(row: Download, reason: Reason, now: float) -> Download:
    """End a row that waiting cannot fix. What exists at Cloudflare is remembered for a retry."""
    return _become(
        row,
        Status.ERROR,
        now,
        error_code=reason.code,
        error_message=reason.message,
        work=None,
    )


# --- What the transitions share ---------------------------------------------------------------


def _become(row: Download, status: Status, now: float, **changes: Any) -> Download:
    """Return the row with another status, and without the public fields of the old one."""
    cleared = {
        "url": None,
        "ready_at": None,
        "error_code": None,
        "error_message": None,
        "reopens": False,
    }
    return replace(row, status=status, updated_at=_next_updated_at(row, now), **(cleared | changes))


def _in_progress(row: Download, now: float) -> Download:
    """Return the row in progress. A percentage alone does not move ``updated_at``."""
    return row if row.status is Status.INPROGRESS else _become(row, Status.INPROGRESS, now)


def _next_updated_at(row: Download, now: float) -> float:
    """Return the time of a change: whole milliseconds, as consumers see it, and always growing.

    The clocks of two functions differ, and consumers order the changes of a row by this time.
    """
    milliseconds = max(math.floor(now * 1000), round(row.updated_at * 1000) + 1)
    return milliseconds / 1000


def _work(row: Download) -> Work:
    """Return the work of a row that is being processed."""
    if row.work is None:
        raise ValueError(f"{row.video_uid}/{row.download_type} has nothing to do")
    return row.work


def _next_attempt(row: Download, step: Step, due_at: float, trouble: Trouble) -> Work:
    """Return the work after a failure, with one more attempt counted."""
    return Work(step, due_at, _work(row).attempts + 1, trouble)


def _trouble(row: Download, kind: TroubleKind, reason: Reason, now: float) -> Trouble:
    """Return the trouble of a row after it was met again.

    The same kind goes on; another kind starts now. But a passing failure replaces no other trouble:
    otherwise a refused create of which some requests fail would never end.
    """
    before = row.work.trouble if row.work else None
    if before and before.kind is kind:
        return Trouble(kind, before.since, before.count + 1, reason)
    if before and kind is TroubleKind.FAILING:
        return before
    return Trouble(kind, now, 1, reason)


def _lasted_a_day(trouble: Trouble, now: float) -> bool:
    return now - trouble.since >= DAY and trouble.count >= REFUSALS_AT_LEAST


def _polled(row: Download, now: float) -> Creation:
    """Return the creation of a row after a list, whatever the list showed."""
    return replace(row.creation or Creation(sent_at=now), polled_at=now)


def _listed(row: Download, now: float) -> Creation:
    """Return the creation of a row after a list that shows it, and so confirms the create."""
    creation = _polled(row, now)
    return replace(creation, accepted_at=creation.accepted_at or creation.sent_at)


def _earlier_report(creation: Creation, percent: float, now: float) -> Report:
    """Return the report to compare the next one with: old enough to show a speed."""
    earlier, accepted_at = creation.earlier, creation.accepted_at or creation.sent_at
    if earlier and now - accepted_at < COMPARED_OVER * (earlier.at - accepted_at):
        return earlier
    return Report(now, percent)


def _create_settled_at(row: Download, now: float) -> float:
    """Return the time from which no create of this row can still be on its way."""
    if row.creation is None or row.creation.accepted_at is not None:
        return now
    return max(now, row.creation.sent_at + CREATE_SETTLES_AFTER)


def _requested_again(row: Download, now: float, lane: Lane) -> Download:
    """Return the row as requested now; what may exist at Cloudflare is deleted first."""
    clear_first = row.status is Status.DELETING or row.creation is not None
    step = Step.DELETE if clear_first else Step.CREATE
    return _become(
        row,
        Status.REQUESTED,
        now,
        requested_at=now,
        percent_complete=None,
        work=Work(step, _create_settled_at(row, now)),
        recreations=0,
        lane=lane,
    )


def _brought_forward(row: Download, lane: Lane) -> Download:
    """Return the row in the live lane if it waits in a backfill and is wanted sooner."""
    waits = row.status in (Status.REQUESTED, Status.INPROGRESS) and row.lane is Lane.BACKFILL
    return replace(row, lane=lane) if waits and lane is Lane.LIVE else row


def _with_facts(row: Download, video: Video, now: float) -> Download:
    """Return the row with what is known of its video."""
    signed = video.requires_signed_url
    duration = video.duration_seconds
    updated = replace(
        row,
        requires_signed_url=row.requires_signed_url if signed is None else signed,
        creator=video.creator or row.creator,
        name=video.name or row.name,
        duration_seconds=row.duration_seconds if duration is None else duration,
    )
    return row if updated == row else replace(updated, updated_at=_next_updated_at(row, now))
