"""Test the secrets against moto, with the real shapes of Secrets Manager's errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from functions.reconcile_library import app as reconcile_library
from stream_downloads.adapters import aws
from stream_downloads.adapters.secrets import (
    ApiCredentials,
    SecretUnavailable,
    SigningSecrets,
    store_signing_secret,
)
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services import poll
from stream_downloads.services.dependencies import Service
from tests.support.template import REFERENCES

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CREDENTIALS_ARN = REFERENCES["CloudflareSecretArn"]
SECRET_ARN = REFERENCES["WebhookSecret.Id"]


def current(secretsmanager: SecretsManagerClient) -> bytes:
    version = secretsmanager.get_secret_value(SecretId=SECRET_ARN)
    return str(json.loads(version["SecretString"])["webhook_secret"]).encode()


def signing() -> SigningSecrets:
    return SigningSecrets(aws.secrets_client(SECRET_ARN), SECRET_ARN)


@pytest.mark.parametrize(
    "value", [{"SecretString": '{"api_token": "t"}'}, {"SecretBinary": b'{"api_token": "t"}'}]
)
def test_the_users_token_is_read(secretsmanager: SecretsManagerClient, value: Any) -> None:
    secretsmanager.put_secret_value(SecretId=CREDENTIALS_ARN, **value)
    credentials = ApiCredentials(aws.secrets_client(SECRET_ARN), CREDENTIALS_ARN)
    assert credentials.headers() == {"Authorization": "Bearer t"}


def test_a_secret_that_does_not_exist_is_said_by_its_name() -> None:
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:absent-AbCdEf"
    credentials = ApiCredentials(aws.secrets_client(SECRET_ARN), arn)
    with pytest.raises(SecretUnavailable, match=r"absent-AbCdEf.*ResourceNotFoundException"):
        credentials.headers()


def test_a_first_secret_has_no_previous(secretsmanager: SecretsManagerClient) -> None:
    assert signing().candidates() == (current(secretsmanager),)


def test_storing_keeps_the_old_secret_as_the_previous_one(
    secretsmanager: SecretsManagerClient,
) -> None:
    before = current(secretsmanager)
    assert store_signing_secret(aws.secrets_client(SECRET_ARN), SECRET_ARN, "new") is True
    assert signing().candidates() == (b"new", before)


@pytest.mark.parametrize(
    ("client", "attempts"),
    [
        (lambda: aws.client("dynamodb"), 3),
        (lambda: aws.secrets_client(SECRET_ARN), 3),
        (lambda: aws.client("events"), 2),
        (lambda: aws.client("lambda"), 1),
    ],
    ids=["dynamodb", "secretsmanager", "events", "lambda"],
)
def test_every_client_has_explicit_limits(client: Callable[[], Any], attempts: int) -> None:
    config = vars(client().meta.config)["_user_provided_options"]
    assert config["connect_timeout"] == 1
    assert config["read_timeout"] == 2
    assert config["retries"] == {"total_max_attempts": attempts, "mode": "standard"}
    assert config["max_pool_connections"] > max(poll.BATCH, reconcile_library.THREADS)


def test_the_functions_read_the_users_secret_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = boto3.client("secretsmanager", region_name="eu-west-3")
    arn = manager.create_secret(Name="far", SecretString='{"api_token": "t"}')["ARN"]
    monkeypatch.setenv("CLOUDFLARE_SECRET_ARN", arn)
    assert Service.from_environment().gateway.permit(1, Asker.OPERATOR).count == 1


def test_a_service_has_one_client_for_all_who_need_it() -> None:
    assert aws.client("dynamodb") is aws.client("dynamodb")
    assert aws.secrets_client(SECRET_ARN) is aws.secrets_client(CREDENTIALS_ARN)
