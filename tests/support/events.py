"""Read the files of ``events/`` and make Function URL events from them."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_downloads.domain.signature import sign

EVENTS = Path(__file__).parents[2] / "events"

# The secret and the time of the signatures in events/receive_webhook*.json, made with openssl:
# jq -j '"1230811200." + .body' events/receive_webhook.json \
#   | openssl dgst -sha256 -hmac example-signing-secret
EXAMPLE_SECRET = b"example-signing-secret"
EXAMPLE_TIME = 1230811200

VIDEO_UID = "6b9e68b07dfee8cc2d116e4c51d6a957"


@dataclass(frozen=True)
class LambdaContext:
    """The part of the context that a handler may read."""

    function_name: str = "function"
    memory_limit_in_mb: int = 256
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:function"
    aws_request_id: str = "00000000-0000-4000-8000-000000000000"
    remaining_ms: int = 60_000

    def get_remaining_time_in_millis(self) -> int:
        """Return the remaining time, always the same."""
        return self.remaining_ms


def load_event(name: str) -> dict[str, Any]:
    """Read ``events/<name>.json``."""
    event = json.loads((EVENTS / f"{name}.json").read_text())
    assert isinstance(event, dict)
    return event


def video_event(name: str = "video_ready", **fields: Any) -> dict[str, Any]:
    """Return Cloudflare's example event with some fields changed."""
    return load_event(name) | fields


def encoded(event: object) -> bytes:
    """Write an event as the bytes that Cloudflare would send."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def signed_event(
    body: bytes | dict[str, Any],
    secret: bytes = EXAMPLE_SECRET,
    now: int = EXAMPLE_TIME,
    *,
    is_base64: bool = False,
) -> dict[str, Any]:
    """Wrap a body into a Function URL event, signed at ``now``."""
    raw = body if isinstance(body, bytes) else encoded(body)
    event = copy.deepcopy(load_event("receive_webhook"))
    event["headers"]["webhook-signature"] = sign(raw, secret, now)
    event["headers"]["content-length"] = str(len(raw))
    event["body"] = base64.b64encode(raw).decode() if is_base64 else raw.decode()
    event["isBase64Encoded"] = is_base64
    return event
