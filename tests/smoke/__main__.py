"""``make smoke STACK=name``: proves a deployed stack with a clip of two seconds, in minutes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.demo.screen import ignore_interrupts, interrupts_end_it
from tests.smoke.cloudflare import Cloudflare
from tests.smoke.failure import Failed
from tests.smoke.run import Smoke
from tests.smoke.stack import DeployedStack

INTERRUPTED = 130


def main() -> int:
    """Run the smoke test; return 0 if the stack works and nothing is left over."""
    parser = argparse.ArgumentParser("make smoke STACK=", description=__doc__)
    parser.add_argument("stack", help="the name of the CloudFormation stack")
    parser.add_argument("--report", type=Path, default=Path("smoke-report.md"), metavar="FILE")
    arguments = parser.parse_args()
    interrupts_end_it()
    try:
        stack = DeployedStack.named(arguments.stack)
        authorization = stack.authorization()
        account_id = stack.parameters["CloudflareAccountId"]
        base_url = stack.parameters["CloudflareApiBaseUrl"]
        smoke = Smoke(Cloudflare(base_url, account_id, authorization), stack, say)
        secrets = {account_id, *(value.rpartition(" ")[2] for value in authorization.values())}
        return prove(smoke, arguments.report, secrets)
    except Failed as failure:
        return end(str(failure))
    except KeyboardInterrupt:
        return interrupted()


def prove(smoke: Smoke, path: Path, secrets: set[str]) -> int:
    """Run the test, clean up whatever happens, and write the report."""
    failure, was_interrupted = None, False
    try:
        try:
            smoke.run()
        except Failed as reason:
            failure = str(reason)
            say(f"{failure}.")
        except KeyboardInterrupt:
            was_interrupted = True
    finally:
        ignore_interrupts()
        say("Cleaning up: half a minute at most, in which signals are ignored ...")
        left = smoke.clean_up()
    for sentence in left:
        say(sentence)
    if smoke.report.notes:
        path.write_text(smoke.report.text({*secrets, *smoke.secrets()}), encoding="utf-8")
        say(f"{path} has Cloudflare's answers, without anything of yours: attach it to an issue.")
    if was_interrupted:
        return interrupted()
    if failure or left:
        return end(failure or "Something is left over")
    say(f"The stack works; {smoke.cloudflare.sent} requests were sent beside those of the stack.")
    say("The clips are deleted at Cloudflare. The row of the first stays in the table, as deleted.")
    return 0


def interrupted() -> int:
    """Print that the run was interrupted."""
    say("Interrupted.")
    return INTERRUPTED


def end(reason: str) -> int:
    """Print why the run has failed."""
    say(f"Failed: {reason}.")
    return 1


def say(line: str) -> None:
    """Print a line without buffering, also into a pipe."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
