"""Check ``template.yaml`` as it is written; ``test_deployed_template.py`` has its deployed form."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.emulator import REPOSITORY
from tests.support.template import resources, template

# What CloudFormation takes as a version's description.
LONGEST_DESCRIPTION = 256


def allowed_to(function: str) -> list[dict[str, Any]]:
    """Return what the template allows to a function, under a condition or always."""
    allowed = FUNCTIONS[function]["Policies"][0]["Statement"]
    return [statement["If"][1] if "If" in statement else statement for statement in allowed]


FUNCTIONS = resources("AWS::Serverless::Function")
ALARMS = resources("AWS::CloudWatch::Alarm")
DASHBOARD = template()["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Sub"]


@pytest.mark.parametrize("name", template()["Parameters"])
def test_a_parameter_is_described_and_bounded(name: str) -> None:
    parameter = template()["Parameters"][name]
    assert parameter["Description"]
    assert {"AllowedPattern", "AllowedValues", "MinValue"} & parameter.keys()


def test_the_console_groups_every_parameter() -> None:
    groups = template()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template()["Parameters"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_a_folder_and_a_role_of_its_own(name: str) -> None:
    function, word = FUNCTIONS[name], name.removesuffix("Function")
    folder = re.sub("(?<=[a-z])(?=[A-Z])", "_", word).lower()
    assert function["CodeUri"] == f"functions/{folder}/"
    assert (REPOSITORY / function["CodeUri"] / "app.py").is_file()
    assert "Role" not in function
    for statement in allowed_to(name):
        assert isinstance(statement["Action"], str)
        assert not isinstance(statement["Resource"], list)
        assert "*" not in f"{statement['Action']}{statement['Resource']}"


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"ReceiveWebhookFunction"}))
def test_what_a_function_cannot_do_ends_in_the_queue_that_an_alarm_watches(name: str) -> None:
    function = FUNCTIONS[name]
    queue = {"GetAtt": "FailedInvocationsQueue.Arn"}
    failed = {"OnFailure": {"Type": "SQS", "Destination": queue}}
    streams = [
        event["Properties"]["DestinationConfig"]
        for event in function.get("Events", {}).values()
        if event["Type"] == "DynamoDB"
    ]
    assert (streams or [function["EventInvokeConfig"]["DestinationConfig"]]) == [failed]


def test_a_change_of_any_parameter_reaches_the_webhook() -> None:
    """Change the version behind the URL with every parameter."""
    function = FUNCTIONS["ReceiveWebhookFunction"]
    given = {
        **template()["Globals"]["Function"]["Environment"]["Variables"],
        **function["Environment"]["Variables"],
        "SnapStart": function["SnapStart"],
        "Tracing": template()["Globals"]["Function"]["Tracing"],
    }
    used = set(re.findall(r"'Ref': '(\w+)'", str(given))) & template()["Parameters"].keys()
    parts = function["VersionDescription"]["Join"][1]
    described = set(re.findall(r"'Ref': '(\w+)'", str(parts)))
    for part in parts:
        if "If" in part:
            condition, of_one, of_other = part["If"]
            assert of_one != of_other
            described |= set(
                re.findall(r"'Ref': '(\w+)'", str(template()["Conditions"][condition]))
            )
    assert described == used


def test_the_description_of_a_version_never_gets_too_long() -> None:
    longest = {
        "CloudflareAccountId": 32,
        "CloudflareSecretArn": 100 + len("-AbCdEf"),
        "CloudflareApiBaseUrl": template()["Parameters"]["CloudflareApiBaseUrl"]["MaxLength"],
        "DownloadTypes": len("default,audio"),
        "SnapStart": 1,
        "Tracing": 1,
        "VideoEvents": 1,
    }
    for name in ("CloudflareRequestLimit", "RetentionDays", "PollWindowSeconds"):
        longest[name] = len(str(template()["Parameters"][name]["MaxValue"]))
    pattern = template()["Parameters"]["CloudflareSecretArn"]["AllowedPattern"]
    assert ":secret:[A-Za-z0-9/_+=.@-]{1,100}-[A-Za-z0-9]{6}$" in pattern
    described = FUNCTIONS["ReceiveWebhookFunction"]["VersionDescription"]["Join"][1]
    assert len(described) == len(longest)
    assert sum(longest.values()) + len(described) - 1 <= LONGEST_DESCRIPTION


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_says_what_to_do_and_tells_the_topic(name: str) -> None:
    alarm = ALARMS[name]
    assert len(alarm["AlarmDescription"]) > 80
    assert alarm["AlarmActions"] == {
        "If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]
    }


def test_only_a_poll_that_is_missing_is_alarming() -> None:
    breaching = [name for name in ALARMS if ALARMS[name]["TreatMissingData"] != "notBreaching"]
    assert breaching == ["NoPollAlarm"]
    assert ALARMS["NoPollAlarm"]["Period"] == 60
    assert ALARMS["NoPollAlarm"]["EvaluationPeriods"] == 3
    schedule = FUNCTIONS["PollDownloadsFunction"]["Events"]["EveryMinute"]["Properties"]
    assert schedule["ScheduleExpression"] == "rate(1 minute)"


def test_webhooks_reserve_concurrency_only_where_there_is_some() -> None:
    wanted = FUNCTIONS["ReceiveWebhookFunction"]["ReservedConcurrentExecutions"]["If"]
    nothing = {"Ref": "AWS::NoValue"}
    assert wanted == ["ReservesConcurrency", {"Ref": "WebhookConcurrency"}, nothing]
    condition = template()["Conditions"]["ReservesConcurrency"]
    assert condition == {"Not": [{"Equals": [{"Ref": "WebhookConcurrency"}, "none"]}]}
    assert template()["Parameters"]["WebhookConcurrency"]["Default"] == "none"


def test_the_query_of_webhooks_counts_what_a_flood_left_out_of_the_log() -> None:
    query = template()["Resources"]["WebhooksQuery"]["Properties"]["QueryString"]
    assert "sum(not_logged_since)" in query


def test_consumers_may_read_and_nothing_else() -> None:
    policy = template()["Resources"]["DownloadsReadPolicy"]["Properties"]["PolicyDocument"]
    table = {"GetAtt": "DownloadsTable.Arn"}
    index = {"Sub": "${DownloadsTable.Arn}/index/status-index"}
    allowed = {}
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions, places = statement["Action"], statement["Resource"]
        for action in actions if isinstance(actions, list) else [actions]:
            allowed[action] = places if isinstance(places, list) else [places]
    assert allowed == {
        "dynamodb:GetItem": [table],
        "dynamodb:BatchGetItem": [table],
        "dynamodb:Query": [table, index],
        "dynamodb:PartiQLSelect": [table, index],
    }


def test_the_dashboard_shows_every_alarm() -> None:
    assert set(re.findall(r"\$\{(\w+)\.Arn\}", DASHBOARD)) == ALARMS.keys()


def test_the_dashboard_is_json() -> None:
    widgets = json.loads(re.sub(r"\$\{[\w:.]+\}", "x", DASHBOARD))["widgets"]
    assert [widget["x"] for widget in widgets[1:]] == [0, 6, 12, 18]
