"""Passes verified webhooks on to the event bus, for other systems."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.event_bus import ENTRY_BYTES, MALFORMED, Event
from stream_downloads.adapters.observability import described, logger

if TYPE_CHECKING:
    from stream_downloads.adapters.event_bus import EventBus
    from stream_downloads.domain.video import Video

DETAIL_TYPES: Final = {"ready": "Video Ready", "error": "Video Failed"}


def pass_on(bus: EventBus | None, video: Video, body: bytes) -> bool:
    """Put a verified webhook on the bus.

    Args:
        bus: None if webhooks are not passed on.
        video: what the webhook is about, ready or failed.
        body: the JSON object that Cloudflare sent.

    Returns:
        False if Cloudflare has to send the webhook again, because the bus did not take it. True if
        the bus took it, or can never take it, which is logged.
    """
    if bus is None:
        return True
    try:
        event = event_of(DETAIL_TYPES[video.state], body)
        (code,) = bus.put([event]) if event else (MALFORMED,)
    except (ClientError, BotoCoreError) as error:
        details = {"video_uid": video.uid, **described(error)}
        logger.error("The event bus was not reached", extra=details)
        return False
    if code is not None:
        details = {"video_uid": video.uid, "code": code, "bytes": len(body)}
        logger.error("The event bus did not take a webhook", extra=details)
    return code in (None, MALFORMED)


def event_of(detail_type: str, body: bytes) -> Event | None:
    """Return the event: without ``meta`` if it is too large; None if it cannot be sent at all."""
    try:
        fields = json.loads(body)
        for left_out in (set[str](), {"meta"}):
            detail = {name: value for name, value in fields.items() if name not in left_out}
            text = json.dumps(detail, ensure_ascii=False, allow_nan=False)
            event = Event(detail_type, text)
            if event.size < ENTRY_BYTES:
                return event
    except (ValueError, RecursionError):  # NaN, half of a surrogate pair, nested too deep
        pass
    return None
