"""Check that nothing that the tests or the demo start outlives them."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import emulator as emulator_module
from tests.support.emulator import REPOSITORY, emulator

if TYPE_CHECKING:
    from pathlib import Path

WILLING = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("started", flush=True)
child.wait()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + WILLING
OWNER = """
import sys
from pathlib import Path
from tests.support.guard import guarded
with guarded([sys.executable, "-c", sys.argv[2]], directory=Path(sys.argv[1])) as guard:
    guard.wait()
"""


@pytest.mark.parametrize(
    ("end", "command"),
    [(signal.SIGINT, WILLING), (signal.SIGTERM, WILLING), (signal.SIGKILL, STUBBORN)],
)
def test_a_guarded_command_ends_with_its_owner(
    end: signal.Signals, command: str, tmp_path: Path
) -> None:
    directory = tmp_path / "of-the-command"
    directory.mkdir()
    (directory / "file").touch()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory), command],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "started\n"
        owner.send_signal(end)
        # All of them hold this pipe: it ends when the last of them does.
        assert owner.stdout.read() == ""
    assert not directory.exists()


def test_an_emulator_that_cannot_start_shows_its_last_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "ministack"
    program.write_text("#!/bin/sh\necho the port is taken\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(emulator_module, "PROGRAM", program)
    with pytest.raises(RuntimeError, match="the port is taken"), emulator():
        pass
