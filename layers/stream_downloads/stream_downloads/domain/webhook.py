"""Signature and event: bytes in, a typed event out.

Three steps, each with its own kind of refusal, in the order in which a webhook goes through them:
:func:`unwrap` (what came over HTTP), :func:`verify` (is it from Cloudflare), :func:`parse` (what
does it say). Nothing else is ever raised for what a sender can put into a request.

https://developers.cloudflare.com/stream/manage-video-library/using-webhooks/
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple, NoReturn

from stream_downloads.domain.download import VIDEO_UID

SIGNATURE_HEADER = "webhook-signature"
TOLERANCE_SECONDS = 300
MAX_BODY_BYTES = 1024 * 1024
MAX_HEADER_CHARACTERS = 1024
MAX_SIGNATURES = 5

_MAX_BASE64_CHARACTERS = 4 * math.ceil(MAX_BODY_BYTES / 3)
_MAX_TEXT_CHARACTERS = 1024
_MAX_DURATION_SECONDS = 366 * 24 * 3600

# Twelve digits reach past the year 30000; thirteen are milliseconds.
_TIME = re.compile("[0-9]{1,12}")
_SHA256_HEX = re.compile("[0-9a-fA-F]{64}")


class TransportReason(StrEnum):
    """Why a request cannot be a webhook at all."""

    METHOD = "wrong_method"
    TOO_LARGE = "body_too_large"
    ENCODING = "undecodable_body"


class UnauthenticReason(StrEnum):
    """Why a request is not Cloudflare's; for the log, never for the sender."""

    NO_HEADER = "no_signature_header"
    EMPTY_HEADER = "empty_signature_header"
    HEADER_TOO_LONG = "signature_header_too_long"
    UNPRINTABLE_HEADER = "unprintable_signature_header"
    MALFORMED_HEADER = "malformed_signature_header"
    NO_TIME = "no_time"
    REPEATED_TIME = "repeated_time"
    MALFORMED_TIME = "malformed_time"
    NO_SIGNATURE = "no_signature"
    TOO_MANY_SIGNATURES = "too_many_signatures"
    MALFORMED_SIGNATURE = "malformed_signature"
    MISMATCH = "signature_mismatch"
    TOO_OLD = "valid_signature_too_old"
    TOO_NEW = "valid_signature_too_new"


class UnusableReason(StrEnum):
    """Why an authentic event cannot be acted on."""

    EMPTY = "empty_body"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    DUPLICATE_KEY = "duplicate_key"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    NESTED_TOO_DEEP = "nested_too_deep"
    NOT_AN_OBJECT = "not_an_object"
    LIVE_INPUT = "live_input_event"
    NO_UID = "no_uid"
    MALFORMED_UID = "malformed_uid"
    UNKNOWN_STATE = "unknown_state"


class BadTransport(Exception):
    """The request cannot be a webhook; ``status`` is the HTTP answer (400, 405 or 413)."""

    def __init__(self, status: Literal[400, 405, 413], reason: TransportReason) -> None:
        super().__init__(reason.value)
        self.status = status
        self.reason = reason


