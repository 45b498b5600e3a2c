"""``make smoke`` on a deployed stack: what it proves, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.e2e.deployed import ACCOUNT, Deployed
from tests.support.deployment import STACK
from tests.support.programs import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 240


@contextmanager
def smoke(deployed: Deployed, report: Path, stack: str = STACK) -> Iterator[subprocess.Popen[str]]:
    """Run the smoke test as its user does, with the region where only the AWS CLI looks for it."""
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_ENDPOINT_URL": deployed.stack.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": ".:layers/stream_downloads",
    }
    arguments = (stack, "--report", str(report))
    with program("smoke", *arguments, environment=environment) as process:
        yield process


def test_a_deployed_stack_is_proven_and_nothing_is_left_over(
    plain: Deployed, tmp_path: Path
) -> None:
    videos = set(plain.cloudflare.videos)
    report = tmp_path / "report.md"
    with smoke(plain, report) as process:
        while process.poll() is None:
            for (uid, kind), row in plain.stack.rows().items():
                if uid not in videos and row["status"] == "inprogress":
                    plain.pass_time(uid, kind, seconds=30)
            plain.poll()  # more often than its schedule
            time.sleep(0.5)
        assert process.stdout
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert "Waiting for its URL ...\n" in said
    assert "The stack works; " in said
    assert set(plain.cloudflare.videos) == videos
    text = report.read_text(encoding="utf-8")
    assert "## Create the audio of a silent video" in text
    for secret in (ACCOUNT.account_id, ACCOUNT.api_token):
        assert secret not in said + text


def test_a_run_that_is_ended_by_a_signal_cleans_up(plain: Deployed, tmp_path: Path) -> None:
    videos = set(plain.cloudflare.videos)
    rows = plain.stack.rows().keys()
    with smoke(plain, tmp_path / "report.md") as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("Waiting for its URL"):
                break
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        process.wait(SECONDS)
    assert process.returncode == 130, said
    assert said.endswith("Interrupted.\n")
    assert set(plain.cloudflare.videos) == videos
    (uid,) = {uid for uid, _ in plain.stack.rows().keys() - rows}
    assert plain.poll_until("deleted", uid)["status"] == "deleted"


def test_a_stack_that_is_not_there_is_named(plain: Deployed, tmp_path: Path) -> None:
    with smoke(plain, tmp_path / "report.md", stack="elsewhere") as process:
        assert process.stdout
        said = process.stdout.read()
    assert process.returncode == 1
    assert said.startswith("Failed: The stack elsewhere cannot be read: ")
    assert "Traceback" not in said
