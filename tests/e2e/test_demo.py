"""Check the demo and the playground as they are run without a terminal, one beside the other."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.playground.guide import COMMANDS
from tests.support.deployment import SHARED_BUILD
from tests.support.emulator import REPOSITORY
from tests.support.programs import program

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a machine may have set, and the local AWS must not be reached by.
HOSTILE = {
    "AWS_PROFILE": "none-such",
    "HOME": "/dev/null",  # cannot be written to, not even by root
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "PIP_INDEX_URL": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "example.com",
}
FOLLOW = "play events"


def surroundings(scratch: Path) -> dict[str, str]:
    """Return the environment of a program, with that directory for what is temporary."""
    return os.environ | HOSTILE | {"TMPDIR": str(scratch)}


# What other tests may make meanwhile.
CACHES = ("__pycache__", ".coverage", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")


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


@dataclass
class Playground:
    """A running playground, and another terminal beside it.

    Attributes:
        process: the playground.
        scratch: the directory for what is temporary.
        lines: what it has shown, to which its log is added.
    """

    process: subprocess.Popen[str]
    scratch: Path
    lines: list[str]

    @property
    def setup(self) -> str:
        """Return the command for the other terminal that comes first."""
        return self.after("In another terminal")[0]

    def after(self, title: str) -> list[str]:
        """Return the commands under a title."""
        first = next(number for number, line in enumerate(self.lines) if line.startswith(title))
        commands = self.lines[first + 1 :]
        end = next(number for number, line in enumerate(commands) if not line.startswith("  "))
        return textwrap.dedent("\n".join(commands[:end])).splitlines()

    def terminal(self, *commands: str) -> subprocess.Popen[str]:
        """Run commands in another terminal, whose folder and settings are not the playground's."""
        return subprocess.Popen(
            ["sh", "-c", "\n".join([self.setup, *commands])],
            cwd="/",
            env=HOSTILE | {"PATH": "/usr/bin:/bin"},  # without the AWS CLI, most likely
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def answer(self, *commands: str) -> tuple[str, int]:
        """Run commands in another terminal; return what they wrote, and the last one's code."""
        with self.terminal(*commands) as terminal:
            return terminal.communicate()[0], terminal.returncode

    def shows(self, text: str) -> None:
        """Wait for a text in the log."""
        until = time.monotonic() + 60
        while not re.search(text, "\n".join(self.lines)):
            assert time.monotonic() < until, "\n".join(self.lines)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def of_the_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo's directory for what is temporary."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(of_the_demo: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the demo, which builds on its own, and is at work while the playground is tested."""
    environment = surroundings(of_the_demo)
    del environment[SHARED_BUILD]
    with program("demo", environment=environment) as process:
        yield process


@pytest.fixture(scope="module")
def playground(
    demo: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Playground]:
    """Start the playground, and wait until it has shown what to try."""
    assert demo.poll() is None
    scratch = tmp_path_factory.mktemp("playground")
    with program("playground", environment=surroundings(scratch)) as process:
        playground = Playground(process, scratch, [])
        assert process.stdout
        for line in process.stdout:
            playground.lines.append(line.rstrip("\n"))
            if "Below is what happens" in line:
                break
        rest = process.stdout
        reader = Thread(target=lambda: playground.lines.extend(line.rstrip("\n") for line in rest))
        reader.start()
        yield playground
        process.kill()
        reader.join()


def test_each_command_of_the_playground_works_as_it_is_shown(playground: Playground) -> None:
    assert playground.process.poll() is None, "\n".join(playground.lines)
    commands = [playground.after(purpose) for purpose, _ in COMMANDS]
    assert commands.pop() == [FOLLOW]
    follower = playground.terminal(FOLLOW)
    assert follower.stdout
    assert "Waiting for events" in follower.stdout.readline()
    lines = [line for block in commands for line in block]
    link = next(number for number, line in enumerate(lines) if '"link"' in line)
    # Only a ready download has a link; after a 429 the next run of the schedule would be a minute.
    poll = "play invoke PollDownloads >/dev/null"
    lines.insert(link, f"until {lines[link]} >/dev/null 2>&1; do {poll}; sleep 1; done")
    # The reconciliation finds the lost video alone only once the webhook of the other has come.
    find = lines.index("play invoke ReconcileLibrary")
    lines.insert(find, "until play table | grep -q talk.mp4; do sleep 1; done")
    written, code = playground.answer("set -e", *lines)
    assert code == 0, written
    assert "HTTP/1.1 200 OK" in written
    assert '"videos_requested": 1' in written
    assert re.search(r"\n[0-9a-f]{32}  default  \w+ .*\n  patient\.mp4", written)
    assert '"url": "https://' in written
    assert '"status": "deleting"' in written
    playground.shows(r"uploaded +talk\.mp4  [0-9a-f]{32}")
    playground.shows(r"webhook +talk\.mp4  answered 200")
    playground.shows(r"Cloudflare answered 429 to create download")
    playground.shows(r"ready +talk\.mp4 MP4  https://")
    os.killpg(follower.pid, signal.SIGINT)
    assert '"detail-type": "Download Ready"' in follower.communicate()[0]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("play uplod talk.mp4", "invalid choice: 'uplod'"),
        ("play upload x.mp4 --encode soon", "soon is not a time from 0 to 3600 seconds"),
        ("play invoke Manage", r"There is no function Manage\. There are: ManageDownloads, "),
        ("play invoke ManageDownloads '{'", "The payload is not JSON"),
        ('play invoke ManageDownloads \'{"action": "explode"}\'', "action has to be one of"),
        (
            'play invoke ManageDownloads \'{"action": "status", "video_uid": "mine"}\'',
            "video_uid has to be a video's uid",
        ),
        ("unset PLAYGROUND_CLOUDFLARE; play throttle 1", "PLAYGROUND_CLOUDFLARE is not set"),
        ("unset AWS_ENDPOINT_URL; play table", "AWS_ENDPOINT_URL is not set: read the file"),
    ],
)
def test_a_mistake_is_explained(playground: Playground, command: str, told: str) -> None:
    written, code = playground.answer(command)
    assert re.search(told, written), written
    assert code > 0
    assert "Traceback" not in written


