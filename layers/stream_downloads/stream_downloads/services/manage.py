"""Carries out the commands of operators: request, delete, retry, status, link."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from stream_downloads.adapters.download_item import Unreadable, consumers_view
from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.observability import described, logger
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.stream_api import CloudflareError, RefusalKind, Refused
from stream_downloads.domain import transitions
from stream_downloads.domain.commands import Action, BadRequest, Command, LinkCommand
from stream_downloads.domain.download import (
    MAINTENANCE_QUEUE,
    Download,
    Lane,
    Status,
    Step,
    iso_time,
    queue_name,
)
from stream_downloads.domain.video import Video
from stream_downloads.services import intents
from stream_downloads.services.dependencies import Service
from stream_downloads.services.gateway import CALL_SECONDS, NotNow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stream_downloads.domain.download import DownloadType, Work

# A call of DynamoDB makes at most three attempts of three seconds each.
STOP_BEFORE_TIMEOUT: Final = 12.0
KEYS_AT_ONCE: Final = 100
QUEUES: Final = (
    *(queue_name(lane, creates=creates) for lane in Lane for creates in (True, False)),
    MAINTENANCE_QUEUE,
)
# The downloads that are not at rest, and what their next step means to an operator.
WAITING: Final = (Status.REQUESTED, Status.INPROGRESS, Status.DELETING)
WAITS_FOR: Final = {
    Step.CREATE: "create",
    Step.LIST: "poll",
    Step.RECHECK: "poll",
    Step.GET_VIDEO: "video",
    Step.DELETE: "delete",
}


def manage(
    service: Service, command: Command | LinkCommand, remaining: Callable[[], float]
) -> dict[str, Any]:
    """Carry out a command. The poller then sends its creates and deletes to Cloudflare."""
    if isinstance(command, LinkCommand):
        return link(service, command)
    uid, types = command.video_uid, command.download_types
    if uid is None:
        if command.action is Action.STATUS:
            return stack_status(service, remaining)
        return retry_all(service, remaining)
    if command.action is Action.REQUEST:
        return request(service, uid, types or service.download_types)
    rows = [
        row for row in service.downloads.of_video(uid) if not types or row.download_type in types
    ]
    if not rows:
        raise BadRequest(f"The table has no such download of video {uid}")
    if command.action is Action.STATUS:
        return video_status(uid, rows)
    wish = transitions.delete if command.action is Action.DELETE else transitions.retry
    transition = partial(wish, now=service.clock())
    changed = [intents.change(service.downloads, row, transition) or row for row in rows]
    return downloads_answer(uid, changed)


def request(service: Service, uid: str, types: tuple[DownloadType, ...]) -> dict[str, Any]:
    """Request downloads of a video that Cloudflare knows, also those that ended or were deleted."""
    video = ask_for_video(service, uid)
    now = service.clock()
    for kind in types:
        wanted = transitions.request(video, kind, now)
        again = partial(transitions.request_again, video=video, now=now)
        intents.add_or_change(service.downloads, wanted, again)
    rows = [row for row in service.downloads.of_video(uid) if row.download_type in types]
    return downloads_answer(uid, rows)


def ask_for_video(service: Service, uid: str) -> Video:
    """Return the video as Cloudflare knows it, or its uid alone if Cloudflare cannot be asked now.

    Raises:
        BadRequest: Cloudflare does not know the video.
    """
    gateway = service.gateway
    try:
        return gateway.ask(gateway.stream.get_video, uid, seconds=CALL_SECONDS)
    except (CloudflareError, NotNow, SecretUnavailable) as error:
        if isinstance(error, Refused) and error.kind is RefusalKind.NOT_FOUND:
            message = f"Cloudflare does not know video {uid}: check the uid and the account"
            raise BadRequest(message) from None
        logger.warning("Cloudflare could not be asked for the video", extra=described(error))
    rows = service.downloads.of_video(uid)
    if not rows:
        return Video(uid=uid)
    return Video(
        uid=uid,
        requires_signed_url=rows[0].requires_signed_url,
        creator=rows[0].creator,
        name=rows[0].name,
        duration_seconds=rows[0].duration_seconds,
    )


def retry_all(service: Service, remaining: Callable[[], float]) -> dict[str, Any]:
    """Retry the rows that ended in ``error``, as many as the time allows."""
    count, failed = 0, 0
    for uid, kind in service.downloads.with_status(Status.ERROR):
        if remaining() < STOP_BEFORE_TIMEOUT:
            return {"retried": count, "ended": "out of time: send the same again for the rest"}
        try:
            row = service.downloads.get(uid, kind)
            if row is not None and row.status is Status.ERROR:
                again = partial(transitions.retry, now=service.clock())
                intents.change(service.downloads, row, again)
                count += 1
        except (Unreadable, LostRace) as error:  # one bad row blocks no other
            failed += 1
            details = {"video_uid": uid, "download_type": kind, **described(error)}
            logger.error("A row could not be opened again", extra=details)
    ended = f"done, but {failed} could not be opened: see the log" if failed else "done"
    return {"retried": count, "ended": ended}


def stack_status(service: Service, remaining: Callable[[], float]) -> dict[str, Any]:
    """Sum up the stack within the function's time, however many rows there are."""
    oldest = oldest_due(service, QUEUES)
    used, limit, blocked_until = service.gateway.usage()
    return {
        "rows": count_rows(service, remaining),
        "oldest_due": iso_time(oldest) if oldest else None,
        "requests_in_five_minutes": used,
        "request_limit": limit,
        "blocked_until": iso_time(blocked_until) if blocked_until else None,
    }


