"""Check that the Makefile sets up its environments on machines that lack something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.emulator import REPOSITORY


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def test_a_python_without_venv_is_told_in_one_sentence(tmp_path: Path) -> None:
    # As Debian divides Python: without python3-venv there is no such module.
    (tmp_path / "ensurepip.py").write_text("raise ModuleNotFoundError", encoding="utf-8")
    environment = tmp_path / "environment"
    settings = (f"VENV={environment}", f"PYTHON3={sys.executable}")
    made = make(*settings, f"{environment}/installed", PYTHONPATH=str(tmp_path))
    first, *rest = made.stderr.splitlines()
    assert "lacks its module venv. Install it first; on Debian and Ubuntu: apt-get inst" in first
    assert len(rest) == 1, made.stderr  # make's own line
    assert made.stdout == ""
    assert not environment.exists()


@pytest.mark.parametrize(
    ("exported", "used"), [({}, "stream-downloads"), ({"STACK": "another"}, "another")]
)
def test_the_stack_of_the_environment_is_used(exported: dict[str, str], used: str) -> None:
    assert make("--eval=show:; @echo $(STACK)", "show", **exported).stdout == f"{used}\n"


def test_what_is_imported_is_compiled_once() -> None:
    shown = make("--eval=show:; @printenv", "show", PYTHONDONTWRITEBYTECODE="1").stdout
    assert "PATH=" in shown
    assert "PYTHONDONTWRITEBYTECODE" not in shown


@pytest.mark.parametrize("variable", ["PIP_NO_CACHE_DIR", "UV_NO_CACHE"])
@pytest.mark.parametrize(("home", "printed"), [("/dev/null", "1\n"), ("{tmp_path}", "")])
def test_there_is_a_cache_if_the_home_can_be_written_to(
    variable: str, home: str, printed: str, tmp_path: Path
) -> None:
    home = home.format(tmp_path=tmp_path)
    assert make(f"--eval=show:; @printenv {variable}", "show", HOME=home).stdout == printed
