"""Run targets of the Makefile at the same time, and print the lines of each as they come.

python -m tests.side_by_side TARGET …
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack


def main(targets: list[str]) -> int:
    """Run the targets to their ends; return 0 if all succeeded, else 1."""
    width = max(map(len, targets)) + 1
    # What is made does not know of the make that this runs in.
    columns = str(shutil.get_terminal_size().columns - width)
    environment = os.environ | {"MAKEFLAGS": "", "COLUMNS": columns}
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        runs = [
            stack.enter_context(
                subprocess.Popen(
                    ["make", "--no-print-directory", target],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    text=True,
                )
            )
            for target in targets
        ]
        for target, run in zip(targets, runs, strict=True):
            threads.submit(show, target.ljust(width), run.stdout or ())
    failed = [target for target, run in zip(targets, runs, strict=True) if run.returncode]
    for target in failed:
        print(f"make {target} failed: see the lines that begin with {target}.")
    return 1 if failed else 0


def show(prefix: str, lines: Iterable[str]) -> None:
    """Print each line after the prefix, as soon as it comes."""
    for line in lines:
        print(prefix + line, end="", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
