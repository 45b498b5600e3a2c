"""``make demo``: the real template, deployed on a local AWS, turns webhooks into working URLs."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.demo.play import play
from tests.demo.report import show_report
from tests.demo.screen import Screen
from tests.demo.stage import deploy_for
from tests.simulator import SimulatorServer
from tests.support.deployment import build
from tests.support.emulator import emulator

INTRODUCTION = """\
Cloudflare Stream tells when a video is ready, but not when its download is.
This stack finds out, and keeps each URL that works in a DynamoDB table: watch it, on this machine.
"""
INTERRUPTED = 130


def main() -> int:
    """Run the demo; 0 if everything ended as it should."""
    parser = argparse.ArgumentParser("python -m tests.demo", description=__doc__)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="save the screen as an SVG")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    screen = Screen()
    try:
        complaints = demonstrate(screen)
    except KeyboardInterrupt:
        screen.say("Interrupted. All that was started is stopped and removed.")
        return INTERRUPTED
    for complaint in complaints:
        screen.say(f"Not as it should be: {complaint}")
    if complaints:
        return 1
    screen.say("Every row ended as it should. Nothing is left running, no file is left behind.")
    if arguments.picture:
        screen.save(arguments.picture)
    return 0


def demonstrate(screen: Screen) -> list[str]:
    """Build, deploy, play, report, and take everything down; all that went wrong."""
    screen.show(INTRODUCTION)
    with ExitStack() as stage:
        with screen.working("Starting a local AWS and a simulated Cloudflare Stream"):
            aws = stage.enter_context(emulator())
            server = stage.enter_context(SimulatorServer())
        try:
            with screen.working("Building the functions and their layer: sam build"):
                template = build(aws.directory)
            with screen.working("Deploying template.yaml to the local AWS: sam deploy"):
                stack = deploy_for(server, aws.url, template)
            ending = play(screen, server, stack)
        except (AssertionError, RuntimeError) as error:
            return [str(error), aws.last_lines()]
        if not ending.complaints:
            show_report(screen, server.simulator, stack, ending)
        with screen.working("Taking everything down"):
            stage.close()
    return ending.complaints


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
