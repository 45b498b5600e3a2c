"""Write commands to try in another terminal, and the file that sets up that terminal."""

from __future__ import annotations

import shlex
import sys
import textwrap
from pathlib import Path

from tests.demo.screen import Screen
from tests.demo.stage import Stage
from tests.support.deployment import SETTINGS
from tests.support.emulator import REPOSITORY

# Each command works as it is in sh, bash and zsh, after those above it.
COMMANDS = (
    (
        "Upload a video, then one whose webhook gets lost; find the lost one",
        """\
uid=$(play upload talk.mp4)
play upload lost.mp4 --lose-webhook
play invoke ReconcileLibrary""",
    ),
    (
        "Have Cloudflare answer 429 for 15 seconds, and need it meanwhile",
        """\
play throttle 15
play upload patient.mp4""",
    ),
    (
        "Send a webhook by hand, signed with openssl (that of $uid again)",
        """\
body='{"uid": "'$uid'", "readyToStream": true, "status": {"state": "ready"}}'
at=$(date +%s); key=$(play secret)
sig=$(printf %s.%s "$at" "$body" | openssl dgst -sha256 -hmac "$key")
curl -i "$WEBHOOK_URL" -d "$body" \\
  -H "Webhook-Signature: time=$at,sig1=${sig##* }"
""",
    ),
    (
        "Read the table, as a consumer does",
        """\
play table
aws dynamodb scan --table-name "$TABLE" --output text \\
  --query 'Items[].[name.S, download_type.S, status.S, url.S]'""",
    ),
    (
        "Ask for more, and ask why; poll now instead of at the next full minute",
        """\
play invoke ManageDownloads \\
  '{"action": "request", "video_uid": "'$uid'", "download_types": ["audio"]}'
play invoke ManageDownloads '{"action": "status", "video_uid": "'$uid'"}'
play invoke PollDownloads
play invoke ManageDownloads '{"action": "check"}'
play invoke ManageDownloads '{"action": "link", "video_uid": "'$uid'"}'
play invoke ManageDownloads '{"action": "delete", "video_uid": "'$uid'"}'""",
    ),
    ("Follow the events on the bus, until Ctrl-C (in a third terminal)", "play events"),
)


def show_commands(screen: Screen) -> None:
    """Show the commands, each with its purpose."""
    for purpose, command in COMMANDS:
        screen.title(f"{purpose}:")
        screen.show(textwrap.indent(command.rstrip(), "  "), "cyan")


def write_setup(stage: Stage) -> Path:
    """Write the file that a terminal reads first; it is removed with the playground.

    Returns:
        The file. It sets the addresses, has ``aws`` and other tools of AWS call the local AWS,
        and defines ``play``.
    """
    variables = SETTINGS | {
        "AWS_ENDPOINT_URL": stage.aws.url,
        "AWS_PAGER": "",
        "PLAYGROUND_CLOUDFLARE": stage.server.door_url,
        "TABLE": stage.stack.outputs["DownloadsTableName"],
        "WEBHOOK_URL": stage.stack.webhook_url,
    }
    python = shlex.join(["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-B", "-m"])
    lines = [
        "unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN AWS_CA_BUNDLE",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        'export NO_PROXY="127.0.0.1,${NO_PROXY:-}" no_proxy="127.0.0.1,${no_proxy:-}"',
        f'play() {{ {python} tests.playground.play "$@"; }}',
        "# The AWS CLI reads AWS_ENDPOINT_URL from 2.13 on. Without it, what the tests have.",
        "unset -f aws 2> /dev/null || :",
        "if command -v aws > /dev/null",
        'then aws() { command aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }',
        f'else aws() {{ {python} tests.support.aws_cli "$@"; }}',
        "fi",
    ]
    file = stage.aws.directory / "playground.sh"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
