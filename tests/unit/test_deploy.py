"""Check the defaults that a deployment has, what its owner chose, and how it changes indexes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

import deploy
from tests.support.emulator import REPOSITORY

if TYPE_CHECKING:
    from botocore.config import Config

TEMPLATE = """
Parameters:
  Account: {Type: String}
  Limit: {Type: Number, Default: 700}
  Topic: {Type: String, Default: ""}
"""
# As sam deploy --guided writes it.
SAVED = """version = 0.1
# Mine.
[default.deploy.parameters]
stack_name = "mine"
resolve_s3 = true
parameter_overrides = "Account=\\"abc\\" Limit=\\"{limit}\\" Topic=\\"\\""
"""
NEW: dict[str, Any] = yaml_parse((REPOSITORY / "template.yaml").read_text(encoding="utf-8"))


class Cloud:
    """Stands in for CloudFormation and DynamoDB: it holds one stack, and its table's rules.

    Attributes:
        template: the stack's, None while there is none.
        updates: the names of the indexes after each update.
        failing: the exit codes of the next updates that change nothing, None for one that does.
        reached: the stack, the region and the profile that were asked for.
        body: makes of a template what boto3 returns: text if it was YAML, else a dictionary.
        directory: the folder that is deployed from.
        settings: the file of ``sam deploy`` in it.
        ran: the arguments of each ``sam deploy``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = directory / "samconfig.toml"
        self.ran: list[list[str]] = []
        self.template: dict[str, Any] | None = None
        self.updates: list[list[str]] = []
        self.failing: list[int | None] = []
        self.reached: dict[str, str | None] = {}
        self.body: Callable[[Any], Any] = json.dumps

    @property
    def table(self) -> dict[str, Any]:
        assert self.template
        table: dict[str, Any] = self.template["Resources"]["DownloadsTable"]["Properties"]
        return table

    def session(self, **where: str | None) -> Cloud:
        self.reached |= where
        return self

    def client(self, _service: str, config: Config) -> Cloud:
        limits: Any = config
        assert limits.connect_timeout <= 10
        assert limits.read_timeout <= 60
        return self

    def describe_stack_resource(self, StackName: str, LogicalResourceId: str) -> Any:  # noqa: N803
        self.reached["stack"] = StackName
        if self.template is None:
            raise refusal(f"Stack '{StackName}' does not exist")
        return {"StackResourceDetail": {"PhysicalResourceId": LogicalResourceId}}

    def get_template(self, StackName: str) -> Any:  # noqa: N803
        assert StackName == self.reached["stack"]
        return {"TemplateBody": self.body(self.template)}

    def describe_table(self, TableName: str) -> Any:  # noqa: N803
        assert TableName == "DownloadsTable"
        table = deepcopy(self.table)
        for index in table["GlobalSecondaryIndexes"]:
            # DynamoDB's own order.
            index["Projection"].get("NonKeyAttributes", []).reverse()
            index["IndexStatus"] = "ACTIVE"
        return {"Table": table}

    def update(self, template: dict[str, Any]) -> int:
        """Update the stack, and return the exit code of ``sam deploy``."""
        if self.failing and (code := self.failing.pop(0)) is not None:
            return code
        before = by_name(self.table)
        self.template = template
        after = by_name(self.table)
        assert len(before.keys() ^ after.keys()) <= 1, "one creation or deletion in an update"
        for name in before.keys() & after.keys():
            assert before[name] == after[name], "no change of an index"
        keys = [*self.table["KeySchema"], *(key for i in after.values() for key in i["KeySchema"])]
        defined = [attribute["AttributeName"] for attribute in self.table["AttributeDefinitions"]]
        assert sorted(defined) == sorted({key["AttributeName"] for key in keys})
        self.updates.append(sorted(after))
        return 0

    def sam(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["sam", "deploy"]
        self.ran.append(command[2:])
        code = 0
        if "--guided" in command:
            self.save(SAVED.format(limit=700))
        elif built := deploy.option(command, "--template-file"):
            code = self.update(yaml_parse(Path(built).read_text(encoding="utf-8")))
        elif self.template:
            code = self.update(deepcopy(NEW))
        return subprocess.CompletedProcess(command, code)

    def save(self, text: str) -> None:
        self.settings.write_text(text, encoding="utf-8")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Deploy from a folder of the test's; have no stack yet."""
    (tmp_path / "template.yaml").write_text(TEMPLATE, encoding="utf-8")
    fake = Cloud(tmp_path)
    monkeypatch.setattr(boto3, "Session", fake.session)
    monkeypatch.setattr(deploy, "ROOT", tmp_path)
    monkeypatch.setattr(subprocess, "run", fake.sam)
    return fake


@pytest.fixture
def deployed(cloud: Cloud) -> Cloud:
    """Have a stack of version 0.1, and the present version built."""
    built = cloud.directory / ".aws-sam/build/template.yaml"
    built.parent.mkdir(parents=True)
    built.write_text(json.dumps(NEW), encoding="utf-8")
    cloud.save(SAVED.format(limit=300))
    cloud.template = first_version()
    return cloud


def first_version() -> dict[str, Any]:
    """Return the template with the indexes of version 0.1."""
    template = deepcopy(NEW)
    due, status = template["Resources"]["DownloadsTable"]["Properties"]["GlobalSecondaryIndexes"]
    due |= {"IndexName": "due-index", "Projection": {"ProjectionType": "ALL"}}
    status["Projection"]["NonKeyAttributes"].insert(1, "percent_complete")
    return template


def by_name(table: Mapping[str, Any]) -> dict[str, Any]:
    return {index["IndexName"]: index for index in table["GlobalSecondaryIndexes"]}


def refusal(message: str, code: str = "ValidationError") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Describe")


def overrides(arguments: list[str]) -> list[str]:
    return arguments[arguments.index("--parameter-overrides") + 1 :]


def test_a_later_default_reaches_what_its_owner_left_open(cloud: Cloud) -> None:
    cloud.save(SAVED.replace(' Limit=\\"{limit}\\"', ""))
    assert deploy.main([]) == 0
    assert set(overrides(cloud.ran[0])) == {'Account="abc"', 'Limit="700"', 'Topic=""'}


def test_what_its_owner_chose_stays(cloud: Cloud) -> None:
    cloud.save(SAVED.format(limit=300))
    deploy.main([])
    assert 'Limit="300"' in overrides(cloud.ran[0])
    assert 'Limit="700"' not in overrides(cloud.ran[0])


def test_overrides_on_the_command_line_are_all_there_is(cloud: Cloud) -> None:
    cloud.save(SAVED.format(limit=300))
    deploy.main(["--parameter-overrides", 'Limit="1"'])
    assert overrides(cloud.ran[0]) == ['Limit="1"']


@pytest.mark.parametrize("arguments", [[], ["--guided"]])
def test_the_first_deployment_asks_and_forgets_defaults(cloud: Cloud, arguments: list[str]) -> None:
    deploy.main(arguments)
    assert "--guided" in cloud.ran[0]
    assert cloud.ran[0][cloud.ran[0].index("--stack-name") + 1] == "stream-downloads"
    saved = deploy.saved_in(cloud.settings, "default")
    kept = {"stack_name": "mine", "resolve_s3": True}
    assert saved == kept | {"parameter_overrides": 'Account="abc"'}
    assert "# Mine." in cloud.settings.read_text(encoding="utf-8")


def test_asking_again_keeps_the_name(cloud: Cloud) -> None:
    cloud.save(SAVED.format(limit=300))
    deploy.main(["--guided"])
    assert "--stack-name" not in cloud.ran[0]


ALL = ["due-index", "status-index", "work-index"]
UPGRADE = [ALL, ["due-index", "work-index"], ALL, ["status-index", "work-index"]]


@pytest.mark.parametrize("body", [json.dumps, dict])
def test_an_upgrade_from_0_1_changes_one_index_in_each_update(
    deployed: Cloud, capsys: pytest.CaptureFixture[str], body: Callable[[Any], Any]
) -> None:
    deployed.body = body
    assert deploy.main(["--no-confirm-changeset"]) == 0
    assert deployed.updates == UPGRADE
    assert deployed.template == NEW
    for arguments in deployed.ran:
        assert 'Limit="300"' in overrides(arguments)
        assert "--no-confirm-changeset" in arguments
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in said if line.startswith("This update")] == [
        "This update creates the index work-index",
        "This update deletes the index status-index",
        "This update creates the index status-index",
        "This update deletes the index due-index",
    ]


