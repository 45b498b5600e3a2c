"""Start a local AWS to deploy on, and remove all of it at the end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import urllib3

from tests.support.guard import guarded

REPOSITORY = Path(__file__).parents[2]
# It has its own environment, because functions run under its interpreter and see its packages.
PROGRAM = REPOSITORY / ".venv-emulator/bin/ministack"
START_SECONDS = 30.0
LOG_LINES = 40


@dataclass(frozen=True, slots=True)
class Emulator:
    """Holds a running emulator.

    Attributes:
        url: its address, for ``endpoint_url``.
        directory: for its files; removed when it ends.
        log: its output, opened for reading, also after the directory is removed.
        process: ends when the emulator ends, with the same exit code.
    """

    url: str
    directory: Path
    log: IO[bytes]
    process: subprocess.Popen[bytes]

    def check(self) -> None:
        """Check that it still runs.

        Raises:
            RuntimeError: it has ended, and its directory is removed.
        """
        if self.process.poll() is not None:
            raise RuntimeError("The local AWS is gone.")

    def last_lines(self) -> str:
        """Return the end of the emulator's output, for a message about a failure."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.2)  # a failure may be its end
        code = self.process.returncode
        ended = "" if code is None else f"the emulator has ended with code {code}; "
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"{ended}the emulator's last lines:", *(lines or ["(none)"])])


@contextmanager
def emulator(*, enforce_iam: bool = False) -> Iterator[Emulator]:
    """Run an emulator on a free port until the block ends.

    Args:
        enforce_iam: whether a function may do only what its role allows; then CloudTrail records
            every call.

    Raises:
        RuntimeError: it did not start; the message ends with its last lines.
    """
    if not PROGRAM.exists():
        message = f"{PROGRAM} is missing: make {PROGRAM.parents[1].name}/installed"
        raise RuntimeError(message)
    directory = Path(tempfile.mkdtemp(prefix="stream-downloads-"))
    log = directory / "emulator.log"
    port = _free_port()
    # None of this machine's credentials, proxies and Python settings.
    environment = {
        "AUTH": str(enforce_iam).lower(),
        "BIND_HOST": "127.0.0.1",
        "CLOUDTRAIL_RECORDING": str(int(enforce_iam)),
        "GATEWAY_PORT": str(port),
        "HOME": str(directory),
        "IOT_MTLS_ENABLED": "0",
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(directory),
    }
    try:
        with (
            log.open("wb") as output,
            log.open("rb") as written,
            guarded(
                [str(PROGRAM)], directory=directory, environment=environment, output=output
            ) as process,
        ):
            running = Emulator(f"http://127.0.0.1:{port}", directory, written, process)
            _await_start(running)
            yield running
    finally:
        # The guard removes it. If the emulator ends too early, another process may create it again.
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port


def _await_start(starting: Emulator) -> None:
    deadline = time.monotonic() + START_SECONDS
    while starting.process.poll() is None and time.monotonic() < deadline:
        with suppress(urllib3.exceptions.HTTPError):
            health = f"{starting.url}/_ministack/health"
            if urllib3.request("GET", health, timeout=1, retries=False).status == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{PROGRAM.name} did not start; {starting.last_lines()}")
