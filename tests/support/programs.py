"""Runs a program of the project as its user does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.support.emulator import REPOSITORY


@contextmanager
def program(
    name: str, *arguments: str, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run a module of ``tests`` at most until the block ends.

    Args:
        name: the module's, after ``tests.``.
        arguments: of the program.
        environment: the program's whole environment.

    Yields:
        The process; its errors are in its output, and it has no input.
    """
    with subprocess.Popen(
        [sys.executable, "-B", "-m", f"tests.{name}", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # its guards end the rest
