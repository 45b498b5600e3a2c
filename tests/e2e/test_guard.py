"""Nothing that the tests or the demo start outlives them."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.emulator import REPOSITORY

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
from tests.guard import guarded
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
