"""Make the template's tables and secrets with moto. Only loopback is reachable."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import pytest_socket
from moto import mock_aws
from moto.dynamodb.models import dynamodb_backends
from moto.secretsmanager.models import secretsmanager_backends

from stream_downloads.adapters.secrets import ApiCredentials
from stream_downloads.adapters.shared_state import Budget, ControlTable
from stream_downloads.adapters.stream_api import StreamClient
from stream_downloads.services.dependencies import Service
from stream_downloads.services.gateway import Gateway
from tests.simulator import BASE_URL, InProcessPool, Settings, StreamSimulator
from tests.support.template import REFERENCES, table_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

API_TOKEN = "an-api-token"
MOTOS_ACCOUNT = "123456789012"
WEBHOOK_SECRET = "a-signing-secret"


@pytest.fixture(scope="session")
def _moto() -> Iterator[None]:
    """Put moto in place of AWS once: that takes longer than most tests."""
    with mock_aws():
        yield


@pytest.fixture(autouse=True)
def aws(_moto: None) -> None:
    """Give the test its own AWS account, with the template's tables and secrets."""
    pytest_socket.socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)
    tables = dynamodb_backends[MOTOS_ACCOUNT]["us-east-1"].tables
    for schema in (table_schema("DownloadsTable"), table_schema("ControlTable")):
        if table := tables.get(schema["TableName"]):
            table.items.clear()
        else:  # not made yet, or a test has deleted it
            _client("dynamodb").create_table(**schema)
    stored = secretsmanager_backends[MOTOS_ACCOUNT]["us-east-1"].secrets
    stored.clear()
    stored.update(deepcopy(_secrets()))


@pytest.fixture
def dynamodb() -> DynamoDBClient:
    """Return a client for the tables."""
    client: DynamoDBClient = _client("dynamodb")
    return client


@pytest.fixture
def secretsmanager() -> SecretsManagerClient:
    """Return a client for the secrets."""
    client: SecretsManagerClient = _client("secretsmanager")
    return client


@pytest.fixture
def simulator() -> StreamSimulator:
    """Return a Cloudflare that knows the account and the token of the stack."""
    account_id = REFERENCES["CloudflareAccountId"]
    return StreamSimulator(settings=Settings(account_id=account_id, api_token=API_TOKEN))


@pytest.fixture
def budget() -> Budget:
    """Return the shared request limit."""
    control = ControlTable(_client("dynamodb"), os.environ["CONTROL_TABLE_NAME"])
    return Budget(control, int(os.environ["CLOUDFLARE_REQUEST_LIMIT"]))


@pytest.fixture
def service(simulator: StreamSimulator, budget: Budget) -> Service:
    """Return the service as deployed, but for the connection to Cloudflare."""
    deployed = Service.from_environment()
    credentials = ApiCredentials(_client("secretsmanager"), os.environ["CLOUDFLARE_SECRET_ARN"])
    stream = StreamClient(
        REFERENCES["CloudflareAccountId"],
        base_url=BASE_URL,
        authorization=credentials.headers,
        pool=InProcessPool(simulator),
        on_rate_limit=budget.observe,
    )
    return replace(deployed, gateway=Gateway(budget, credentials, stream))


@cache
def _client(service: Any) -> Any:
    """Make a client once: it takes longer than most tests, and moto stands behind any."""
    return boto3.client(service)


@cache
def _secrets() -> dict[str, Any]:
    """Return the two secrets as moto keeps them, created once."""
    _create_secret("CloudflareSecretArn", {"api_token": API_TOKEN})
    _create_secret("WebhookSecret.Id", {"webhook_secret": WEBHOOK_SECRET})
    return dict(secretsmanager_backends[MOTOS_ACCOUNT]["us-east-1"].secrets)


def _create_secret(reference: str, value: dict[str, str]) -> None:
    # Found by its whole ARN, because moto takes that for one without its last six characters.
    name = REFERENCES[reference].rpartition(":")[2]
    _client("secretsmanager").create_secret(Name=name, SecretString=json.dumps(value))
