"""Deploy the real template on a local AWS, and show how webhooks become working URLs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.demo.play import play
from tests.demo.report import show_report
from tests.demo.screen import Screen, interrupts_end_it
from tests.demo.stage import set_stage

INTRODUCTION = (
    "Cloudflare Stream tells when a video is ready, but not when its download is. This stack finds"
    " out, and keeps each URL that works in a DynamoDB table: watch it, on this machine."
)
NEXT = (
    "Next: make playground keeps such a stack up for you to try things out; the section Deploy of"
    " README.md brings it into your AWS account."
)
INTERRUPTED = 130


def main() -> int:
    """Run the demo; return 0 if everything ended as it should."""
    parser = argparse.ArgumentParser("python -m tests.demo", description=__doc__)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="save the screen as an SVG")
    arguments = parser.parse_args()
    interrupts_end_it()
    screen = Screen()
    try:
        complaints = demonstrate(screen)
    except KeyboardInterrupt:
        screen.say("Interrupted. All that was started is stopped and removed.")
        return INTERRUPTED
    except RuntimeError as error:
        complaints = [str(error)]
    for complaint in complaints:
        screen.say(f"Not as it should be: {complaint}")
    if complaints:
        return 1
    screen.say("Every row ended as it should. Nothing is left running, no file is left behind.")
    if arguments.picture:
        screen.save(arguments.picture)
    screen.tell(f"\n{NEXT}")
    return 0


def demonstrate(screen: Screen) -> list[str]:
    """Build, deploy, play, report, and take everything down; return all that went wrong."""
    screen.tell(f"{INTRODUCTION}\n")
    with set_stage(screen) as stage:
        ending = play(screen, stage.server, stage.stack)
        if not ending.complaints:
            show_report(screen, stage.server.simulator, stage.stack, ending)
    return ending.complaints


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
