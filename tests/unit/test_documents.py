"""The documents say what the project has: no more, no less, and each thing in one place."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from datetime import date
from typing import Any, Final

import pytest
import yaml

from stream_downloads.adapters.observability import Metric, _unit
from stream_downloads.services.receive import receive
from tests.support import aws_cli
from tests.support.documents import (
    DOCUMENTS,
    SHELLS,
    block,
    blocks,
    named,
    read,
    section,
    table_rows,
)
from tests.support.emulator import REPOSITORY
from tests.support.template import resources, template

REFERENCE: Final = "docs/reference.md"
OPERATE: Final = "docs/operate.md"
# What the AWS CLI has that is no operation of a service.
OF_THE_CLI: Final = {("s3", "cp"), ("cloudformation", "deploy")}
PICTURES: Final = sorted(
    str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("docs/*.svg")
)


def names(kind: str, ending: str) -> list[str]:
    """Return the names of the template's resources of a type, without their ending."""
    return [name.removesuffix(ending) for name in resources(kind)]


ALARMS: Final = names("AWS::CloudWatch::Alarm", "Alarm")
FUNCTIONS: Final = names("AWS::Serverless::Function", "Function")
QUERIES: Final = [
    query["Name"]["Sub"].partition("/")[2]
    for query in resources("AWS::Logs::QueryDefinition").values()
]


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 200


# --- The version ------------------------------------------------------------------------------


def version() -> str:
    """Return the version, from the one place that decides it."""
    project: str = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    return project


def test_the_changelog_begins_with_the_version_and_its_date() -> None:
    released = re.findall(r"^## (\d\S*) - (\S+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert released[0][0] == version()
    dates = [date.fromisoformat(day) for _, day in released]
    assert dates == sorted(dates, reverse=True)


def test_the_description_of_a_stack_names_the_version() -> None:
    assert template()["Description"].startswith(f"stream-downloads {version()}: ")


def test_the_version_gets_security_fixes() -> None:
    assert f"| {version().rpartition('.')[0]} | yes |" in read("SECURITY.md")


# --- The reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", template()["Parameters"])
def test_the_reference_has_every_parameter_with_its_default(name: str) -> None:
    rows = [row for row in table_rows(section(REFERENCE, "## Parameters")) if row[0] == f"`{name}`"]
    assert [row[1].strip("`") for row in rows] == [
        str(template()["Parameters"][name].get("Default", ""))
    ]


@pytest.mark.parametrize("kind", ["Parameters", "Outputs"])
def test_the_reference_has_what_the_template_has(kind: str) -> None:
    assert named(section(REFERENCE, f"## {kind}")) == template()[kind].keys()


@pytest.mark.parametrize("metric", Metric)
def test_the_reference_has_every_metric_with_its_unit(metric: Metric) -> None:
    rows = table_rows(section(REFERENCE, "## Metrics"))
    units = [row[1] for row in rows if row[0] == f"`{metric}`"]
    assert units == [_unit(metric).name.lower()]


def test_the_reference_has_every_outcome_of_a_webhook() -> None:
    (row,) = [row for row in table_rows(section(REFERENCE, "## Metrics")) if row[0] == "`Webhooks`"]
    told = row[3].partition("`WebhookUrl`: ")[2]
    texts = set(re.findall(r'"(\w+)"', inspect.getsource(receive)))
    assert set(re.findall(r"`(\w+)`", told)) == texts - {"ready"}  # the state of a video


@pytest.mark.parametrize("name", ALARMS)
def test_the_reference_has_every_alarm_beside_its_metric(name: str) -> None:
    metric = template()["Resources"][f"{name}Alarm"]["Properties"]["MetricName"]
    text = section(REFERENCE, "## Metrics")
    told = next(part for part in re.split(r"\n(?=\|)|\n\n", text) if f"[{name}]" in part)
    assert f"`{metric}`" in told


@pytest.mark.parametrize("name", QUERIES)
def test_the_reference_has_every_saved_query(name: str) -> None:
    assert f"| *{name}* |" in section(REFERENCE, "## Saved queries")


# --- The runbook ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALARMS)
def test_the_runbook_has_cause_and_remedy_of_every_alarm(name: str) -> None:
    told = section(OPERATE, f"### {name}").partition("\n## ")[0]
    assert told.count("**Cause.**") == 1
    assert told.count("**Remedy.**") == 1


def test_the_runbook_has_no_other_alarm() -> None:
    headings = re.findall(r"^### (.*)$", section(OPERATE, "## Runbook"), re.MULTILINE)
    assert sorted(headings) == sorted(ALARMS)


def test_the_runbook_and_the_deployment_use_the_check() -> None:
    first, *_ = re.findall(r"```sh\n(.*?)```", section(OPERATE, "## Runbook"), re.DOTALL)
    *_, last = re.findall(r"```sh\n(.*?)```", section("README.md", "## Deploy"), re.DOTALL)
    assert first.strip() == last.strip()
    assert '"check"' in first


# --- The design -------------------------------------------------------------------------------


def test_the_map_has_every_module() -> None:
    package = REPOSITORY / "layers/stream_downloads/stream_downloads"
    rows = table_rows(section("docs/design.md", "## Modules"))
    shown = re.findall(r"`(\w+\.py)`", " ".join(row[0] for row in rows))
    there = {path.name for path in package.glob("*/*.py")} - {"__init__.py"}
    assert set(shown) == there


# --- Pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_is_shown_and_has_a_background_of_its_own(picture: str) -> None:
    ET.fromstring(read(picture))  # noqa: S314  # it is ours
    assert any(re.search(rf"!\[[^\]]+\]\((docs/)?{picture[5:]}\)", read(d)) for d in DOCUMENTS)
    assert "<rect" in read(picture)


@pytest.mark.parametrize("name", [*FUNCTIONS, "Secrets Manager", "Cloudflare"])
def test_the_architecture_shows_every_function(name: str) -> None:
    picture = ET.fromstring(read("docs/architecture.svg"))  # noqa: S314  # it is ours
    texts = [" ".join("".join(element.itertext()).split()) for element in picture.iter()]
    assert any(text.startswith(name) for text in texts)


# --- Code -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "code"), [(d, code) for d in DOCUMENTS for code in blocks(d, "json")]
)
def test_json_can_be_read(document: str, code: str) -> None:
    assert json.loads(code), document


