"""Publishes the end of each download to the event bus."""

from __future__ import annotations

import os
from typing import Any

from stream_downloads.adapters import aws
from stream_downloads.adapters.event_bus import EventBus
from stream_downloads.adapters.observability import observed
from stream_downloads.services.announce import announce

BUS = EventBus(aws.client("events"), os.environ["EVENT_BUS_NAME"])


@observed
def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Announce a batch of the table's changes, in order."""
    return announce(BUS, event["Records"])