def test_the_playground_survives_bad_requests_and_killed_functions(playground: Playground) -> None:
    answer = "curl -s -o /dev/null -w '%{http_code}'"
    assert playground.answer(f'{answer} "$WEBHOOK_URL" -d "{{"')[0] == "403"
    assert playground.answer(f'{answer} "$PLAYGROUND_CLOUDFLARE/videos" -d "[]"')[0] == "400"
    for process in Path("/proc").glob("[0-9]*"):
        known = _known_to(process)
        if b"ministack-lambda" in known and str(playground.scratch).encode() in known:
            os.kill(int(process.name), signal.SIGKILL)
    uid, code = playground.answer("play upload later.mp4 --broken")
    assert code == 0
    playground.shows(r"ReceiveWebhook: a webhook was answered 403: there is no Webhook-Signature")
    playground.shows(r"error +later\.mp4 MP4  ERR_NON_VIDEO")
    status = f'{{"action": "status", "video_uid": "{uid.strip()}"}}'
    written, _ = playground.answer(f"play invoke ManageDownloads '{status}'")
    assert json.loads(written)["downloads"][0]["status"] == "error"


def test_the_playground_ends_when_it_is_told_to(playground: Playground) -> None:
    setup = Path(playground.setup.removeprefix(". ")).read_text(encoding="utf-8")
    playground.process.send_signal(signal.SIGINT)
    assert playground.process.wait(60) == 0
    playground.shows("All that was started is stopped and removed")
    assert left_behind(playground.scratch) == []
    with subprocess.Popen(
        ["sh", "-c", f"{setup}\nplay table"], stderr=subprocess.PIPE, text=True
    ) as late:
        assert "start it again with make playground" in late.communicate()[1]


def test_the_demo_ends_well_in_plain_lines_and_leaves_nothing_behind(
    demo: subprocess.Popen[str], of_the_demo: Path
) -> None:
    shown, _ = demo.communicate()
    assert demo.returncode == 0, shown
    assert "\x1b" not in shown
    assert re.search(r"\n\d:\d\d  ready +teaser\.mp4 MP4  https://\S+/default\.mp4\n", shown)
    assert re.search(r"\n\d:\d\d  deleted +draft\.mp4 MP4\n", shown)
    assert '"detail-type": "Download Ready"' in shown
    assert "Next: make playground" in shown.splitlines()[-1]
    assert left_behind(of_the_demo) == []


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    before = in_the_repository()
    with program("demo", environment=surroundings(tmp_path)) as process:
        assert process.stdout
        for line in process.stdout:
            if "sam deploy" in line:
                process.send_signal(signal.SIGINT)
                break
        process.communicate()
    assert process.returncode == 130
    assert left_behind(tmp_path) == []
    assert in_the_repository() == before