@pytest.mark.parametrize(
    ("document", "code"), [(d, code) for d in DOCUMENTS for code in blocks(d, "yaml")]
)
def test_yaml_can_be_read(document: str, code: str) -> None:
    class Loader(yaml.SafeLoader):
        """Takes CloudFormation's short intrinsics for what follows them."""

    Loader.add_multi_constructor("!", lambda _loader, _name, node: node.value)
    assert yaml.load(code, Loader), document  # noqa: S506  # a SafeLoader


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_are_good_shell(shell: str, document: str) -> None:
    for code in blocks(document):
        filled = re.sub(r"<[\w /-]+>", "placeholder", code)
        done = subprocess.run([shell, "-n", "-c", filled], capture_output=True, check=False)
        assert done.stderr == b"", code


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_aws_commands_exist_with_their_options(document: str) -> None:
    for code in blocks(document):
        if "invoke() (" in code:  # test_readme_shell.py runs the functions
            continue
        for words in aws_commands(code):
            if tuple(words[:2]) not in OF_THE_CLI:
                aws_cli.parsed(words)


def aws_commands(code: str) -> list[list[str]]:
    """Return the words after ``aws`` of each such command in a block."""
    filled = re.sub(r"<[\w /.-]+>", "placeholder", code).replace("\\\n", " ")
    found = re.findall(
        r"(?:^|\$\()\s*aws ((?:'[^']*'|\"(?:\\.|[^\"])*\"|[^'\"\n])*)", filled, re.MULTILINE
    )
    return [shlex.split(command.rstrip(") "), comments=True) for command in found]


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(aws_cli.BadCommand, match="has no --table"):
        aws_cli.parsed(["dynamodb", "get-item", "--table", "downloads"])


# --- Workflows --------------------------------------------------------------------------------


def workflow() -> dict[str, Any]:
    return {
        str(key): said for key, said in yaml.safe_load(read(".github/workflows/ci.yml")).items()
    }


def test_the_workflow_runs_what_lands_on_every_python() -> None:
    (job,) = workflow()["jobs"].values()
    least, most = re.findall(r"3\.(\d+)", read("pyproject.toml").partition("requires-python")[2])[
        :2
    ]
    expected = [f"3.{minor}" for minor in range(int(least), int(most))]
    assert job["strategy"]["matrix"]["python"] == expected
    assert job["steps"][-1]["run"] == ".ci/run"


def test_the_workflow_may_only_read() -> None:
    assert workflow()["permissions"] == {"contents": "read"}


def test_actions_are_pinned_by_commit() -> None:
    text = read(".github/workflows/ci.yml") + block("docs/deploy-from-github.md", "yaml", "uses:")
    used = re.findall(r"uses: (.*)", text)
    assert len(used) >= 5
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_is_named_exists(document: str) -> None:
    targets = re.findall(r"^([a-z]+):.*##", read("Makefile"), re.MULTILINE)
    named = re.findall(r"(?:^ *|`)make ([a-z]+)\b", read(document), re.MULTILINE)
    assert set(named) <= set(targets)