def oldest_due(service: Service, queues: Iterable[str]) -> float | None:
    """Return since when the oldest due row of these queues has been due, None if none is due.

    A row may be due later than its entry of the index says, so the rows themselves are read.
    """
    now = service.clock()
    due = []
    for queue in queues:
        entries = islice(service.downloads.due(queue, now, KEYS_AT_ONCE), KEYS_AT_ONCE)
        # An entry that moves while the index is read can come twice.
        rows = service.downloads.read(list(dict.fromkeys(entry.key for entry in entries)))
        due += [row.due_at for row in rows if row.due_at and row.due_at <= now]
    return min(due, default=None)


def count_rows(service: Service, remaining: Callable[[], float]) -> dict[str, int | dict[str, int]]:
    """Count the rows by status, a page of each in turn, so that only large counts take long.

    Returns:
        For each status the number of rows, or ``{"at_least": number}`` if the time ran out.
    """
    counted = dict.fromkeys(Status, 0)
    unfinished = {status: service.downloads.count(status) for status in Status}
    while unfinished and remaining() > STOP_BEFORE_TIMEOUT:
        status, pages = next(iter(unfinished.items()))
        del unfinished[status]
        page = next(pages, None)
        if page is not None:
            counted[status] += page
            unfinished[status] = pages  # its turn comes again after the others
    return {
        status.value: {"at_least": count} if status in unfinished else count
        for status, count in counted.items()
    }


def link(service: Service, command: LinkCommand) -> dict[str, Any]:
    """Return a URL that works now: for a private video with a signed token in place of its uid."""
    row = service.downloads.get(command.video_uid, command.download_type)
    if row is None or row.url is None:
        status = row.status if row else "unknown"
        raise BadRequest(f"Only a ready download has a link; the status of this one is {status}")
    gateway = service.gateway
    private = row.requires_signed_url
    if not private:  # its owner may have made it private since the row was written
        video = gateway.ask(gateway.stream.get_video, row.video_uid, seconds=CALL_SECONDS)
        private = video.requires_signed_url
    url, expires_at = row.url, None
    if private:
        expires_at = int(service.clock()) + command.expires_in
        token = gateway.ask(
            gateway.stream.create_token,
            row.video_uid,
            expires_at=expires_at,
            seconds=CALL_SECONDS,
        )
        url = url.replace(row.video_uid, token)
    if command.filename:
        url = f"{url}?filename={command.filename}"
    return {"url": url, "expires_at": iso_time(expires_at) if expires_at else None}


def downloads_answer(uid: str, rows: list[Download]) -> dict[str, Any]:
    """Return the rows of one video, as consumers see them."""
    return {"video_uid": uid, "downloads": [consumers_view(row) for row in rows]}


def video_status(uid: str, rows: list[Download]) -> dict[str, Any]:
    """Return the rows of one video, with what those that are not at rest wait for."""
    answer = downloads_answer(uid, rows)
    for row, said in zip(rows, answer["downloads"], strict=True):
        if row.work and row.status in WAITING:
            said["waiting"] = waiting(row.work)
    return answer


def waiting(work: Work) -> dict[str, Any]:
    """Return what a row waits for, until when, and the problem that holds it up, if one does."""
    said = {"for": WAITS_FOR[work.step], "until": iso_time(work.due_at)}
    if work.trouble:
        reason = work.trouble.reason
        said["problem"] = f"{reason.code}: {reason.message}"
        said["since"] = iso_time(work.trouble.since)
    return said
