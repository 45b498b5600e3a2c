"""Sign and verify webhooks as Cloudflare does.

https://developers.cloudflare.com/stream/manage-video-library/using-webhooks/
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

SIGNATURE_HEADER: Final = "webhook-signature"
TOLERANCE_SECONDS: Final = 300
MAX_HEADER_CHARACTERS: Final = 1024
MAX_SIGNATURES: Final = 5

# Twelve digits reach past the year 30000; thirteen are milliseconds.
_TIME: Final = re.compile("[0-9]{1,12}")
_SHA256_HEX: Final = re.compile("[0-9a-fA-F]{64}")


class UnauthenticReason(StrEnum):
    """The reasons for which a request is not Cloudflare's: for the log, never for the sender."""

    MISSING = "signature_missing"
    MALFORMED = "signature_malformed"
    MISMATCH = "signature_mismatch"
    TOO_OLD = "valid_signature_too_old"
    TOO_NEW = "valid_signature_too_new"


_MESSAGES: Final = {
    UnauthenticReason.MISSING: "there is no Webhook-Signature header",
    UnauthenticReason.MALFORMED: "the header is not of the form time=<unix>,sig1=<64 hex digits>",
    UnauthenticReason.MISMATCH: "no signature in the header matches the signing secret",
    UnauthenticReason.TOO_OLD: "the signature is right but was made too long ago",
    UnauthenticReason.TOO_NEW: "the signature is right but its time is in the future",
}


class Unauthentic(Exception):
    """The signature does not prove that Cloudflare sent the request just now."""

    def __init__(self, reason: UnauthenticReason) -> None:
        super().__init__(_MESSAGES[reason])
        self.reason = reason


class NoSecret(ValueError):
    """No usable signing secret was given: a fault of the stack, not of the sender."""


def sign(body: bytes, secret: bytes, now: int) -> str:
    """Return the ``Webhook-Signature`` header that Cloudflare would send.

    Args:
        body: the raw body.
        secret: the signing secret; its ASCII characters are the key, without decoding.
        now: Unix time in seconds.

    Raises:
        NoSecret: the secret is empty.
    """
    if not secret:
        raise NoSecret("the signing secret is empty: pass the stored one")
    return f"time={now},sig1={_mac(secret, str(now), body).hex()}"


def verify(
    body: bytes,
    header: str | None,
    secrets: Sequence[bytes],
    now: float,
    tolerance: float = TOLERANCE_SECONDS,
) -> None:
    """Return only if ``header`` proves that Cloudflare signed ``body`` just now.

    The time is compared last, so that ``TOO_OLD`` and ``TOO_NEW`` mean a right signature: a slow
    sender or a wrong clock, not a forgery.

    Args:
        body: the raw body, exactly as it came.
        header: the value of ``Webhook-Signature``, or None if there was none.
        secrets: the signing secrets that may have been used: current, previous.
        now: Unix time in seconds.
        tolerance: how far, in seconds, the signature's time may be from ``now``.

    Raises:
        Unauthentic: for anything that a sender can get wrong.
        NoSecret: all ``secrets`` are empty.
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
    """Return the header's time, as written (that is what was signed), and its ``sig1`` values."""
    if not header:
        raise Unauthentic(UnauthenticReason.MISSING)
    if len(header) > MAX_HEADER_CHARACTERS or not (header.isascii() and header.isprintable()):
        raise Unauthentic(UnauthenticReason.MALFORMED)
    parts = [part.strip(" ").partition("=") for part in header.split(",")]
    times = [value for key, _, value in parts if key == "time"]
    signatures = [value for key, _, value in parts if key == "sig1"]
    if not (
        all(key and equals for key, equals, _ in parts)
        and len(times) == 1
        and _TIME.fullmatch(times[0])
        and 1 <= len(signatures) <= MAX_SIGNATURES
        and all(_SHA256_HEX.fullmatch(signature) for signature in signatures)
    ):
        raise Unauthentic(UnauthenticReason.MALFORMED)
    return times[0], [bytes.fromhex(signature) for signature in signatures]
