"""The template deploys, and what comes of it is what the contract says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.template import template

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deployment import Stack


def test_every_output_of_the_template_has_a_value(stack: Stack) -> None:
    assert all(stack.outputs.values())
    assert stack.outputs.keys() == template()["Outputs"].keys()


def test_the_webhook_secret_is_random_from_the_start(stack: Stack) -> None:
    answer = stack.client("secretsmanager").get_secret_value(
        SecretId=stack.outputs["WebhookSecretArn"]
    )
    secret = json.loads(answer["SecretString"])
    assert list(secret) == ["webhook_secret"]
    assert len(secret["webhook_secret"]) == 64


def test_every_function_logs_to_a_group_with_retention(stack: Stack) -> None:
    groups = {
        group["logGroupName"]: group.get("retentionInDays")
        for group in stack.client("logs").describe_log_groups()["logGroups"]
    }
    functions = stack.client("lambda").list_functions()["Functions"]
    assert functions
    for function in functions:
        assert groups[function["LoggingConfig"]["LogGroup"]] == 30


def test_the_downloads_table_outlives_the_stack() -> None:
    table = template()["Resources"]["DownloadsTable"]
    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Retain"


def test_the_layer_alone_brings_what_the_functions_import(built_template: Path) -> None:
    library = built_template.parent / "StreamDownloadsLayer/python"
    for package in ("aws_lambda_powertools", "jmespath", "stream_downloads", "urllib3"):
        assert (library / package).is_dir(), package
    assert not (library / "boto3").exists()


def test_the_layer_is_small(built_template: Path) -> None:
    layer = built_template.parent / "StreamDownloadsLayer"
    size = sum(path.stat().st_size for path in layer.rglob("*") if path.is_file())
    assert size < 10_000_000


@pytest.mark.parametrize("deployment", ["stack", "guarded_stack"])
def test_an_unsigned_webhook_is_refused(deployment: str, request: pytest.FixtureRequest) -> None:
    deployed: Stack = request.getfixturevalue(deployment)
    answer = urllib3.request("POST", deployed.webhook_url, body=b"{}", timeout=20, retries=False)
    assert answer.status == 403