def test_sam_finds_its_settings_for_a_transitional_template(deployed: Cloud) -> None:
    deploy.main([])
    assert deployed.updates
    for arguments in deployed.ran[:-1]:
        assert deploy.option(arguments, "--config-file") == str(deployed.settings)
    assert "--template-file" not in deployed.ran[-1]


def test_a_transitional_template_differs_by_its_table_alone(deployed: Cloud) -> None:
    old = deployed.table
    changed = deploy.with_indexes(NEW, old, deploy.indexes_of(old))
    assert changed != NEW
    changed["Resources"]["DownloadsTable"] = NEW["Resources"]["DownloadsTable"]
    assert changed == NEW


def test_an_obsolete_index_keeps_the_definition_of_its_attributes(deployed: Cloud) -> None:
    deployed.table["AttributeDefinitions"].append({"AttributeName": "old", "AttributeType": "B"})
    due = by_name(deployed.table)["due-index"]
    due["KeySchema"][0]["AttributeName"] = "old"
    assert deploy.main([]) == 0
    assert deployed.updates == UPGRADE


@pytest.mark.parametrize("changes", ["no stack", "none", "one"])
def test_at_most_one_change_is_one_deployment(deployed: Cloud, changes: str) -> None:
    deployed.template = deepcopy(NEW) if changes != "no stack" else None
    if changes == "one":
        deployed.table["GlobalSecondaryIndexes"].pop()
    assert deploy.main([]) == 0
    assert len(deployed.ran) == 1
    assert "--template-file" not in deployed.ran[0]


