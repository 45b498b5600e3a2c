"""Deploy the real template on a local AWS, and keep it running for trials until Ctrl-C."""

from __future__ import annotations

import sys
import time
from typing import NoReturn

from tests.demo.screen import Screen, interrupts_end_it
from tests.demo.stage import Stage, set_stage
from tests.playground.guide import show_commands, write_setup
from tests.playground.log import Log

READ_EVERY = 0.5


def main() -> int:
    """Run the playground until it is interrupted; return 1 if it failed."""
    interrupts_end_it()
    screen = Screen()
    try:
        with set_stage(screen) as stage:
            stage.stack.invoke("RegisterWebhookFunctionName", {})
            show_guide(screen, stage)
            keep_up(screen, stage)
    except KeyboardInterrupt:
        screen.say("All that was started is stopped and removed.")
        return 0
    except RuntimeError as error:
        screen.say(f"The playground has failed: {error}")
        return 1


def show_guide(screen: Screen, stage: Stage) -> None:
    """Show the addresses, and commands to try."""
    stack = stage.stack
    screen.title("The stack is up. Ctrl-C ends it, and removes everything.")
    places = {
        "AWS": stage.aws.url,
        "Cloudflare": stage.server.base_url,
        "Table": stack.outputs["DownloadsTableName"],
        "Event bus": stack.outputs["EventBusName"],
        "Webhook": "",
    }
    screen.show("\n".join(f"  {name:<10}  {place}".rstrip() for name, place in places.items()))
    screen.show(f"  {stack.webhook_url}")
    screen.title("In another terminal (sh, bash or zsh), first:")
    screen.show(f"  . {write_setup(stage)}", "cyan")
    show_commands(screen)
    screen.tell(
        "\nplay guide shows these commands again, play --help what else there is. The AWS"
        " CLI calls the local AWS in that terminal. Below is what happens.\n"
    )


def keep_up(screen: Screen, stage: Stage) -> NoReturn:
    """Show each change, until an interrupt.

    Raises:
        RuntimeError: the emulator has ended.
    """
    log = Log(stage)
    while True:
        stage.aws.check()
        for line in log.news():
            screen.say(line)
        time.sleep(READ_EVERY)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
