"""Check ``template.yaml`` in the form that CloudFormation gets: after SAM's transform."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from typing import Any, cast

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from package import processed
from stream_downloads.domain import commands
from stream_downloads.domain.commands import Registration
from tests.support.emulator import REPOSITORY
from tests.support.template import REFERENCES

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NOTHING = {"Ref": "AWS::NoValue"}
STREAM = {"Fn::GetAtt": ["DownloadsTable", "StreamArn"]}
READERS_OF_THE_SECRET = {
    "ReceiveWebhook",
    "PollDownloads",
    "ReconcileLibrary",
    "ManageDownloads",
    "RegisterWebhook",
}
FUNCTIONS = sorted(READERS_OF_THE_SECRET | {"AnnounceDownloads"})
ON_STREAMS = {"dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"}


@cache
def as_written() -> dict[str, Any]:
    text = (REPOSITORY / "template.yaml").read_text(encoding="utf-8")
    return cast("dict[str, Any]", yaml_parse(text))


@cache
def deployed(**given: str) -> dict[str, Any]:
    """Return the resources that CloudFormation deploys.

    Args:
        given: parameters of the template by name; the others have their defaults.
    """
    template = deepcopy(as_written())
    for resource in template["Resources"].values():
        for name in ("CodeUri", "ContentUri"):
            if name in resource["Properties"]:
                resource["Properties"][name] = "s3://packaged/code"
    values = {
        name: str(given.get(name, REFERENCES.get(name, parameter.get("Default"))))
        for name, parameter in template["Parameters"].items()
    }
    transformed = processed(template, values)
    conditions = {
        name: _holds(condition, values) for name, condition in transformed["Conditions"].items()
    }
    return cast("dict[str, Any]", _resolved(transformed["Resources"], conditions))


def _holds(condition: Any, values: dict[str, str]) -> bool:
    match condition:
        case {"Fn::Not": [inner]}:
            return not _holds(inner, values)
        case {"Fn::Equals": [{"Ref": name}, value]}:
            return values[name] == str(value)
    raise NotImplementedError(condition)


def _resolved(value: Any, conditions: dict[str, bool]) -> Any:
    """Return ``value`` with each ``Fn::If`` decided, and without what is ``AWS::NoValue``."""
    match value:
        case {"Fn::If": [name, positive, negative]}:
            return _resolved(positive if conditions[name] else negative, conditions)
        case dict():
            entries = {key: _resolved(inner, conditions) for key, inner in value.items()}
            return {key: inner for key, inner in entries.items() if inner != NOTHING}
        case list():
            items = [_resolved(inner, conditions) for inner in value]
            return [item for item in items if item != NOTHING]
    return value


def of_type(resources: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: found for name, found in resources.items() if found["Type"] == kind}


def statements(function: str, **given: str) -> list[dict[str, Any]]:
    """Return all statements of a function's role but those of AWS's own policies."""
    resources = deployed(**given)
    role = resources[f"{function}FunctionRole"]["Properties"]
    documents = [policy["PolicyDocument"] for policy in role["Policies"]]
    documents += [
        resources[policy["Ref"]]["Properties"]["PolicyDocument"]
        for policy in role["ManagedPolicyArns"]
        if isinstance(policy, dict)
    ]
    return [statement for document in documents for statement in document["Statement"]]


def actions(statement: dict[str, Any]) -> set[str]:
    action = statement["Action"]
    return {action} if isinstance(action, str) else set(action)


def denied(function: str, **given: str) -> dict[str, dict[str, Any]]:
    """Return the denying statements of a function's role by action."""
    return {
        action: statement
        for statement in statements(function, **given)
        if statement["Effect"] == "Deny"
        for action in actions(statement)
    }