@pytest.mark.parametrize("done", range(4))
def test_a_failed_update_is_the_last_and_the_next_one_goes_on(deployed: Cloud, done: int) -> None:
    deployed.failing = [*[None] * done, 7]
    assert deploy.main([]) == 7
    assert len(deployed.ran) == done + 1
    assert deploy.main([]) == 0
    assert deployed.updates == UPGRADE


def test_an_update_that_is_not_confirmed_is_the_last(
    deployed: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed.failing = [0]
    assert deploy.main([]) == 1
    assert len(deployed.ran) == 1
    assert "not confirmed" in capsys.readouterr().err


GLOBAL = '[default.global.parameters]\nstack_name = "all"\nregion = "eu-west-1"\n'
HERE = 'stack_name = "mine"\nprofile = "work"'


@pytest.mark.parametrize(
    ("saved", "arguments", "reached"),
    [
        (SAVED, [], ("mine", None, None)),
        (SAVED.replace('stack_name = "mine"', HERE), [], ("mine", None, "work")),
        (SAVED.replace('stack_name = "mine"', "") + GLOBAL, [], ("all", "eu-west-1", None)),
        (SAVED + GLOBAL, ["--region", "us-west-2"], ("mine", "us-west-2", None)),
        (SAVED, ["--stack-name=b", "--profile=home"], ("b", None, "home")),
    ],
)
def test_the_table_is_that_of_the_stack_that_sam_deploys(
    deployed: Cloud, saved: str, arguments: list[str], reached: tuple[str | None, ...]
) -> None:
    deployed.save(saved)
    assert deploy.main(arguments) == 0
    names = ("stack", "region_name", "profile_name")
    assert deployed.reached == dict(zip(names, reached, strict=True))


def test_nothing_is_deployed_if_the_table_cannot_be_read(
    deployed: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: str) -> None:
        raise refusal("no permission", "AccessDeniedException")

    monkeypatch.setattr(deployed, "describe_table", refuse)
    with pytest.raises(SystemExit, match=r"no permission.*dynamodb:DescribeTable"):
        deploy.main([])
    assert not deployed.ran


projections = st.sampled_from(["ALL", "KEYS_ONLY"])
tables = st.dictionaries(st.sampled_from("abcd"), projections).map(
    lambda found: {
        name: {"IndexName": name, "KeySchema": [], "Projection": {"ProjectionType": projection}}
        for name, projection in found.items()
    }
)


@given(present=tables, wanted=tables)
def test_a_sequence_makes_one_change_a_step(
    present: deploy.Indexes, wanted: deploy.Indexes
) -> None:
    steps = [present, *deploy.sequence(present, wanted)]
    for before, after in pairwise(steps):
        assert len(before.keys() ^ after.keys()) == 1
        assert all(before[name] == after[name] for name in before.keys() & after.keys())
    assert steps[-1] == wanted


def test_git_does_not_track_what_sam_writes() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/samconfig.toml" in ignored
    assert "/packaged.json" in ignored
