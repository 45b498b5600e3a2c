"""Requests to a Lambda Function URL and the answers to them.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from stream_downloads.domain.signature import SIGNATURE_HEADER

MAX_BODY_BYTES: Final = 1024 * 1024

_MAX_BASE64_CHARACTERS: Final = 4 * math.ceil(MAX_BODY_BYTES / 3)
# The body tells the sender no reason: only the log does.
_ANSWERS: Final = {
    200: "ok",
    400: "bad request",
    403: "forbidden",
    405: "method not allowed",
    413: "payload too large",
    500: "internal error",
}


class BadTransport(Exception):
    """The request cannot be a webhook; ``status`` is the HTTP answer."""

    def __init__(self, status: Literal[400, 405, 413], text: str) -> None:
        super().__init__(text)
        self.status = status


class Delivery(NamedTuple):
    """A request over HTTP: the signature header, if there was one, and the body's raw bytes."""

    signature: str | None
    body: bytes


def unwrap(event: Mapping[str, Any]) -> Delivery:
    """Return the webhook in a Function URL event (payload format 2.0).

    Raises:
        BadTransport: not a POST (405), over 1 MiB (413), not decodable (400).
    """
    method = _mapping(_mapping(event.get("requestContext")).get("http")).get("method")
    if method != "POST":
        raise BadTransport(405, "the method is not POST")
    body = _raw_body(event.get("body"), is_base64=event.get("isBase64Encoded") is True)
    # Repeated headers are joined by a comma (RFC 9110, 5.3). With two times, they are malformed.
    signatures = [
        value
        for name, value in _mapping(event.get("headers")).items()
        if name.lower() == SIGNATURE_HEADER and isinstance(value, str)
    ]
    return Delivery(",".join(signatures) if signatures else None, body)


def answer(status: int) -> dict[str, Any]:
    """Return the HTTP answer with this status and the body that belongs to it."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": "text/plain; charset=utf-8"},
        "body": _ANSWERS[status],
    }


def _raw_body(body: object, *, is_base64: bool) -> bytes:
    """Decode the body; one that is far too large is refused before it is decoded."""
    if body is None:
        return b""
    if not isinstance(body, str):
        raise BadTransport(400, "the body is not text")
    if len(body) > (_MAX_BASE64_CHARACTERS if is_base64 else MAX_BODY_BYTES):
        raise BadTransport(413, "the body is over 1 MiB")
    try:
        raw = binascii.a2b_base64(body, strict_mode=True) if is_base64 else body.encode()
    except ValueError:
        raise BadTransport(400, "the body cannot be decoded") from None
    if len(raw) > MAX_BODY_BYTES:
        raise BadTransport(413, "the body is over 1 MiB")
    return raw


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
