"""The template deploys, and what comes of it is what the contract says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.template import template

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.deployed import Deployed


def test_every_output_of_the_template_has_a_value(plain: Deployed) -> None:
    assert all(plain.stack.outputs.values())
    assert plain.stack.outputs.keys() == template()["Outputs"].keys()


def test_the_webhook_secret_is_random_from_the_start(either: Deployed) -> None:
    assert len(either.first_secret) == 64
    assert len(set(either.first_secret)) > 20


def test_every_function_logs_to_a_group_with_retention(plain: Deployed) -> None:
    groups = {
        group["logGroupName"]: group.get("retentionInDays")
        for group in plain.stack.client("logs").describe_log_groups()["logGroups"]
    }
    functions = plain.stack.client("lambda").list_functions()["Functions"]
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
