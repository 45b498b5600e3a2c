"""A video as Cloudflare describes it, read alike from a webhook and from an answer of the API.

https://developers.cloudflare.com/stream/manage-video-library/using-webhooks/
https://developers.cloudflare.com/api/resources/stream/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from stream_downloads.domain.download import DownloadType

VIDEO_UID: Final = re.compile("[0-9a-f]{32}")

# The values of `meta.downloads`, which names the downloads of a video.
META_DOWNLOADS: Final[Mapping[str, tuple[DownloadType, ...]]] = {
    "none": (),
    "default": (DownloadType.DEFAULT,),
    "audio": (DownloadType.AUDIO,),
    "default,audio": (DownloadType.DEFAULT, DownloadType.AUDIO),
}

_MAX_TEXT_CHARACTERS: Final = 1024
_MAX_DURATION_SECONDS: Final = 366 * 24 * 3600


class Video(NamedTuple):
    """The facts of a video that concern its downloads; None for what is missing or unusable.

    Attributes:
        uid: 32 lower-case hexadecimal digits.
        state: Cloudflare's ``status.state``, such as ``ready`` or ``error``. It alone decides:
            ``readyToStream`` can be false on a ready video, and ``pctComplete`` below 100.
        created_at: seconds since the epoch.
        ready_at: seconds since the epoch. Webhooks and older videos lack it.
        creator: the ID that the uploader gave.
        name: ``meta.name``.
        duration_seconds: greater than 0, to the millisecond.
        requires_signed_url: the video is private.
        live_input: the live input that the video is a recording of.
        error_code: Cloudflare's code, only in the state ``error``.
        error_message: Cloudflare's explanation, only in the state ``error``.
        downloads: the downloads that ``meta.downloads`` names; None if it names none of the
            documented values.
        unknown_downloads: any other value of ``meta.downloads``, cut, to be logged.
    """

    uid: str
    state: str = ""
    created_at: float | None = None
    ready_at: float | None = None
    creator: str | None = None
    name: str | None = None
    duration_seconds: float | None = None
    requires_signed_url: bool | None = None
    live_input: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    downloads: tuple[DownloadType, ...] | None = None
    unknown_downloads: str | None = None

    def wanted(self, by_default: Sequence[DownloadType]) -> Sequence[DownloadType]:
        """Return the downloads that the video gets: those of its ``meta``, or the default ones."""
        return by_default if self.downloads is None else self.downloads


class VideoPage(NamedTuple):
    """A page of the library.

    ``listed`` is how many videos Cloudflare listed, ``videos`` those of them that have a usable
    uid: without one, nothing can be asked about a video.
    """

    videos: list[Video]
    listed: int


class UnusableReason(StrEnum):
    """The reasons for which a message of Cloudflare's cannot be acted on."""

    NOT_JSON = "not_json"
    NESTED_TOO_DEEP = "nested_too_deep"
    NOT_AN_OBJECT = "not_an_object"
    LIVE_INPUT = "live_input_event"
    UID = "no_usable_uid"
    STATE = "neither_ready_nor_failed"


class Unusable(Exception):
    """Cloudflare's message is not about a video, or about none to act on."""

    def __init__(self, reason: UnusableReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def parse_webhook(body: bytes) -> Video:
    """Return the ready or failed video that an authentic webhook is about.

    Raises:
        Unusable: the body is anything else.
    """
    try:
        event = json.loads(body.decode())
    except RecursionError:
        raise Unusable(UnusableReason.NESTED_TOO_DEEP) from None
    except ValueError:  # not UTF-8, not JSON, or an integer of more than 4,300 digits
        raise Unusable(UnusableReason.NOT_JSON) from None
    if not isinstance(event, dict):
        raise Unusable(UnusableReason.NOT_AN_OBJECT)
    # Another product's notification: {"data": {"event_type": "live_input.connected", …}, …}
    # https://developers.cloudflare.com/stream/stream-live/webhooks/
    kind = _mapping(event.get("data")).get("event_type")
    if isinstance(kind, str) and kind.startswith("live_input."):
        raise Unusable(UnusableReason.LIVE_INPUT)
    video = parse_video(event)
    if video.state not in ("ready", "error"):
        raise Unusable(UnusableReason.STATE)
    return video


def parse_video(fields: Mapping[str, Any]) -> Video:
    """Return the video that a JSON object of Cloudflare's describes.

    Only the uid must be right. Everything else is optional, and unknown fields are ignored.

    Raises:
        Unusable: the object has no usable uid.
    """
    uid = fields.get("uid")
    if not isinstance(uid, str) or not VIDEO_UID.fullmatch(uid):
        raise Unusable(UnusableReason.UID)
    status = _mapping(fields.get("status"))
    state = _text(status.get("state")) or ""
    signed = fields.get("requireSignedURLs")
    meta = _mapping(fields.get("meta"))
    said = meta.get("downloads")
    downloads = META_DOWNLOADS.get(said) if isinstance(said, str) else None
    return Video(
        uid=uid,
        state=state,
        created_at=_time(fields.get("created")),
        ready_at=_time(fields.get("readyToStreamAt")),
        creator=_text(fields.get("creator")),
        name=_text(meta.get("name")),
        duration_seconds=_duration(fields.get("duration")),
        requires_signed_url=signed if isinstance(signed, bool) else None,
        live_input=_text(fields.get("liveInput")),
        error_code=_error(status, "Code") if state == "error" else None,
        error_message=_error(status, "Text") if state == "error" else None,
        downloads=downloads,
        unknown_downloads=None if said is None or downloads is not None else ascii(said)[:60],
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    """Return text that a table can store: not empty, cut, without half of a surrogate pair."""
    if not isinstance(value, str) or not value:
        return None
    text = value[:_MAX_TEXT_CHARACTERS]
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def _time(value: object) -> float | None:
    """Return seconds since the epoch from a time such as ``2022-06-30T17:53:12.512033Z``."""
    try:
        time = datetime.fromisoformat(value if isinstance(value, str) else "")
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _duration(value: object) -> float | None:
    """Return seconds. Cloudflare says -1 for unknown; zero or over a year is no duration."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 < value <= _MAX_DURATION_SECONDS:
        return None
    return round(float(value), 3) or None


def _error(status: Mapping[str, Any], part: str) -> str | None:
    # Both spellings occur in Cloudflare's own documents and answers.
    return _text(status.get(f"errorReason{part}")) or _text(status.get(f"errReason{part}"))
