"""Check that a deployment has the defaults of today and what its owner chose."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

import deploy
from tests.support.emulator import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

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
Ran = list[list[str]]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Deploy from a folder of the test's; give the arguments of each ``sam deploy``."""
    (tmp_path / "template.yaml").write_text(TEMPLATE, encoding="utf-8")
    monkeypatch.setattr(deploy, "ROOT", tmp_path)
    seen: Ran = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["sam", "deploy"]
        seen.append(command[2:])
        if "--guided" in command:
            write(tmp_path, SAVED.format(limit=700))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def write(directory: Path, text: str) -> None:
    (directory / "samconfig.toml").write_text(text, encoding="utf-8")


def overrides(arguments: list[str]) -> list[str]:
    return arguments[arguments.index("--parameter-overrides") + 1 :]


def test_a_later_default_reaches_what_its_owner_left_open(ran: Ran, tmp_path: Path) -> None:
    write(tmp_path, SAVED.replace(' Limit=\\"{limit}\\"', ""))
    assert deploy.main([]) == 0
    assert set(overrides(ran[0])) == {'Account="abc"', 'Limit="700"', 'Topic=""'}


def test_what_its_owner_chose_stays(ran: Ran, tmp_path: Path) -> None:
    write(tmp_path, SAVED.format(limit=300))
    deploy.main([])
    assert 'Limit="300"' in overrides(ran[0])
    assert 'Limit="700"' not in overrides(ran[0])


def test_overrides_on_the_command_line_are_all_there_is(ran: Ran, tmp_path: Path) -> None:
    write(tmp_path, SAVED.format(limit=300))
    deploy.main(["--parameter-overrides", 'Limit="1"'])
    assert overrides(ran[0]) == ['Limit="1"']


@pytest.mark.parametrize("arguments", [[], ["--guided"]])
def test_the_first_deployment_asks_and_forgets_defaults(
    ran: Ran, tmp_path: Path, arguments: list[str]
) -> None:
    deploy.main(arguments)
    assert "--guided" in ran[0]
    assert ran[0][ran[0].index("--stack-name") + 1] == "stream-downloads"
    saved = deploy.saved_in(tmp_path / "samconfig.toml", "default")
    assert saved == {
        "stack_name": "mine",
        "resolve_s3": True,
        "parameter_overrides": 'Account="abc"',
    }
    assert "# Mine." in (tmp_path / "samconfig.toml").read_text(encoding="utf-8")


def test_asking_again_keeps_the_name(ran: Ran, tmp_path: Path) -> None:
    write(tmp_path, SAVED.format(limit=300))
    deploy.main(["--guided"])
    assert "--stack-name" not in ran[0]


def test_git_does_not_track_what_sam_writes() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/samconfig.toml" in ignored
    assert "/packaged.json" in ignored
