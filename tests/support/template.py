"""Read ``template.yaml`` for tests: schemas and settings come from there, not from a copy."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import yaml

from tests.support.emulator import REPOSITORY

# The values of the template's references in tests. Parameters that are not here have their
# defaults, resources their logical names.
REFERENCES = {
    "CloudflareAccountId": "023e105f4ecef8ad9ca31a8372d0c353",
    "CloudflareSecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:cloudflare-AbCdEf",
    "ControlTable": "control",
    "DownloadsTable": "downloads",
    "ReceiveWebhookFunctionUrl.FunctionUrl": "https://receive.lambda-url.us-east-1.on.aws/",
    "WebhookSecret.Id": "arn:aws:secretsmanager:us-east-1:123456789012:secret:webhook-GhIjKl",
}


class _Loader(yaml.CSafeLoader):
    """Reads ``!Ref x`` as ``{"Ref": x}`` and ``!GetAtt a.b`` as ``{"GetAtt": "a.b"}``."""


def _intrinsic(loader: _Loader, name: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(cast("yaml.MappingNode", node), deep=True)}


_Loader.add_multi_constructor("!", _intrinsic)


@cache
def template() -> dict[str, Any]:
    """Return the template as it is written, its short intrinsics as objects of one entry."""
    text = (REPOSITORY / "template.yaml").read_text(encoding="utf-8")
    return cast("dict[str, Any]", yaml.load(text, _Loader))  # noqa: S506  # a CSafeLoader


def resources(kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of the template's resources of a type, by their logical ids."""
    found = template()["Resources"].items()
    return {name: each["Properties"] for name, each in found if each["Type"] == kind}


def table_schema(logical_id: str) -> dict[str, Any]:
    """Return the arguments that make a table of the template with boto3's ``create_table``."""
    properties = template()["Resources"][logical_id]["Properties"]
    wanted = ("AttributeDefinitions", "BillingMode", "GlobalSecondaryIndexes", "KeySchema")
    schema = {name: properties[name] for name in wanted if name in properties}
    return {"TableName": REFERENCES[logical_id], **schema}


def environment() -> dict[str, str]:
    """Return the environment variables that the template gives to its functions, all together."""
    variables: dict[str, Any] = dict(template()["Globals"]["Function"]["Environment"]["Variables"])
    for function in resources("AWS::Serverless::Function").values():
        variables |= function.get("Environment", {}).get("Variables", {})
    return {name: str(_resolved(value)) for name, value in variables.items()}


def _resolved(value: Any) -> Any:
    match value:
        case {"Ref": name} if name in template()["Parameters"]:
            return REFERENCES.get(name, template()["Parameters"][name].get("Default"))
        case {"Ref": name} | {"GetAtt": name}:
            return REFERENCES.get(name, name)
        case {"Join": [",", {"Ref": name}]}:  # a list parameter, which is written as its items
            return _resolved({"Ref": name})
        case str() | int():
            return value
    raise NotImplementedError(value)
