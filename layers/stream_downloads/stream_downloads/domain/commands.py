"""Reads what operators send to a function: typed, or refused with a reason. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from stream_downloads.domain.download import DownloadType, download_types
from stream_downloads.domain.video import VIDEO_UID

# https://developers.cloudflare.com/stream/viewing-videos/download-videos/ names both limits.
FILE_NAME: Final = re.compile("[A-Za-z0-9_-]{1,120}")
LINK_SECONDS: Final = 3_600
LINK_SECONDS_AT_MOST: Final = 24 * 3_600


class BadRequest(ValueError):
    """The payload is not valid. Nothing was changed."""

    def __init__(self, wrong: str) -> None:
        """``wrong`` says what is wrong and what to send instead."""
        super().__init__(f"{wrong}. Nothing was changed.")


class Action(StrEnum):
    """The commands of ManageDownloads."""

    REQUEST = "request"
    DELETE = "delete"
    RETRY = "retry"
    STATUS = "status"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Command:
    """A payload of ManageDownloads.

    Attributes:
        action: what to do.
        video_uid: with which video; None where that means all of them.
        download_types: with which downloads; None if the payload does not say.
    """

    action: Action
    video_uid: str | None
    download_types: tuple[DownloadType, ...] | None


@dataclass(frozen=True, slots=True)
class LinkCommand:
    """A payload of ManageDownloads that asks for a link.

    Attributes:
        video_uid: to which video.
        download_type: to which of its downloads.
        expires_in: seconds that it is to work for.
        filename: what the file is to be called, without an ending; None: Cloudflare's choice.
    """

    video_uid: str
    download_type: DownloadType
    expires_in: int
    filename: str | None


@dataclass(frozen=True, slots=True)
class PollCommand:
    """A payload of PollDownloads.

    Attributes:
        scheduled: the schedule has started the run.
        claim: the owner of the lease that a webhook took for the run; None if none did.
    """

    scheduled: bool = False
    claim: str | None = None


def poll(event: Any) -> PollCommand:
    """Read a payload of PollDownloads: ``{}``, or what the schedule and ReceiveWebhook send.

    Raises:
        BadRequest: it is none of these.
    """
    match event:
        case {"scheduled": True, **others} if not others:
            return PollCommand(scheduled=True)
        case {"claim": str(claim), **others} if claim and not others:
            return PollCommand(claim=claim)
    nothing(event, "PollDownloads")
    return PollCommand()


def nothing(event: Any, function: str) -> None:
    """Check the payload of a function that takes none: ``{}``.

    Raises:
        BadRequest: there is something in it.
    """
    if event:
        raise BadRequest(f"{function} takes no input: send {{}}")


def force(event: Any) -> bool:
    """Read the payload of RegisterWebhook: ``{}`` or ``{"force": true}``.

    Raises:
        BadRequest: it is neither.
    """
    if event == {}:
        return False
    if isinstance(event, dict) and list(event) == ["force"] and event["force"] is True:
        return True
    raise BadRequest('RegisterWebhook takes {} or {"force": true}')


def since(event: Any, now: float) -> float | None:
    """Read the payload of ReconcileLibrary: ``{}`` or ``{"since": "2024-01-01T00:00:00Z"}``.

    Returns:
        The time in seconds since the epoch, or None if there is none.

    Raises:
        BadRequest: it is neither, or the time is none, has no offset, or is still to come.
    """
    fields = _fields(event, {"since"})
    if not fields:
        return None
    text = fields["since"]
    example = 'such as {"since": "2024-01-01T00:00:00Z"}'
    try:
        when = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise BadRequest(f"since has to be a time in ISO 8601, {example}") from None
    if when.tzinfo is None:
        raise BadRequest(f"since has to say its offset from UTC, {example}")
    seconds = when.timestamp()
    if not 0 <= seconds <= now:
        raise BadRequest("since has to lie in the past, and after 1970")
    return seconds


def command(event: Any) -> Command | LinkCommand:
    """Read the payload of ManageDownloads.

    Raises:
        BadRequest: it is not as docs/reference.md describes it.
    """
    fields = _fields(
        event,
        {"action", "video_uid", "download_types", "download_type", "expires_in", "filename"},
    )
    actions = ", ".join(Action)
    if fields.get("action") not in tuple(Action):
        raise BadRequest(f"action has to be one of {actions}")
    action = Action(fields["action"])
    if action is Action.LINK:
        return _link(fields)
    _only(fields, {"action", "video_uid", "download_types"}, action)
    uid = _uid(fields)
    if uid is None and action not in (Action.STATUS, Action.RETRY):
        raise BadRequest(f"{action} needs a video_uid")
    types = _types(fields)
    if uid is None and types is not None:
        raise BadRequest("download_types needs a video_uid")
    return Command(action, uid, types)


def _link(fields: Mapping[str, Any]) -> LinkCommand:
    _only(fields, {"action", "video_uid", "download_type", "expires_in", "filename"}, Action.LINK)
    uid = _uid(fields)
    if uid is None:
        raise BadRequest("link needs a video_uid")
    (download_type,) = _download_types([fields.get("download_type", DownloadType.DEFAULT)])
    expires_in = fields.get("expires_in", LINK_SECONDS)
    whole = isinstance(expires_in, int) and not isinstance(expires_in, bool)
    if not whole or not 1 <= expires_in <= LINK_SECONDS_AT_MOST:
        raise BadRequest(f"expires_in has to be whole seconds, 1 to {LINK_SECONDS_AT_MOST}")
    filename = fields.get("filename")
    if filename is not None and not (isinstance(filename, str) and FILE_NAME.fullmatch(filename)):
        raise BadRequest("filename has to be 1 to 120 characters of A-Z, a-z, 0-9, - and _")
    return LinkCommand(uid, download_type, expires_in, filename)


def _fields(event: Any, known: Collection[str]) -> Mapping[str, Any]:
    if not isinstance(event, dict):
        raise BadRequest("the payload has to be a JSON object")
    if unknown := sorted(event.keys() - known):
        raise BadRequest(f"{unknown[0][:40]!r} is not known here; {', '.join(sorted(known))} are")
    return event


def _only(fields: Mapping[str, Any], known: Collection[str], action: Action) -> None:
    if unknown := sorted(fields.keys() - known):
        raise BadRequest(f"{action} takes no {unknown[0]}")


def _uid(fields: Mapping[str, Any]) -> str | None:
    uid = fields.get("video_uid")
    if uid is None:
        return None
    if not isinstance(uid, str) or not VIDEO_UID.fullmatch(uid):
        raise BadRequest("video_uid has to be a video's uid: 32 characters of 0-9 and a-f")
    return uid


def _types(fields: Mapping[str, Any]) -> tuple[DownloadType, ...] | None:
    names = fields.get("download_types")
    if names is None:
        return None
    if not isinstance(names, list) or not names:
        raise BadRequest('download_types has to be a list such as ["default", "audio"]')
    return _download_types(names)


def _download_types(names: Sequence[object]) -> tuple[DownloadType, ...]:
    try:
        return download_types(names)
    except ValueError as error:
        raise BadRequest(str(error)) from None
