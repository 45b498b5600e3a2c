"""Where the demo plays: the deployed stack, as an operator and a consumer reach it."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer

from tests.demo.scenario import Item, Key
from tests.support.deployment import Stack, client, deploy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.simulator import SimulatorServer

START_EVERY = 5.0
EVENT = {"source": ["stream-downloads"], "detail-type": ["Download Ready"]}

_client = cache(client)
_value = TypeDeserializer().deserialize


def deploy_for(server: SimulatorServer, aws: str, template: Path) -> Stack:
    """Create the user's own secret, and deploy the stack that uses it.

    Args:
        server: the simulated Cloudflare.
        aws: the address of the AWS to deploy on.
        template: the built template.
    """
    account = server.simulator.settings
    secret = client("secretsmanager", aws).create_secret(
        Name="cloudflare-api", SecretString=json.dumps({"api_token": account.api_token})
    )
    parameters = {
        "CloudflareAccountId": account.account_id,
        "CloudflareSecretArn": secret["ARN"],
        "CloudflareApiBaseUrl": server.base_url,
    }
    stack = deploy(aws, template, parameters)
    server.addresses[stack.outputs["WebhookUrl"]] = stack.webhook_url
    return stack


def rows_of(stack: Stack) -> dict[Key, Item]:
    """Every row of the downloads table."""
    pages = _client("dynamodb", stack.endpoint).get_paginator("scan")
    items = [
        {name: _value(typed) for name, typed in item.items()}
        for page in pages.paginate(TableName=stack.outputs["DownloadsTableName"])
        for item in page["Items"]
    ]
    return {Key(item["video_uid"], item["download_type"]): item for item in items}


@dataclass
class Poller:
    """PollDownloads, started by hand: one run at a time."""

    stack: Stack
    pool: ThreadPoolExecutor
    _run: Future[Any] | None = field(default=None, init=False)
    _started: float = field(default=-math.inf, init=False)

    def keep_running(self) -> None:
        """Start a run unless one is under way, or has only just been.

        Raises:
            AssertionError: the last one failed.
        """
        if self._run and self._run.done():
            self._run.result()
            self._run = None
        if not self._run and time.monotonic() - self._started >= START_EVERY:
            self._started = time.monotonic()
            self._run = self.pool.submit(self.stack.invoke, "PollDownloadsFunctionName", {})


@contextmanager
def poller(stack: Stack) -> Iterator[Poller]:
    """PollDownloads, to be started by hand while the block lasts."""
    pool = ThreadPoolExecutor(1, "poll-downloads")
    try:
        yield Poller(stack, pool)
    finally:
        # A run that is under way ends with the emulator.
        pool.shutdown(wait=False)


@dataclass
class Subscriber:
    """A queue behind a rule on the stack's event bus, as another service would have it."""

    stack: Stack
    queue_url: str
    received: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def to(cls, stack: Stack) -> Subscriber:
        """Make the queue and the rule."""
        events, queues = stack.client("events"), stack.client("sqs")
        url = queues.create_queue(QueueName="ready-downloads")["QueueUrl"]
        answer = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        bus = {"EventBusName": stack.outputs["EventBusName"]}
        events.put_rule(Name="ready-downloads", EventPattern=json.dumps(EVENT), **bus)
        target = {"Id": "queue", "Arn": answer["Attributes"]["QueueArn"]}
        events.put_targets(Rule="ready-downloads", Targets=[target], **bus)
        return cls(stack, url)

    def receive(self) -> set[Key]:
        """Take out what has arrived; the downloads of which an event has come so far."""
        queues = _client("sqs", self.stack.endpoint)
        while messages := queues.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=10
        ).get("Messages"):
            for message in messages:
                self.received.append(json.loads(message["Body"]))
                queues.delete_message(
                    QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"]
                )
        return {self.key(event) for event in self.received}

    @staticmethod
    def key(event: Mapping[str, Any]) -> Key:
        """The download that an event tells of."""
        return Key(event["detail"]["video_uid"], event["detail"]["download_type"])
