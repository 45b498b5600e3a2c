"""Deploy the template and compare the stack with docs/reference.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.deployed import ALARM_TOPIC
from tests.support.template import template

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.deployed import Deployed


ALARMS = sum(
    resource["Type"] == "AWS::CloudWatch::Alarm" for resource in template()["Resources"].values()
)


def test_every_output_of_the_template_has_a_value(plain: Deployed) -> None:
    assert all(plain.stack.outputs.values())
    assert plain.stack.outputs.keys() == template()["Outputs"].keys()


def test_the_webhook_secret_is_random_from_the_start(either: Deployed) -> None:
    assert len(either.first_secret) == 64
    assert len(set(either.first_secret)) > 20


def test_a_published_version_receives_webhooks(plain: Deployed) -> None:
    assert snap_start(plain) == {"ApplyOn": "None", "OptimizationStatus": "Off"}


def test_a_snapshot_receives_webhooks_where_it_is_wanted(guarded: Deployed) -> None:
    assert snap_start(guarded) == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    guarded.upload_and_hear()


def snap_start(deployed: Deployed) -> object:
    functions = deployed.stack.client("lambda")
    name = deployed.stack.physical_id("ReceiveWebhookFunction")
    version = functions.get_alias(FunctionName=name, Name="live")["FunctionVersion"]
    assert version.isdecimal()
    return functions.get_function_configuration(FunctionName=name, Qualifier=version)["SnapStart"]


def test_alarms_tell_the_topic_if_there_is_one(plain: Deployed) -> None:
    assert alarm_actions(plain) == [[]] * ALARMS


def test_every_alarm_tells_the_topic(guarded: Deployed) -> None:
    assert alarm_actions(guarded) == [[ALARM_TOPIC]] * ALARMS


def alarm_actions(deployed: Deployed) -> list[list[str]]:
    alarms = deployed.stack.client("cloudwatch").describe_alarms()["MetricAlarms"]
    return [alarm["AlarmActions"] for alarm in alarms]


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
    assert table["DeletionPolicy"] == "RetainExceptOnCreate"
    assert table["UpdateReplacePolicy"] == "Retain"


def test_the_layer_alone_brings_what_the_functions_import(built_template: Path) -> None:
    library = built_template.parent / "StreamDownloadsLayer/python"
    for package in ("aws_lambda_powertools", "jmespath", "stream_downloads", "urllib3"):
        assert (library / package).is_dir(), package
    assert not (library / "boto3").exists()


def test_the_layer_is_small(built_template: Path) -> None:
    layer = built_template.parent / "StreamDownloadsLayer"
    size = sum(path.stat().st_size for path in layer.rglob("*") if path.is_file())
    assert size < 10_000_000
