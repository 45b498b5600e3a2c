"""Deploys the built template, with the template's defaults for what ``samconfig.toml`` leaves out.

CloudFormation keeps the value that a parameter has in a stack, so that the defaults of a later
version would not reach it. It creates or deletes at most one index of a table in an update, and
cannot change what an index holds: before the template itself, this deploys transitional templates
with one change each, if the downloads table needs several. ``make deploy`` runs this file.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import tomlkit
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Indexes = dict[str, dict[str, Any]]

STACK = "stream-downloads"
TABLE = "DownloadsTable"
ROOT = Path(__file__).parent
# What the template needs whatever samconfig.toml says.
ALWAYS = ["--capabilities", "CAPABILITY_IAM", "--no-fail-on-empty-changeset"]
LIMITS = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3})


def main(arguments: Sequence[str]) -> int:
    """Deploy, and return the exit code of the last ``sam deploy``.

    Args:
        arguments: passed on to ``sam deploy``. With ``--guided``, or without ``samconfig.toml``,
            SAM asks for all settings, and those that are defaults are forgotten afterwards.
    """
    environment = option(arguments, "--config-env") or "default"
    config = ROOT / "samconfig.toml"
    defaults = defaults_of(yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8")))
    saved = saved_in(config, environment)
    if "--guided" in arguments or saved is None:
        name = [] if saved and "stack_name" in saved else ["--stack-name", STACK]
        asked = [] if "--guided" in arguments else ["--guided"]
        given = [] if option(arguments, "--stack-name") else name
        code = sam_deploy([*asked, *given, *arguments])
        forget_defaults(config, environment, defaults)
        return code
    given = [*ALWAYS, *arguments]
    if not option(arguments, "--parameter-overrides"):
        values = defaults | parsed(saved.get("parameter_overrides", ""))
        given = [*ALWAYS, "--parameter-overrides", *written(values), *arguments]
    settings = (saved_in(config, environment, "global") or {}) | saved
    stack, region, profile = (
        option(arguments, f"--{name}") or settings.get(name.replace("-", "_"))
        for name in ("stack-name", "region", "profile")
    )
    try:
        session = boto3.Session(region_name=region, profile_name=profile)
        code = change_indexes(session, stack or STACK, given)
    except (BotoCoreError, ClientError) as error:
        sys.exit(
            f"The table's indexes could not be compared with the template's. {error} "
            "Deploying needs the permissions cloudformation:DescribeStackResource, "
            "cloudformation:GetTemplate and dynamodb:DescribeTable."
        )
    return code or sam_deploy(given)


def change_indexes(session: boto3.Session, stack: str, arguments: Sequence[str]) -> int:
    """Deploy transitional templates until one change of the table's indexes is left at most.

    Each round starts from what the table has, so that an interrupted deployment can be repeated.

    Args:
        session: has the region and the credentials.
        stack: the stack's name. Nothing is done if there is none.
        arguments: those of the ordinary deployment.

    Returns:
        0, or the exit code of the ``sam deploy`` that failed, or 1 if it changed nothing.
    """
    built = ROOT / ".aws-sam/build/template.yaml"
    transitional = built.with_name("transitional.json")
    # SAM looks for its settings beside the template, unless it is the one that it built.
    files = ["--template-file", str(transitional), "--config-file", str(ROOT / "samconfig.toml")]
    before = 0
    while table := deployed_table(session, stack):
        template = yaml_parse(built.read_text(encoding="utf-8"))
        present = indexes_of(table)
        steps = sequence(present, indexes_of(template["Resources"][TABLE]["Properties"]))
        if steps and len(steps) == before:
            sys.stderr.write(
                "The update changed no index: it was not confirmed, or not executed. "
                "Run make deploy again.\n"
            )
            return 1
        before = len(steps)
        announce(present, steps)
        if before < 2:
            return 0
        changed = with_indexes(template, table, steps[0])
        transitional.write_text(json.dumps(changed), encoding="utf-8")
        if code := sam_deploy([*files, *arguments]):
            return code
    return 0


def announce(present: Indexes, steps: Sequence[Indexes]) -> None:
    """Write to stderr which index this update changes, and how many updates follow."""
    if not steps:
        return
    (name,) = present.keys() ^ steps[0].keys()
    change = "creates" if name in steps[0] else "deletes"
    sys.stderr.write(
        f"This update {change} the index {name} of the downloads table, which can take minutes.\n"
    )
    if more := len(steps) - 1:
        sys.stderr.write(
            f"Updates that follow: {more}. CloudFormation makes one such change in each.\n"
        )


def deployed_table(session: boto3.Session, stack: str) -> dict[str, Any] | None:
    """Return the downloads table of a stack as DynamoDB describes it, None if there is none.

    An index that equals the one in the stack's template is returned as the template has it:
    DynamoDB reorders the attributes of a projection, which CloudFormation could take for a change.
    """
    cloudformation = session.client("cloudformation", config=LIMITS)
    try:
        resource = cloudformation.describe_stack_resource(StackName=stack, LogicalResourceId=TABLE)
        name = resource["StackResourceDetail"]["PhysicalResourceId"]
        table = session.client("dynamodb", config=LIMITS).describe_table(TableName=name)["Table"]
    except ClientError as error:
        if "does not exist" in str(error) or "not found" in str(error):
            return None
        raise
    body: Any = cloudformation.get_template(StackName=stack)["TemplateBody"]
    template = yaml_parse(body) if isinstance(body, str) else body
    in_template = indexes_of(template["Resources"][TABLE]["Properties"])
    indexes = [
        in_template[name] if same(index, in_template.get(name)) else index
        for name, index in indexes_of(table).items()
    ]
    return {**table, "GlobalSecondaryIndexes": indexes}


def indexes_of(table: Mapping[str, Any]) -> Indexes:
    """Return the definitions of a table's indexes by name, from a template or from DynamoDB."""
    return {
        index["IndexName"]: {name: index[name] for name in ("IndexName", "KeySchema", "Projection")}
        for index in table.get("GlobalSecondaryIndexes", [])
    }


