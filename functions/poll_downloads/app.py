"""Runs the poller, every minute and on demand."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from stream_downloads.adapters.observability import Metric, logger, observed, record
from stream_downloads.domain import commands
from stream_downloads.services.dependencies import Service
from stream_downloads.services.poll import BATCH, Poller

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

SERVICE = Service.from_environment()
WINDOW = float(os.environ["POLL_WINDOW_SECONDS"])


@observed
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Run the poller once."""
    command = commands.poll(event)
    with ThreadPoolExecutor(BATCH) as pool:
        poller = Poller(SERVICE, lambda: context.get_remaining_time_in_millis() / 1000, pool.map)
        summary = poller.run(WINDOW, command)
    record(Metric.POLLS_COMPLETED)
    logger.info("Poll", extra=summary.as_answer())
    return summary.as_answer()
