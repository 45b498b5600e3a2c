"""Deploy the packaged template as other tools do: through CloudFormation, without SAM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import package
from tests.support.deployment import NOT_EMULATED, REGION, client
from tests.support.template import REFERENCES

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.emulator import Emulator

STACK = "packaged"
BUCKET = "packages"


def test_the_packaged_template_deploys_without_sam(
    plain_emulator: Emulator,
    built_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = plain_emulator.url
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
        "SAM_CLI_TELEMETRY": "0",
    }.items():
        monkeypatch.setenv(name, value)
    client("s3", endpoint).create_bucket(Bucket=BUCKET)

    packaged = tmp_path / "packaged.json"
    package.main(BUCKET, built_template, packaged)

    text = packaged.read_text(encoding="utf-8")
    resources = json.loads(text)["Resources"]
    assert "Transform" not in json.loads(text)
    assert not [one for one in resources.values() if one["Type"].startswith("AWS::Serverless")]
    client("s3", endpoint).put_object(Bucket=BUCKET, Key="packaged.json", Body=text.encode())
    outputs = deployed(endpoint)
    answer = client("lambda", endpoint).invoke(
        FunctionName=outputs["ManageDownloadsFunctionName"], Payload=b'{"action": "status"}'
    )
    assert "FunctionError" not in answer
    assert json.loads(answer["Payload"].read())["rows"]["ready"] == 0
    delete(endpoint)


def deployed(endpoint: str) -> dict[str, str]:
    """Return the outputs of the stack, once it is there."""
    given = NOT_EMULATED | {
        name: REFERENCES[name] for name in ("CloudflareAccountId", "CloudflareSecretArn")
    }
    formation: Any = client("cloudformation", endpoint)
    formation.create_stack(
        StackName=STACK,
        TemplateURL=f"{endpoint}/{BUCKET}/packaged.json",
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[
            {"ParameterKey": name, "ParameterValue": value} for name, value in given.items()
        ],
    )
    formation.get_waiter("stack_create_complete").wait(
        StackName=STACK, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    (stack,) = formation.describe_stacks(StackName=STACK)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def delete(endpoint: str) -> None:
    """Delete the stack, and the table that it leaves."""
    formation: Any = client("cloudformation", endpoint)
    table = formation.describe_stack_resource(StackName=STACK, LogicalResourceId="DownloadsTable")
    formation.delete_stack(StackName=STACK)
    formation.get_waiter("stack_delete_complete").wait(
        StackName=STACK, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    name = table["StackResourceDetail"]["PhysicalResourceId"]
    client("dynamodb", endpoint).delete_table(TableName=name)
