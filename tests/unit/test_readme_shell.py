"""Run the README's shell functions with an ``aws`` that records its arguments."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.documents import SHELLS, block

# Answers as AWS CLI 2 does, with the metadata on standard output and the payload in the file.
AWS: Final = """#!/bin/sh
case "$1 $2" in
"cloudformation describe-stacks") echo stack-Function-1 ;;
"lambda invoke")
    for argument; do
        printf '%s\\n' "$argument" >> "$RECORD"
        answer=$argument
    done
    [ "$FAILS" != access ] || { echo AccessDenied >&2; exit 254; }
    printf '%s' '{"rows": 1}' > "$answer"
    [ "$FAILS" = function ] && echo Unhandled || echo None ;;
esac
"""


def functions() -> str:
    """Return the README's block that defines ``output`` and ``invoke``."""
    return block("README.md", "sh", "invoke() (")


def run(
    shell: str, command: str, directory: Path, fails: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command after the README's functions; give its end and the arguments of ``aws``."""
    aws = directory / "aws"
    aws.write_text(AWS, encoding="utf-8")
    aws.chmod(0o755)
    record = directory / "record"
    (directory / "temporary").mkdir()
    environment = {
        "FAILS": fails,
        "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}",
        "RECORD": str(record),
        "TMPDIR": str(directory / "temporary"),
    }
    process = subprocess.run(
        [shell, "-c", f"{functions()}\n{command}"],
        env=environment,
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=60,
    )
    assert not list((directory / "temporary").iterdir())
    return process, record.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("document", ["README.md", "docs/packaged-template.md"])
def test_both_variables_of_the_region_are_set(shell: str, document: str) -> None:
    """Show that no ``export`` uses a variable which the same one sets."""
    exporting = block(document, "sh", "export AWS_REGION=").splitlines()
    exports = "\n".join(line for line in exporting if line.startswith("export "))
    command = f'{exports}\nprintf "%s %s" "$AWS_REGION" "$AWS_DEFAULT_REGION"'
    said = subprocess.run([shell, "-c", command], env={}, capture_output=True, check=True)
    assert said.stdout == b"us-east-1 us-east-1"


@pytest.mark.parametrize("shell", SHELLS)
def test_invoke_prints_the_answer_alone(shell: str, tmp_path: Path) -> None:
    payload = '{"action": "status", "video_uid": "a b"}'
    process, arguments = run(shell, f"invoke ManageDownloads '{payload}'", tmp_path)
    assert process.returncode == 0
    assert process.stderr == ""
    assert json.loads(process.stdout) == {"rows": 1}
    assert arguments[arguments.index("--payload") + 1] == payload
    assert arguments[arguments.index("--function-name") + 1] == "stack-Function-1"
    assert arguments[arguments.index("--cli-binary-format") + 1] == "raw-in-base64-out"


@pytest.mark.parametrize("shell", SHELLS)
def test_invoke_sends_an_empty_object_by_default(shell: str, tmp_path: Path) -> None:
    _, arguments = run(shell, "invoke RegisterWebhook", tmp_path)
    assert arguments[arguments.index("--payload") + 1] == "{}"


@pytest.mark.parametrize("shell", SHELLS)
def test_invoke_fails_with_the_function_and_shows_its_error(shell: str, tmp_path: Path) -> None:
    process, _ = run(shell, "invoke PollDownloads", tmp_path, fails="function")
    assert process.returncode == 1
    assert json.loads(process.stdout)


@pytest.mark.parametrize("shell", SHELLS)
def test_invoke_fails_with_the_cli(shell: str, tmp_path: Path) -> None:
    process, _ = run(shell, "invoke PollDownloads", tmp_path, fails="access")
    assert process.returncode == 254
    assert process.stdout == ""
    assert process.stderr == "AccessDenied\n"
