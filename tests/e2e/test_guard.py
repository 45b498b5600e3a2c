"""Check that nothing which the tests or the demo start outlives them, and that its end is told."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.demo import __main__ as demo
from tests.demo import stage
from tests.support import emulator as emulator_module
from tests.support.emulator import REPOSITORY, emulator
from tests.support.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WILLING = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("started", flush=True)
child.wait()
"""
# An emulator that answers once, that it is well.
DIES_YOUNG = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
with http.server.HTTPServer(("127.0.0.1", int(os.environ["GATEWAY_PORT"])), Handler) as server:
    server.handle_request()
sys.exit(print("no space left") or 4)
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


def test_an_interrupt_waits_until_all_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "of-the-command"
    directory.mkdir()
    running = guarded([sys.executable, "-c", STUBBORN], directory=directory)
    guard = running.__enter__()
    guard.send_signal(signal.SIGSTOP)  # it is slow to end
    threading.Timer(1.0, guard.send_signal, [signal.SIGCONT]).start()
    running.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not directory.exists()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return what has a shell script take the emulator's place."""

    def replace(script: str) -> None:
        path = tmp_path / "ministack"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setattr(emulator_module, "PROGRAM", path)

    return replace


def test_an_emulator_that_cannot_start_shows_its_last_lines(
    program: Callable[[str], None],
) -> None:
    program("echo the port is taken; exit 3")
    with pytest.raises(RuntimeError, match=r"ended with code 3; .*\n.*the port is taken"):
        emulator().__enter__()


def test_an_emulator_that_ends_too_early_shows_its_last_lines(
    program: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directories = []

    def build(directory: Path) -> Path:
        while directory.exists():
            time.sleep(0.01)
        directory.mkdir()
        directories.append(directory)
        return (directory / "template.yaml").resolve(strict=True)

    program(f"exec {sys.executable} -c '{DIES_YOUNG}'")
    monkeypatch.setattr(stage, "build", build)
    monkeypatch.setattr(demo, "interrupts_end_it", lambda: None)
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert demo.main() == 1
    shown = capsys.readouterr().out
    assert "the emulator has ended with code 4; the emulator's last lines:\n" in shown
    assert shown.endswith("\nno space left\n")
    assert not directories[0].exists()
