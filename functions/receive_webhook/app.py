"""Answers Cloudflare's webhooks at the Function URL."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from stream_downloads.adapters import aws
from stream_downloads.adapters.event_bus import EventBus
from stream_downloads.adapters.observability import observed
from stream_downloads.adapters.secrets import SigningSecrets
from stream_downloads.services.dependencies import Service
from stream_downloads.services.receive import receive
from stream_downloads.services.waker import waker_of

SERVICE = Service.from_environment()
SERVICE = replace(SERVICE, waker=waker_of(SERVICE))
SECRET_ARN = os.environ["WEBHOOK_SECRET_ARN"]
SECRETS = SigningSecrets(aws.secrets_client(SECRET_ARN), SECRET_ARN)
BUS = (
    EventBus(aws.client("events"), os.environ["EVENT_BUS_NAME"])
    if os.environ["VIDEO_EVENTS"] == "true"
    else None
)


@observed
def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer one webhook."""
    return receive(SERVICE, SECRETS, event, BUS)
