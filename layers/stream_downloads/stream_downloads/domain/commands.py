"""Parses the payloads of the functions, and refuses invalid ones with a reason. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from enum import Enum, StrEnum, auto
from typing import Any, Final

from stream_downloads.domain.download import DownloadType, download_types
from stream_downloads.domain.video import VIDEO_UID

# https://developers.cloudflare.com/stream/viewing-videos/download-videos/ names both limits.
FILE_NAME: Final = re.compile("[A-Za-z0-9_-]{1,120}")
LINK_SECONDS: Final = 3_600
LINK_SECONDS_AT_MOST: Final = 24 * 3_600
# Low enough that `uid` suggests `video_uid`.
NEAREST_RATIO: Final = 0.5


class BadRequest(ValueError):
    """The payload is not valid. Nothing was changed."""

    def __init__(self, wrong: str) -> None:
        """Keep ``wrong``, which says what is wrong and what to send instead."""
        super().__init__(f"{wrong}. Nothing was changed.")


class Action(StrEnum):
    """The commands of ManageDownloads."""

    REQUEST = "request"
    DELETE = "delete"
    RETRY = "retry"
    STATUS = "status"
    LINK = "link"
    CHECK = "check"


KEYS: Final[Mapping[Action, frozenset[str]]] = {
    action: frozenset({"action", "video_uid", "download_types"}) for action in Action
} | {
    Action.LINK: frozenset({"action", "video_uid", "download_type", "expires_in", "filename"}),
    Action.CHECK: frozenset({"action"}),
}
ALL_KEYS: Final = frozenset[str]().union(*KEYS.values())


class Registration(Enum):
    """The ways in which RegisterWebhook is invoked."""

    SUBSCRIBE = auto()  # unless another system is subscribed
    TAKE_OVER = auto()  # replace another system's subscription
    GUEST = auto()  # leave the subscription to its owner
    REFRESH = auto()  # by the schedule: store the signing secret if it has changed


REGISTRATIONS: Final[tuple[tuple[dict[str, bool], Registration], ...]] = (
    ({}, Registration.SUBSCRIBE),
    ({"force": True}, Registration.TAKE_OVER),
    ({"subscribe": False}, Registration.GUEST),
    ({"refresh": True}, Registration.REFRESH),
)


@dataclass(frozen=True, slots=True)
class Command:
    """A payload of ManageDownloads.

    Attributes:
        action: the command.
        video_uid: its video; None: all videos.
        download_types: its downloads; None if the payload names none.
    """

    action: Action
    video_uid: str | None
    download_types: tuple[DownloadType, ...] | None


@dataclass(frozen=True, slots=True)
class LinkCommand:
    """A payload of ManageDownloads that asks for a link.

    Attributes:
        video_uid: the video.
        download_type: which of its downloads.
        expires_in: for how many seconds the link works.
        filename: the name of the file, without an ending; None: Cloudflare's choice.
    """

    video_uid: str
    download_type: DownloadType
    expires_in: int
    filename: str | None


@dataclass(frozen=True, slots=True)
class CheckCommand:
    """A payload of ManageDownloads that asks for a check of the installation."""


@dataclass(frozen=True, slots=True)
class PollCommand:
    """A payload of PollDownloads.

    Attributes:
        scheduled: True if the schedule started the run.
        claim: the owner of the lease, if another function took it for this run; else None.
    """

    scheduled: bool = False
    claim: str | None = None


def poll(event: Any) -> PollCommand:
    """Read a payload of PollDownloads: ``{}``, or what the schedule and other functions send.

    Raises:
        BadRequest: the payload is another one.
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
        BadRequest: the payload is not empty.
    """
    if event:
        raise BadRequest(f"{function} takes no input: send {{}}")


def registration(event: Any) -> Registration:
    """Read the payload of RegisterWebhook.

    Raises:
        BadRequest: the payload is not documented, or contradicts itself.
    """
    fields = _fields(event, {"force", "subscribe", "refresh"}, "RegisterWebhook")
    if {"force", "subscribe"} <= fields.keys():
        raise BadRequest(
            'RegisterWebhook takes {"force": true}, which takes the subscription over, or'
            ' {"subscribe": false}, which leaves it to its owner, but not both'
        )
    for payload, wanted in REGISTRATIONS:
        # 1 and 0 equal true and false, but are not what is documented.
        if fields == payload and all(isinstance(value, bool) for value in fields.values()):
            return wanted
    raise BadRequest('RegisterWebhook takes {}, {"force": true} or {"subscribe": false}')


def since(event: Any, now: float) -> float | None:
    """Read the payload of ReconcileLibrary: ``{}`` or ``{"since": "2024-01-01T00:00:00Z"}``.

    Returns:
        The time in seconds since the epoch, or None if there is none.

    Raises:
        BadRequest: the payload has another key, or the time is invalid, has no offset from UTC,
            or lies in the future.
    """
    fields = _fields(event, {"since"}, "ReconcileLibrary")
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


def command(event: Any) -> Command | LinkCommand | CheckCommand:
    """Read the payload of ManageDownloads.

    Raises:
        BadRequest: the payload is not one that docs/reference.md describes.
    """
    given = event.get("action") if isinstance(event, dict) else None
    action = Action(given) if given in tuple(Action) else None
    known = KEYS[action] if action else ALL_KEYS
    fields = _fields(event, known, action or "ManageDownloads")
    if action is None:
        raise BadRequest(_no_action(given))
    if action is Action.CHECK:
        return CheckCommand()
    if action is Action.LINK:
        return _link(fields)
    uid = _uid(fields)
    if uid is None and action not in (Action.STATUS, Action.RETRY):
        raise BadRequest(f"{action} needs a video_uid")
    types = _types(fields)
    if uid is None and types is not None:
        raise BadRequest("download_types needs a video_uid")
    return Command(action, uid, types)


def _no_action(given: Any) -> str:
    text = f"action has to be one of {', '.join(Action)}"
    if given is None:
        return text
    nearest = _nearest(str(given), tuple(Action))
    hint = f"; the nearest is {nearest}" if nearest else ""
    return f"{str(given)[:40]!r} is no action: {text}{hint}"


def _link(fields: Mapping[str, Any]) -> LinkCommand:
    uid = _uid(fields)
    if uid is None:
        raise BadRequest("link needs a video_uid")
    named = fields.get("download_type", DownloadType.DEFAULT)
    if not isinstance(named, str):
        raise BadRequest('download_type has to be one text, such as "audio"')
    (download_type,) = _download_types([named])
    expires_in = fields.get("expires_in", LINK_SECONDS)
    whole = isinstance(expires_in, int) and not isinstance(expires_in, bool)
    if not whole or not 1 <= expires_in <= LINK_SECONDS_AT_MOST:
        raise BadRequest(f"expires_in has to be whole seconds, 1 to {LINK_SECONDS_AT_MOST}")
    filename = fields.get("filename")
    if filename is not None and not (isinstance(filename, str) and FILE_NAME.fullmatch(filename)):
        raise BadRequest("filename has to be 1 to 120 characters of A-Z, a-z, 0-9, - and _")
    return LinkCommand(uid, download_type, expires_in, filename)


def _fields(event: Any, known: Collection[str], taker: str) -> Mapping[str, Any]:
    """Return the payload if it is an object with known keys only.

    Args:
        event: the payload.
        known: the keys that it may have.
        taker: the function or the action, for the text of the error.

    Raises:
        BadRequest: it is not; the text names the known key that is most like the unknown one.
    """
    if not isinstance(event, dict):
        raise BadRequest("the payload has to be a JSON object")
    for key in sorted(event.keys() - known):
        nearest = _nearest(key, known)
        hint = f"; the nearest key is {nearest}" if nearest else f", only {_listed(known)}"
        raise BadRequest(f"{taker} takes no {key[:40]!r}{hint}")
    return event


def _nearest(word: str, known: Collection[str]) -> str | None:
    """Return the known word that is most like ``word``, None if none is similar."""
    return next(iter(get_close_matches(word.lower()[:40], known, 1, NEAREST_RATIO)), None)


def _listed(words: Collection[str]) -> str:
    """Return words as a sentence lists them."""
    *others, last = sorted(words)
    return f"{', '.join(others)} and {last}" if others else last


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
