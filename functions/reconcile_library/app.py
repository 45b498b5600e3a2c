"""Runs the reconciliation on its schedule, and a backfill on demand."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from stream_downloads.adapters.observability import logger, observed
from stream_downloads.domain import commands
from stream_downloads.services.dependencies import Service
from stream_downloads.services.reconcile import Run
from stream_downloads.services.record import Known
from stream_downloads.services.waker import waker_of

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

SERVICE = Service.from_environment()
SERVICE = replace(SERVICE, waker=waker_of(SERVICE))
LOOKBACK_SECONDS: Final = float(os.environ["RECONCILE_LOOKBACK_HOURS"]) * 3600
PERIOD_SECONDS: Final = float(os.environ["RECONCILE_MINUTES"]) * 60
KNOWN = Known()
THREADS: Final = 8


@observed
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Reconcile once; with ``since``, begin a backfill from that time as well."""
    since = commands.since(event, SERVICE.clock())
    with ThreadPoolExecutor(THREADS) as pool:
        run = Run(
            SERVICE,
            lambda: context.get_remaining_time_in_millis() / 1000,
            pool.map,
            KNOWN,
            period=PERIOD_SECONDS,
        )
        answer = run.reconcile(LOOKBACK_SECONDS, since)
    logger.info("Reconciliation", extra=answer)
    return answer
