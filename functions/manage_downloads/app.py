"""Carries out the commands of operators: request, delete, retry, status, link, check."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from stream_downloads.adapters import aws
from stream_downloads.adapters.observability import logger, observed
from stream_downloads.adapters.secrets import read_signing_secret
from stream_downloads.domain import commands
from stream_downloads.services.check import Installation, check
from stream_downloads.services.dependencies import Service
from stream_downloads.services.manage import manage

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

SERVICE = Service.from_environment()
SECRET_ARN = os.environ["WEBHOOK_SECRET_ARN"]
INSTALLATION = Installation(
    webhook_url=os.environ["WEBHOOK_URL"],
    signing_secret=partial(read_signing_secret, aws.secrets_client(SECRET_ARN), SECRET_ARN),
    reconcile_minutes=float(os.environ["RECONCILE_MINUTES"]),
)


@observed
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Carry out one command of an operator or a script."""

    def remaining() -> float:
        return context.get_remaining_time_in_millis() / 1000

    command = commands.command(event)
    if isinstance(command, commands.CheckCommand):
        answer = check(SERVICE, INSTALLATION, remaining)
    else:
        if command.video_uid:
            logger.append_keys(video_uid=command.video_uid)
        answer = manage(SERVICE, command, remaining)
    logger.info("Command carried out", extra={"action": event["action"]})
    return answer
