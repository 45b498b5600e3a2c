"""Carries out the commands of operators: request, delete, retry, status, link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_downloads.adapters.observability import logger, observed
from stream_downloads.domain import commands
from stream_downloads.services.dependencies import Service
from stream_downloads.services.manage import manage

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

SERVICE = Service.from_environment()


@observed
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Carry out one command of an operator or a script."""
    command = commands.command(event)
    if command.video_uid:
        logger.append_keys(video_uid=command.video_uid)
    answer = manage(SERVICE, command, lambda: context.get_remaining_time_in_millis() / 1000)
    logger.info("Command carried out", extra={"action": event["action"]})
    return answer
