"""Start a local AWS to deploy on, and end it without a trace."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import urllib3

from tests.support.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
# An environment of its own: functions run under this interpreter and see its packages.
PROGRAM = REPOSITORY / ".venv-emulator/bin/ministack"
START_SECONDS = 30.0
LOG_LINES = 40


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator.

    Attributes:
        url: its address, for ``endpoint_url``.
        directory: for whatever belongs to it; removed with it.
        log: its output, opened to be read: it can be read after the directory is gone.
    """

    url: str
    directory: Path
    log: IO[bytes]

    def last_lines(self) -> str:
        """Return the end of the emulator's output, for a message about a failure."""
        lines = self.log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(["the emulator's last lines:", *lines])


@contextmanager
def emulator(*, enforce_iam: bool = False) -> Iterator[Emulator]:
    """Run an emulator on a free port until the block ends.

    Args:
        enforce_iam: whether a function may do only what its role allows.

    Raises:
        RuntimeError: it did not start; the message ends with its last lines.
    """
    if not PROGRAM.exists():
        message = f"{PROGRAM} is missing: make {PROGRAM.parents[1].name}/installed"
        raise RuntimeError(message)
    directory = Path(tempfile.mkdtemp(prefix="stream-downloads-"))
    log = directory / "emulator.log"
    port = _free_port()
    # Nothing of this machine's own: no credentials, no proxies, no Python settings.
    environment = {
        "AUTH": str(enforce_iam).lower(),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "HOME": str(directory),
        "IOT_MTLS_ENABLED": "0",
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(directory),
    }
    with (
        log.open("wb") as output,
        log.open("rb") as written,
        guarded(
            [str(PROGRAM)], directory=directory, environment=environment, output=output
        ) as process,
    ):
        running = Emulator(f"http://127.0.0.1:{port}", directory, written)
        _await_start(running, process)
        try:
            yield running
        finally:
            # Ends its functions' processes in order; the guard ends them in any case.
            with suppress(urllib3.exceptions.HTTPError):
                urllib3.request("POST", f"{running.url}/_ministack/reset", timeout=5, retries=False)


def _free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port


def _await_start(starting: Emulator, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(urllib3.exceptions.HTTPError):
            health = f"{starting.url}/_ministack/health"
            if urllib3.request("GET", health, timeout=1, retries=False).status == 200:
                return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break
    raise RuntimeError(f"{PROGRAM.name} did not start; {starting.last_lines()}")