class Unauthentic(Exception):
    """The signature does not prove that Cloudflare sent this, and now."""

    def __init__(self, reason: UnauthenticReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Unusable(Exception):
    """Cloudflare sent it, but there is nothing in it that this service acts on."""

    def __init__(self, reason: UnusableReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class NoSecret(ValueError):
    """No signing secret was given that could verify anything: our fault, not the sender's."""


class Delivery(NamedTuple):
    """What came over HTTP: the signature header, if there was one, and the body's raw bytes."""

    signature: str | None
    body: bytes


class VideoEvent(NamedTuple):
    """What a webhook says about one video. None: it does not say, or not in a usable form.

    ``ready_to_stream`` can be false on a ``ready`` video and true on a failed one; the state
    alone decides. ``error_code`` and ``error_message`` are only set in the state ``error``.
    """

    uid: str
    state: Literal["ready", "error"]
    ready_to_stream: bool
    creator: str | None
    name: str | None
    duration_seconds: float | None
    requires_signed_url: bool | None
    live_input: str | None
    error_code: str | None
    error_message: str | None


# ---------------------------------------------------------------------------------- transport


def unwrap(event: Mapping[str, Any]) -> Delivery:
    """Take a webhook out of a Lambda Function URL event (payload format 2.0).

    The size is judged before anything is decoded: a body in base64 by the number of its characters.

    https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads

    Raises:
        BadTransport: not a POST (405), over 1 MiB (413), not decodable (400).
    """
    method = _mapping(_mapping(event.get("requestContext")).get("http")).get("method")
    if method != "POST":
        raise BadTransport(405, TransportReason.METHOD)
    body = _raw_body(event.get("body"), is_base64=event.get("isBase64Encoded") is True)
    return Delivery(_signature_header(_mapping(event.get("headers"))), body)


def _raw_body(body: object, *, is_base64: bool) -> bytes:
    if body is None:
        return b""
    if not isinstance(body, str):
        raise BadTransport(400, TransportReason.ENCODING)
    if len(body) > (_MAX_BASE64_CHARACTERS if is_base64 else MAX_BODY_BYTES):
        raise BadTransport(413, TransportReason.TOO_LARGE)
    try:
        raw = binascii.a2b_base64(body, strict_mode=True) if is_base64 else body.encode()
    except ValueError:
        raise BadTransport(400, TransportReason.ENCODING) from None
    if len(raw) > MAX_BODY_BYTES:
        raise BadTransport(413, TransportReason.TOO_LARGE)
    return raw


def _signature_header(headers: Mapping[str, Any]) -> str | None:
    # Two headers are one with a comma (RFC 9110, 5.3): verify() then sees two times.
    values = [
        value
        for name, value in headers.items()
        if name.lower() == SIGNATURE_HEADER and isinstance(value, str)
    ]
    return ",".join(values) if values else None


# ---------------------------------------------------------------------------------- signature


def sign(body: bytes, secret: bytes, now: int) -> str:
    """Make the ``Webhook-Signature`` header that Cloudflare would send.

    Args:
        body: the raw body.
        secret: the signing secret; its ASCII characters are the key, not what they would
            decode to.
        now: Unix time in seconds.

    Raises:
        NoSecret: the secret is empty.
    """
    if not secret:
        raise NoSecret("an empty secret signs nothing")
    return f"time={now},sig1={_mac(secret, str(now), body).hex()}"


def verify(
    body: bytes,
    header: str | None,
    secrets: Sequence[bytes],
    now: float,
    tolerance: float = TOLERANCE_SECONDS,
) -> None:
    """Return only if ``header`` proves that Cloudflare signed ``body`` just now.

    The time is judged last, so that ``TOO_OLD`` and ``TOO_NEW`` mean a signature that is right:
    a slow sender or a wrong clock, and not a stranger.

    Args:
        body: the raw body, exactly as it came.
        header: the value of ``Webhook-Signature``, or None if there was none.
        secrets: the signing secrets that may have been used: current, previous.
        now: Unix time in seconds.
        tolerance: how far, in seconds, the signature's time may be from ``now``.

    Raises:
        Unauthentic: for anything that a sender can get wrong.
        NoSecret: ``secrets`` holds nothing that could verify.
    """
    keys = [secret for secret in secrets if secret]
    if not keys:
        raise NoSecret("there is no signing secret to verify with")
    time, signatures = _read_header(header)
    expected = [_mac(key, time, body) for key in keys]
    matches = [hmac.compare_digest(mac, given) for mac in expected for given in signatures]
    if not any(matches):
        raise Unauthentic(UnauthenticReason.MISMATCH)
    age = now - int(time)
    if age > tolerance:
        raise Unauthentic(UnauthenticReason.TOO_OLD)
    if age < -tolerance:
        raise Unauthentic(UnauthenticReason.TOO_NEW)


def _mac(secret: bytes, time: str, body: bytes) -> bytes:
    mac = hmac.new(secret, f"{time}.".encode(), hashlib.sha256)
    mac.update(body)
    return mac.digest()


def _read_header(header: str | None) -> tuple[str, list[bytes]]:
    """Split the header into its time, as written (that is what was signed), and its ``sig1``s."""
    times, signatures = [], []
    for part in _printable(header).split(","):
        key, equals, value = part.strip(" ").partition("=")
        if not key or not equals:
            raise Unauthentic(UnauthenticReason.MALFORMED_HEADER)
        if key == "time":
            times.append(value)
        elif key == "sig1":
            signatures.append(value)
    if not times:
        raise Unauthentic(UnauthenticReason.NO_TIME)
    if len(times) > 1:
        raise Unauthentic(UnauthenticReason.REPEATED_TIME)
    if not _TIME.fullmatch(times[0]):
        raise Unauthentic(UnauthenticReason.MALFORMED_TIME)
    return times[0], _decoded(signatures)


def _printable(header: str | None) -> str:
    if header is None:
        raise Unauthentic(UnauthenticReason.NO_HEADER)
    if not header:
        raise Unauthentic(UnauthenticReason.EMPTY_HEADER)
    if len(header) > MAX_HEADER_CHARACTERS:
        raise Unauthentic(UnauthenticReason.HEADER_TOO_LONG)
    if not (header.isascii() and header.isprintable()):
        raise Unauthentic(UnauthenticReason.UNPRINTABLE_HEADER)
    return header


def _decoded(signatures: list[str]) -> list[bytes]:
    if not signatures:
        raise Unauthentic(UnauthenticReason.NO_SIGNATURE)
    if len(signatures) > MAX_SIGNATURES:
        raise Unauthentic(UnauthenticReason.TOO_MANY_SIGNATURES)
    if not all(_SHA256_HEX.fullmatch(signature) for signature in signatures):
        raise Unauthentic(UnauthenticReason.MALFORMED_SIGNATURE)
    return [bytes.fromhex(signature) for signature in signatures]


# -------------------------------------------------------------------------------------- event


def parse(body: bytes) -> VideoEvent:
    """Read what an authentic webhook says.

    Only ``uid`` and ``status.state`` must be right. Everything else is optional: of another
    type it counts as not said, and fields that are not known here are ignored.

    Raises:
        Unusable: for any bytes that are not an event about a video that is ready or failed.
    """
    event = _json_object(body)
    # Another product's notification: {"data": {"event_type": "live_input.connected", …}, …}
    # https://developers.cloudflare.com/stream/stream-live/webhooks/
    event_type = _mapping(event.get("data")).get("event_type")
    if isinstance(event_type, str) and event_type.startswith("live_input."):
        raise Unusable(UnusableReason.LIVE_INPUT)
    if "uid" not in event:
        raise Unusable(UnusableReason.NO_UID)
    uid = event["uid"]
    if not (isinstance(uid, str) and VIDEO_UID.fullmatch(uid)):
        raise Unusable(UnusableReason.MALFORMED_UID)
    status = _mapping(event.get("status"))
    state = status.get("state")
    if state not in ("ready", "error"):
        raise Unusable(UnusableReason.UNKNOWN_STATE)
    return VideoEvent(
        uid=uid,
        state=state,
        ready_to_stream=event.get("readyToStream") is True,
        creator=_text(event.get("creator")),
        name=_text(_mapping(event.get("meta")).get("name")),
        duration_seconds=_duration(event.get("duration")),
        requires_signed_url=_boolean(event.get("requireSignedURLs")),
        live_input=_text(event.get("liveInput")),
        error_code=_reason(status, "Code") if state == "error" else None,
        error_message=_reason(status, "Text") if state == "error" else None,
    )


def _json_object(body: bytes) -> dict[str, Any]:
    """Read strict JSON (RFC 8259), which ``json.loads`` alone does not."""
    if not body:
        raise Unusable(UnusableReason.EMPTY)
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_not_a_number,
        )
    except UnicodeDecodeError:
        raise Unusable(UnusableReason.NOT_UTF8) from None
    except json.JSONDecodeError:
        raise Unusable(UnusableReason.NOT_JSON) from None
    except RecursionError:
        raise Unusable(UnusableReason.NESTED_TOO_DEEP) from None
    except ValueError:
        # An integer of more digits than int() takes (4,300).
        raise Unusable(UnusableReason.NUMBER_OUT_OF_RANGE) from None
    if not isinstance(value, dict):
        raise Unusable(UnusableReason.NOT_AN_OBJECT)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Which of two values a reader takes differs between readers: none is safe to act on.
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Unusable(UnusableReason.DUPLICATE_KEY)
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unusable(UnusableReason.NUMBER_OUT_OF_RANGE)
    return number


def _not_a_number(_constant: str) -> NoReturn:
    raise Unusable(UnusableReason.NUMBER_OUT_OF_RANGE)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: object) -> str | None:
    """Text that a table can store: not empty, cut at 1,024 characters, no half of a surrogate."""
    if not isinstance(value, str) or not value:
        return None
    text = value[:_MAX_TEXT_CHARACTERS]
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def _duration(value: object) -> float | None:
    """Seconds to the millisecond. Cloudflare says -1 for unknown; over a year is no duration."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(float(value), 3) if 0 < value <= _MAX_DURATION_SECONDS else None


def _reason(status: Mapping[str, Any], part: Literal["Code", "Text"]) -> str | None:
    # Both spellings occur in Cloudflare's own documents and answers.
    return _text(status.get(f"errorReason{part}")) or _text(status.get(f"errReason{part}"))
