"""Run the recipes of ``docs/webhooks.md`` as they are written: other systems hear of webhooks."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.deployed import Deployed, eventually
from tests.e2e.test_least_privilege import without
from tests.support import aws_cli
from tests.support.emulator import REPOSITORY
from tests.support.http_server import http_server

PAGE = (REPOSITORY / "docs/webhooks.md").read_text(encoding="utf-8")
KEY = "the key of the receiver"


def recipe(name: str) -> list[str]:
    """Return the commands of a recipe, each in one piece."""
    (block,) = re.findall(rf"```sh\n# recipe: {name}\n(.*?)```", PAGE, re.DOTALL)
    return re.split(r"\n(?=\w+=|aws )", block.strip())


def run(deployed: Deployed, name: str, variables: dict[str, str]) -> dict[str, str]:
    """Run the commands of a recipe; return the variables, with those that it sets."""
    for command in recipe(name):
        assigned = re.fullmatch(r"(\w+)=\$\((.*)\)", command, re.DOTALL)
        words = shlex.split(expanded(deployed, assigned[2] if assigned else command, variables))
        assert words.pop(0) == "aws"
        written = aws_cli.run(words, deployed.stack.client)
        if assigned:
            variables[assigned[1]] = written.strip()
    return variables


def expanded(deployed: Deployed, command: str, variables: Mapping[str, str]) -> str:
    """Put the outputs of the stack and the variables in their places."""
    outputs = deployed.stack.outputs
    command = re.sub(r"\$\(output (\w+)\)", lambda found: outputs[found[1]], command)
    return re.sub(r"\$([A-Z_]+)", lambda found: variables[found[1]], command)


def test_a_rule_sends_every_webhook_to_a_queue(guarded: Deployed) -> None:
    queue_url = run(guarded, "queue", {})["QUEUE_URL"]
    ready = guarded.upload_and_hear(name="é.mp4", downloads="none")
    failed = guarded.upload_and_hear(error_code="ERR_NON_VIDEO")
    events: dict[str, dict[str, Any]] = {}

    def receive() -> int:
        answer = guarded.stack.client("sqs").receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10
        )
        for message in answer.get("Messages", []):
            event = json.loads(message["Body"])
            events[event["detail"]["uid"]] = event
        return len({ready, failed} & events.keys())

    eventually(receive, lambda found: found == 2)
    assert events[ready]["source"] == "stream-downloads"
    assert events[ready]["detail-type"] == "Video Ready"
    assert events[failed]["detail-type"] == "Video Failed"
    sent = [json.loads(sent.body) for sent in guarded.cloudflare.outbox.sent]
    assert events[ready]["detail"] in sent
    assert events[failed]["detail"] in sent
    assert guarded.status(ready) is None


def test_an_api_destination_takes_every_webhook_out_of_aws(guarded: Deployed) -> None:
    came: list[tuple[Mapping[str, str], bytes]] = []

    def receive(headers: Mapping[str, str], body: bytes) -> str:
        came.append((headers, body))
        return ""

    with http_server(receive) as url:
        run(guarded, "api destination", {"RECEIVER_URL": f"{url}/hook", "RECEIVER_KEY": KEY})
        uid = guarded.upload_and_hear(downloads="none")
        eventually(lambda: [body for _, body in came if uid.encode() in body])
        events = guarded.stack.client("events")
        bus = {"EventBusName": guarded.stack.outputs["EventBusName"]}
        events.remove_targets(Rule="receiver", Ids=["receiver"], **bus)
    ((headers, body),) = [(headers, body) for headers, body in came if uid.encode() in body]
    assert headers["X-Api-Key"] == KEY
    assert json.loads(body) in [json.loads(sent.body) for sent in guarded.cloudflare.outbox.sent]


def test_without_leave_for_the_bus_a_webhook_is_recorded_and_answered_500(
    guarded: Deployed,
) -> None:
    with without(guarded, "ReceiveWebhook", "PutEvents"):
        uid = guarded.upload(generation_seconds=60.0)
        answers = eventually(lambda: guarded.webhook_answers(uid))
    assert answers == [500]
    assert guarded.status(uid) == "inprogress"


def test_where_webhooks_are_not_passed_on_no_right_to_do_so_is_given(plain: Deployed) -> None:
    with pytest.raises(LookupError), without(plain, "ReceiveWebhook", "PutEvents"):
        pass