def managed_by_aws(function: str) -> set[str]:
    arns = deployed()[f"{function}FunctionRole"]["Properties"]["ManagedPolicyArns"]
    return {arn.rpartition("/")[2] for arn in arns if isinstance(arn, str)}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sam_adds_no_policy_that_the_template_does_not_tell_of(function: str) -> None:
    of_streams = {"AWSLambdaDynamoDBExecutionRole"} if function == "AnnounceDownloads" else set()
    known = {"AWSLambdaBasicExecutionRole", "AWSXrayWriteOnlyAccess"} | of_streams
    assert managed_by_aws(function) == known
    text = (REPOSITORY / "template.yaml").read_text(encoding="utf-8")
    assert all(name in text for name in known)
    added = [found for found in statements(function) if "Sid" not in found]
    queue = {"Fn::GetAtt": ["FailedInvocationsQueue", "Arn"]}
    assert bool(added) == (function != "ReceiveWebhook")
    for statement in added:
        assert actions(statement) == {"sqs:SendMessage"}
        assert statement["Resource"] == queue


def test_a_schedule_invokes_its_function_and_no_other() -> None:
    schedules = of_type(deployed(), "AWS::Scheduler::Schedule")
    assert len(schedules) == 3
    for schedule in schedules.values():
        target = schedule["Properties"]["Target"]
        role = deployed()[target["RoleArn"]["Fn::GetAtt"][0]]["Properties"]
        (policy,) = role["Policies"]
        (statement,) = policy["PolicyDocument"]["Statement"]
        assert actions(statement) == {"lambda:InvokeFunction"}
        assert statement["Resource"] == target["Arn"]
        assert "ManagedPolicyArns" not in role


@pytest.mark.parametrize(
    ("minutes", "expression"),
    [
        ("1", "rate(1 minute)"),  # the scheduler refuses "1 minutes"
        ("60", {"Fn::Sub": "rate(${ReconcileMinutes} minutes)"}),
        ("1440", {"Fn::Sub": "rate(${ReconcileMinutes} minutes)"}),
    ],
)
def test_the_library_is_reconciled_every_so_many_minutes(minutes: str, expression: object) -> None:
    schedules = of_type(deployed(ReconcileMinutes=minutes), "AWS::Scheduler::Schedule")
    schedule = schedules["ReconcileLibraryFunctionRegularly"]["Properties"]
    assert schedule["ScheduleExpression"] == expression
    variables = deployed()["ReconcileLibraryFunction"]["Properties"]["Environment"]["Variables"]
    assert variables["RECONCILE_MINUTES"] == {"Ref": "ReconcileMinutes"}


def test_the_secret_is_compared_with_cloudflares_every_five_minutes() -> None:
    schedules = of_type(deployed(), "AWS::Scheduler::Schedule")
    schedule = schedules["RegisterWebhookFunctionEveryFiveMinutes"]["Properties"]
    assert schedule["ScheduleExpression"] == "rate(5 minutes)"
    payload = json.loads(schedule["Target"]["Input"])
    assert commands.registration(payload) is Registration.REFRESH


@pytest.mark.parametrize("passes_on", ["true", "false"])
def test_webhooks_reach_the_bus_only_where_they_are_passed_on(passes_on: str) -> None:
    found = [
        statement["Resource"]
        for statement in statements("ReceiveWebhook", VideoEvents=passes_on)
        if "events:PutEvents" in actions(statement)
    ]
    bus = {"Fn::GetAtt": ["DownloadsEventBus", "Arn"]}
    assert found == ([bus] if passes_on == "true" else [])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_cloudformation_and_no_function_creates_a_log_group(function: str) -> None:
    assert denied(function)["logs:CreateLogGroup"]["Resource"] == "*"
    group = deployed()[f"{function}LogGroup"]
    assert group["Properties"] == {"RetentionInDays": 30}
    assert group["DeletionPolicy"] == "Delete"
    logging = deployed()[f"{function}Function"]["Properties"]["LoggingConfig"]
    assert logging == {"LogGroup": {"Ref": f"{function}LogGroup"}}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_sends_traces_only_where_they_are_wanted(function: str) -> None:
    traces = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
    assert denied(function).keys() >= traces
    assert not denied(function, Tracing="Active").keys() & traces
    properties = deployed()[f"{function}Function"]["Properties"]
    assert properties["TracingConfig"] == {"Mode": {"Ref": "Tracing"}}


def test_announcements_read_the_stream_of_the_downloads_table_alone() -> None:
    limits = denied("AnnounceDownloads")
    for action in ON_STREAMS:
        assert limits[action]["NotResource"] == STREAM
        assert "Resource" not in limits[action]
    for function in READERS_OF_THE_SECRET:
        assert not ON_STREAMS & denied(function).keys()