def same(one: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Return True if two indexes have the same keys and the same projection."""

    def projected(index: Mapping[str, Any]) -> list[str]:
        projection = index["Projection"]
        return [projection["ProjectionType"], *sorted(projection.get("NonKeyAttributes", []))]

    return (
        other is not None
        and one["KeySchema"] == other["KeySchema"]
        and projected(one) == projected(other)
    )


def sequence(present: Indexes, wanted: Indexes) -> list[Indexes]:
    """Return the sets of indexes that lead to the wanted one, with one change of one index each.

    New indexes come first, because new code needs them. A changed index is deleted and created.
    Obsolete indexes are deleted last, because the present code may need them.
    """
    steps = [present]
    for name in wanted:
        if name not in present:
            steps.append(steps[-1] | {name: wanted[name]})
    for name in wanted:
        if name in present and not same(present[name], wanted[name]):
            steps.append(without(steps[-1], name))
            steps.append(steps[-1] | {name: wanted[name]})
    for name in present:
        if name not in wanted:
            steps.append(without(steps[-1], name))
    return steps[1:]


def without(indexes: Indexes, name: str) -> Indexes:
    """Return all indexes but one."""
    return {other: index for other, index in indexes.items() if other != name}


def with_indexes(
    template: Mapping[str, Any], table: Mapping[str, Any], indexes: Indexes
) -> dict[str, Any]:
    """Return a template with other indexes of the downloads table.

    Args:
        template: the template.
        table: the deployed table, which may define attributes that the template does not.
        indexes: the indexes. Only attributes of a key are defined: DynamoDB refuses others.
    """
    resource = template["Resources"][TABLE]
    properties = resource["Properties"]
    keys = [key for part in (properties, *indexes.values()) for key in part["KeySchema"]]
    used = {key["AttributeName"] for key in keys}
    known = [*properties["AttributeDefinitions"], *table["AttributeDefinitions"]]
    defined = {attribute["AttributeName"]: attribute for attribute in known}
    changed = {
        **properties,
        "AttributeDefinitions": [defined[name] for name in defined if name in used],
        "GlobalSecondaryIndexes": list(indexes.values()),
    }
    resources = {**template["Resources"], TABLE: {**resource, "Properties": changed}}
    return {**template, "Resources": resources}


def sam_deploy(arguments: Sequence[str]) -> int:
    """Run ``sam deploy`` and return its exit code."""
    command = ["sam", "deploy", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603  # the user's own


def option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option, None without it."""
    for given, value in pairwise([*arguments, ""]):
        if given == name:
            return value
        if given.startswith(f"{name}="):
            return given.partition("=")[2]
    return None


def defaults_of(template: Mapping[str, Any]) -> dict[str, str]:
    """Return the template's parameters that have a default, with it."""
    return {
        name: str(parameter["Default"])
        for name, parameter in template["Parameters"].items()
        if "Default" in parameter
    }


def saved_in(config: Path, environment: str, command: str = "deploy") -> dict[str, Any] | None:
    """Return the parameters of a command of SAM in ``samconfig.toml``, None if there are none."""
    if not config.exists():
        return None
    sections = tomlkit.parse(config.read_text(encoding="utf-8")).unwrap()
    saved: dict[str, Any] | None = sections.get(environment, {}).get(command, {}).get("parameters")
    return saved


def parsed(overrides: str | Sequence[str]) -> dict[str, str]:
    """Return the parameters that ``parameter_overrides`` sets, by name."""
    pairs = shlex.split(overrides) if isinstance(overrides, str) else overrides
    return dict(pair.split("=", 1) for pair in pairs)


def written(values: Mapping[str, str]) -> list[str]:
    """Return parameters in the form that ``sam deploy`` accepts."""
    return [f'{name}="{value}"' for name, value in values.items()]


def forget_defaults(config: Path, environment: str, defaults: Mapping[str, str]) -> None:
    """Remove from ``samconfig.toml`` the parameters that have their default.

    ``sam deploy --guided`` saves every answer.
    """
    if not saved_in(config, environment):
        return
    document = tomlkit.parse(config.read_text(encoding="utf-8"))
    parameters: Any = document[environment]["deploy"]["parameters"]
    chosen = {
        name: value
        for name, value in parsed(parameters.get("parameter_overrides", "")).items()
        if defaults.get(name) != value
    }
    parameters["parameter_overrides"] = " ".join(written(chosen))
    config.write_text(tomlkit.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
