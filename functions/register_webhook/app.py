"""Subscribes the webhook at Cloudflare on demand, and refreshes its signing secret."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from stream_downloads.adapters import aws
from stream_downloads.adapters.observability import logger, observed
from stream_downloads.adapters.secrets import store_signing_secret
from stream_downloads.domain import commands
from stream_downloads.services.dependencies import Service
from stream_downloads.services.register import register

SERVICE = Service.from_environment()
WEBHOOK_URL = os.environ["WEBHOOK_URL"]
SECRET_ARN = os.environ["WEBHOOK_SECRET_ARN"]
PERIOD_SECONDS = float(os.environ["RECONCILE_MINUTES"]) * 60
STORE_SECRET = partial(store_signing_secret, aws.secrets_client(SECRET_ARN), SECRET_ARN)


@observed
def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Register the webhook, or refresh the registration."""
    registration = commands.registration(event)
    answer = register(SERVICE, WEBHOOK_URL, STORE_SECRET, registration, period=PERIOD_SECONDS)
    logger.info("Webhook registration", extra=answer)
    return answer
