"""The AWS clients, with every limit explicit."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, overload

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

# By default botocore waits a minute to connect and a minute to read, and retries four times or
# more. These services answer within milliseconds, and a function has seconds.
_LIMITS = Config(
    connect_timeout=1,
    read_timeout=2,
    # A connection for each of the poller's 16 threads and for the main one, with some room. With
    # fewer (10 by default), threads throw TLS connections away and make new ones.
    max_pool_connections=24,
)
# The answer to a webhook waits for EventBridge and Lambda, so they get fewer attempts. If a run of
# the poller cannot be started, the schedule starts one within a minute.
_ATTEMPTS = {"events": 2, "lambda": 1}


@overload
def client(service: Literal["dynamodb"]) -> DynamoDBClient: ...
@overload
def client(service: Literal["events"]) -> EventBridgeClient: ...
@overload
def client(service: Literal["lambda"]) -> LambdaClient: ...
def client(service: Any) -> Any:
    """Return the process's client: a second to connect, two to read, at most three attempts.

    EventBridge gets two attempts, which take seven seconds at most; Lambda gets one.

    All callers share one low-level client: a resource takes longer to start, and so does every
    further client. Clients are thread-safe.
    """
    return _client(service, None)


def secrets_client(secret_arn: str) -> SecretsManagerClient:
    """Return the process's Secrets Manager client for the region that a secret's ARN names."""
    secrets_manager: SecretsManagerClient = _client("secretsmanager", secret_arn.split(":")[3])
    return secrets_manager


@cache
def _client(service: Any, region: str | None) -> Any:
    retries: Any = {"total_max_attempts": _ATTEMPTS.get(service, 3), "mode": "standard"}
    limits = _LIMITS.merge(Config(retries=retries))
    return boto3.client(service, region_name=region, config=limits)
