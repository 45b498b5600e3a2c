"""Run the demo without a terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.emulator import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def demo(scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo, with that directory for what is temporary."""
    with subprocess.Popen(
        [sys.executable, "-B", "-m", "tests.demo"],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process


# What other tests may make meanwhile.
CACHES = (".coverage", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")


def in_the_repository() -> set[str]:
    """Return the names in the repository's folder, without the caches of tests and tools."""
    return {path.name for path in REPOSITORY.iterdir() if not path.name.startswith(CACHES)}


def left_behind(scratch: Path) -> list[str]:
    """Return the files in that directory, and the processes that know it."""
    return [str(path) for path in scratch.iterdir()] + [
        str(process)
        for process in Path("/proc").glob("[0-9]*")
        if str(scratch).encode() in _known_to(process)
    ]


def _known_to(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def test_the_demo_ends_well_in_plain_lines_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = in_the_repository()
    with demo(tmp_path) as process:
        shown, _ = process.communicate()
    assert process.returncode == 0, shown
    assert "\x1b" not in shown
    assert re.search(r"\n\d:\d\d  ready +teaser\.mp4 MP4  https://\S+/default\.mp4\n", shown)
    assert re.search(r"\n\d:\d\d  deleted +draft\.mp4 MP4\n", shown)
    assert '"detail-type": "Download Ready"' in shown
    assert left_behind(tmp_path) == []
    assert in_the_repository() == before


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        assert process.stdout
        for line in process.stdout:
            if "sam deploy" in line:
                process.send_signal(signal.SIGINT)
                break
        process.communicate()
    assert process.returncode == 130
    assert left_behind(tmp_path) == []
