"""Run a command that ends, with all that it started, as soon as its owner ends.

The guard is a process between the owner and the command. It holds one end of a pipe; the other end
closes when the owner closes it or dies. Then the guard kills the command's whole process group, and
removes its directory if it has one. The command is not asked to end first: all its files are in
that directory, and the emulator would take up to ten seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO


@contextmanager
def guarded(
    command: Sequence[str],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command at most until the block ends.

    Args:
        command: the program and its arguments.
        directory: removed after the command's end, with all that is in it.
        environment: the command's whole environment; None for this process's own.
        output: where its output and its errors go, as for ``subprocess``; ``PIPE`` to read them.

    Yields:
        The guard's process: it ends when the command does, with the same code.
    """
    with subprocess.Popen(
        [sys.executable, __file__, str(directory or ""), *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        env=environment,
        # An interrupt from the keyboard reaches the owner alone, which then ends things in order.
        start_new_session=True,
    ) as guard:
        try:
            yield guard
        finally:
            # An interrupted `Popen` waits for a quarter of a second at most.
            if guard.stdin:
                guard.stdin.close()
            guard.wait()


def main() -> int:
    """Run as the guard: ``python guard.py DIRECTORY-OR-NOTHING COMMAND …``."""
    directory, *command = sys.argv[1:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_kill_after_owner, args=[process], daemon=True).start()
    code = process.wait()
    _kill(process)  # processes that it started may still run
    if directory:
        _remove(Path(directory))
    return code


def _remove(directory: Path) -> None:
    """Remove a directory, its subdirectories in parallel: there are thousands of files."""
    remove = partial(shutil.rmtree, ignore_errors=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(remove, [*directory.glob("*/")]))
    remove(directory)


def _kill_after_owner(process: subprocess.Popen[bytes]) -> None:
    os.read(sys.stdin.fileno(), 1)  # the owner writes nothing: this returns when it closes
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