def test_the_readers_of_the_secret_decrypt_it_with_its_key() -> None:
    for function in FUNCTIONS:
        found = [
            statement
            for statement in statements(function, CloudflareSecretKmsKeyArn=KEY)
            if any(action.startswith("kms:") for action in actions(statement))
        ]
        assert len(found) == (function in READERS_OF_THE_SECRET), function
        for statement in found:
            assert statement["Action"] == "kms:Decrypt"
            assert statement["Resource"] == {"Ref": "CloudflareSecretKmsKeyArn"}
            (operator,) = statement["Condition"]
            assert operator == "StringEquals"
            condition = statement["Condition"]["StringEquals"]
            secret = {"Ref": "CloudflareSecretArn"}
            assert condition["kms:EncryptionContext:SecretARN"] == secret
            service, values = condition["kms:ViaService"]["Fn::Sub"]
            assert service == "secretsmanager.${Region}.${AWS::URLSuffix}"
            assert values == {"Region": {"Fn::Select": [3, {"Fn::Split": [":", secret]}]}}


def test_without_a_key_nothing_is_decrypted() -> None:
    assert not any("kms:" in json.dumps(statements(function)) for function in FUNCTIONS)


def test_the_secret_is_read_by_those_who_may_decrypt_it() -> None:
    readers = {
        function
        for function in FUNCTIONS
        for statement in statements(function)
        if statement.get("Resource") == {"Ref": "CloudflareSecretArn"}
    }
    assert readers == READERS_OF_THE_SECRET


def test_tables_have_the_key_that_aws_owns() -> None:
    tables = of_type(deployed(), "AWS::DynamoDB::Table")
    assert tables.keys() == {"DownloadsTable", "ControlTable"}
    assert not any("SSESpecification" in table["Properties"] for table in tables.values())


def test_the_downloads_table_stays_unless_its_first_deployment_fails() -> None:
    table = deployed()["DownloadsTable"]
    assert table["DeletionPolicy"] == "RetainExceptOnCreate"
    assert table["UpdateReplacePolicy"] == "Retain"


def mapping() -> dict[str, Any]:
    (found,) = of_type(deployed(), "AWS::Lambda::EventSourceMapping").values()
    return cast("dict[str, Any]", found["Properties"])


def test_a_change_is_announced_until_the_stream_forgets_it() -> None:
    assert mapping()["MaximumRetryAttempts"] == -1
    assert mapping()["MaximumRecordAgeInSeconds"] == 86400  # how long a stream has its records


def test_announcements_are_filtered_by_documented_fields_alone() -> None:
    patterns = [json.loads(one["Pattern"]) for one in mapping()["FilterCriteria"]["Filters"]]
    assert patterns
    for pattern in patterns:
        assert pattern.keys() == {"dynamodb"}
        assert pattern["dynamodb"].keys() <= {"NewImage", "OldImage"}


@pytest.mark.parametrize(
    ("alarm", "metric", "function", "statistic"),
    [
        ("EventsDelayedAlarm", "IteratorAge", "AnnounceDownloads", "Maximum"),
        ("WebhookThrottledAlarm", "Throttles", "ReceiveWebhook", "Sum"),
    ],
)
def test_an_alarm_watches_a_metric_of_lambda(
    alarm: str, metric: str, function: str, statistic: str
) -> None:
    properties = deployed()[alarm]["Properties"]
    assert properties["Namespace"] == "AWS/Lambda"
    assert properties["MetricName"] == metric
    # The dimension that holds all versions and aliases of a function.
    dimension = {"Name": "FunctionName", "Value": {"Ref": f"{function}Function"}}
    assert properties["Dimensions"] == [dimension]
    assert properties["Statistic"] == statistic


def test_nothing_is_named_that_an_earlier_stack_may_have_left() -> None:
    """Keep the table alone after a deletion, under a name that CloudFormation chose."""
    kept = [
        name
        for name, resource in deployed().items()
        if "Retain" in resource.get("DeletionPolicy", "")
    ]
    assert kept == ["DownloadsTable"]
    assert "TableName" not in deployed()["DownloadsTable"]["Properties"]
