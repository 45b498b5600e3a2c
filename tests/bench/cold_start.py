"""Measure a cold start of ``receive_webhook`` next to boto3 alone, and the size of the layer.

Both are the CPU time of a new process from its first statement on, with compiled bytecode. They are
measured in turns, so that other load on the machine affects both.

Run it with ``make bench``, which builds first.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

from tests.support.deployment import SETTINGS
from tests.support.emulator import REPOSITORY
from tests.support.template import environment

BUILD = REPOSITORY / ".aws-sam/build"
LAYER = BUILD / "StreamDownloadsLayer"

ROUNDS = 25
MOST_RATIO = 1.15
MOST_BYTES = 10_000_000

BOTO3 = "import boto3; boto3.client('dynamodb'); boto3.client('secretsmanager')"
FUNCTION = "import app"


def main() -> int:
    """Measure and print the results; return 1 if one is over its limit."""
    size = sum(path.stat().st_size for path in LAYER.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as bytecode:
        for _ in range(2):  # the first time compiles
            seconds(BOTO3, bytecode)
            seconds(FUNCTION, bytecode)
        print(f"Import and initialisation, {ROUNDS} fresh processes each, in turns:")
        rounds = [(seconds(BOTO3, bytecode), seconds(FUNCTION, bytecode)) for _ in range(ROUNDS)]
    boto3, function = zip(*rounds, strict=True)
    for name, taken in (("boto3 with two clients", boto3), ("receive_webhook", function)):
        print(
            f"  {name:<24}{1000 * min(taken):6.0f} ms at least"
            f"{1000 * statistics.median(taken):6.0f} ms median"
        )
    ratio = min(function) / min(boto3)
    of_medians = statistics.median(function) / statistics.median(boto3)
    print(f"  ratio {ratio:.2f} (of the medians {of_medians:.2f}), at most {MOST_RATIO}")
    print(f"The layer, unzipped: {size / 1e6:.1f} MB, less than {MOST_BYTES / 1e6:.0f} MB")
    return int(ratio > MOST_RATIO or size >= MOST_BYTES)


def seconds(statements: str, bytecode: str) -> float:
    """Return the CPU seconds that the statements take in a new process."""
    # As on Lambda: first the function, then the layer, then what the runtime has.
    path = os.pathsep.join([str(BUILD / "ReceiveWebhookFunction"), str(LAYER / "python")])
    program = f"""
import time
start = time.process_time()
{statements}
print(time.process_time() - start)
"""
    measured = subprocess.run(
        [sys.executable, "-c", program],
        env=environment() | SETTINGS | {"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": bytecode},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(measured.stdout)


if __name__ == "__main__":
    sys.exit(main())
