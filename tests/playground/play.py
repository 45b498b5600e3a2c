"""Try things out in the playground: upload videos, invoke functions, read the table and events."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import urllib3
from botocore.exceptions import BotoCoreError, ClientError

from tests.demo.screen import Screen, interrupts_end_it, outcome
from tests.demo.stage import Subscriber, rows_of
from tests.playground.guide import show_commands
from tests.support.deployment import Stack, deployed_at

EVENTS = ("Download Ready", "Download Failed", "Download Deleted")
ENDED = (
    "The playground does not answer at {address}. If it has ended, start it again with make"
    " playground, and read the new file that it names."
)


class Mistake(Exception):
    """A command is wrong; the text says why and what to do."""


def main() -> int:
    """Run one command; return 0 if it succeeded."""
    arguments = vars(parser().parse_args())
    command = arguments.pop("command")
    interrupts_end_it()
    address = os.environ.get("AWS_ENDPOINT_URL", "")
    try:
        command(**arguments)
    except (BrokenPipeError, KeyboardInterrupt):
        return 0
    except (BotoCoreError, urllib3.exceptions.HTTPError):
        return _failed(ENDED.format(address=address))
    except (ClientError, Mistake) as error:
        return _failed(str(error))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    play = argparse.ArgumentParser("play", description=__doc__)
    commands = play.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("upload", help="upload a video and print its uid")
    one.add_argument("name", help="its file name, such as talk.mp4")
    one.add_argument("--lose-webhook", action="store_true", help="no webhook tells of it")
    one.add_argument("--private", action="store_true", help="its URL needs a signed link")
    one.add_argument("--broken", action="store_true", help="Cloudflare fails to encode it")
    one.add_argument(
        "--encode", type=_seconds, default=1.0, metavar="SECONDS", help="until it is ready (1)"
    )
    one.add_argument(
        "--generate", type=_seconds, default=5.0, metavar="SECONDS", help="for a download (5)"
    )
    one.set_defaults(command=upload)

    one = commands.add_parser("throttle", help="have Cloudflare answer 429 for a while")
    one.add_argument("seconds", type=_seconds, help="for how long; 0 ends it")
    one.set_defaults(command=throttle)

    one = commands.add_parser("invoke", help="invoke a function and print its answer")
    one.add_argument("function", help="such as ManageDownloads")
    one.add_argument("payload", nargs="?", default="{}", help="its event, a JSON object ({})")
    one.set_defaults(command=invoke)

    one = commands.add_parser("guide", help="show commands to try")
    one.set_defaults(command=lambda: show_commands(Screen()))
    one = commands.add_parser("table", help="print the downloads table")
    one.set_defaults(command=table)
    one = commands.add_parser("events", help="follow the events on the bus until Ctrl-C")
    one.set_defaults(command=events)
    one = commands.add_parser("secret", help="print the secret that signs webhooks")
    one.set_defaults(command=secret)
    return play


def upload(
    name: str, *, lose_webhook: bool, private: bool, broken: bool, encode: float, generate: float
) -> None:
    """Upload a video to the simulated Cloudflare, and print its uid."""
    described = {
        "name": name,
        "private": private,
        "error_code": "ERR_NON_VIDEO" if broken else None,
        "webhook_delays": [] if lose_webhook else None,
        "encode_seconds": encode,
        "generation_seconds": generate,
    }
    print(_simulator("/videos", described)["uid"])


def throttle(seconds: float) -> None:
    """Have the simulated Cloudflare answer every request with 429 for a time."""
    _simulator("/throttle", {"seconds": seconds})
    until = datetime.fromtimestamp(time.time() + seconds, UTC)
    print(f"Cloudflare answers 429 until {until:%H:%M:%S} UTC." if seconds else "No more 429.")


def invoke(function: str, payload: str) -> None:
    """Invoke a function, and print its answer."""
    try:
        event = json.loads(payload)
    except ValueError as error:
        raise Mistake(f"The payload is not JSON: {error}. Put it between single quotes.") from error
    stack = _stack()
    suffix = "FunctionName"
    names = [output.removesuffix(suffix) for output in stack.outputs if output.endswith(suffix)]
    if function not in names:
        raise Mistake(f"There is no function {function}. There are: {', '.join(sorted(names))}.")
    answer = stack.client("lambda").invoke(
        FunctionName=stack.outputs[function + suffix], Payload=json.dumps(event)
    )
    content = json.loads(answer["Payload"].read())
    if "FunctionError" in answer:
        raise Mistake(f"{function} failed: {content.get('errorMessage', content)}")
    print(json.dumps(content, indent=2))


def table() -> None:
    """Print every row of the downloads table: its key and status, then its URL or its error."""
    rows = sorted(rows_of(_stack()).items(), key=lambda item: item[1]["requested_at"])
    for key, row in rows:
        percent = f"{row['percent_complete']:.0f} %" if "percent_complete" in row else ""
        print(f"{key.video_uid}  {key.download_type:<7}  {row['status']:<10}  {percent:>5}")
        print(f"  {row.get('name', '')}  {outcome(row)}".rstrip())
    print(f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}")


def events() -> None:
    """Print the events of the stack's bus as they come."""
    subscriber = Subscriber.to(_stack(), f"playground-{uuid.uuid4()}", *EVENTS)
    print("Waiting for events; Ctrl-C ends this.", file=sys.stderr)
    try:
        while True:
            for event in subscriber.receive():
                print(json.dumps(event, indent=2), flush=True)
            time.sleep(0.5)
    finally:
        subscriber.end()


def secret() -> None:
    """Print the secret that signs webhooks."""
    stack = _stack()
    answer = stack.client("secretsmanager").get_secret_value(
        SecretId=stack.outputs["WebhookSecretArn"]
    )
    print(json.loads(answer["SecretString"])["webhook_secret"])


def _stack() -> Stack:
    return deployed_at(_variable("AWS_ENDPOINT_URL"))


def _simulator(path: str, given: dict[str, Any]) -> Any:
    """Return the answer of the simulator's test API."""
    answer = urllib3.request(
        "POST", _variable("PLAYGROUND_CLOUDFLARE") + path, json=given, timeout=10, retries=False
    )
    if answer.status != 200:
        raise Mistake(f"The simulated Cloudflare refuses this: {answer.json()['error']}.")
    return answer.json()


def _variable(name: str) -> str:
    if name not in os.environ:
        raise Mistake(f"{name} is not set: read the file that make playground names, with a dot.")
    return os.environ[name]


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not a time from 0 to 3600 seconds")


def _failed(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
