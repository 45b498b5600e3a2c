"""Start the demo's AWS and Cloudflare, and use the stack as an operator and a consumer do."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tests.demo.scenario import Item, Key
from tests.demo.screen import Screen
from tests.simulator import SimulatorServer
from tests.support.deployment import Stack, build, deploy_for
from tests.support.emulator import Emulator, emulator

START_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Holds a deployed stack with its AWS and its Cloudflare.

    Attributes:
        aws: the local AWS.
        server: the simulated Cloudflare.
        stack: the stack.
    """

    aws: Emulator
    server: SimulatorServer
    stack: Stack


@contextmanager
def set_stage(screen: Screen) -> Iterator[Stage]:
    """Start AWS and Cloudflare, build and deploy; take everything down when the block ends.

    Raises:
        RuntimeError: a step or the block failed; the text has the emulator's last lines.
    """
    with ExitStack() as stage:
        with screen.working("Starting a local AWS and a simulated Cloudflare Stream"):
            server = stage.enter_context(SimulatorServer())
            # Ends before the server does, which waits for the answers to its webhooks.
            aws = stage.enter_context(emulator())
        try:
            with screen.working("Building the functions and their layer: sam build"):
                template = build(aws.directory)
            with screen.working("Deploying template.yaml to the local AWS: sam deploy"):
                stack = deploy_for(server, aws.url, template)
            yield Stage(aws, server, stack)
        except (AssertionError, BotoCoreError, ClientError, OSError, RuntimeError) as error:
            raise RuntimeError(f"{error}\n{aws.last_lines()}") from error
        with screen.working("Taking everything down"):
            stage.close()


def rows_of(stack: Stack) -> dict[Key, Item]:
    """Return every row of the downloads table."""
    return {Key(*key): row for key, row in stack.rows().items()}


@dataclass
class Poller:
    """Invokes PollDownloads by hand, one run at a time."""

    stack: Stack
    pool: ThreadPoolExecutor
    _run: Future[Any] | None = field(default=None, init=False)
    _started: float = field(default=-math.inf, init=False)

    def keep_running(self) -> None:
        """Start a run unless one is at work, or has just ended.

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
    """Yield a `Poller` that invokes PollDownloads until the block ends."""
    pool = ThreadPoolExecutor(1, "poll-downloads")
    try:
        yield Poller(stack, pool)
    finally:
        # A run that is under way ends with the emulator.
        pool.shutdown(wait=False)


@dataclass
class Subscriber:
    """Receives events of the stack's bus through a rule and a queue, as another service would."""

    stack: Stack
    name: str
    queue_url: str
    received: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def to(cls, stack: Stack, name: str, *detail_types: str) -> Subscriber:
        """Create the queue and the rule, both under ``name``, for events of these types."""
        events, queues = stack.client("events"), stack.client("sqs")
        pattern = {"source": ["stream-downloads"], "detail-type": detail_types}
        url = queues.create_queue(QueueName=name)["QueueUrl"]
        answer = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        bus = {"EventBusName": stack.outputs["EventBusName"]}
        events.put_rule(Name=name, EventPattern=json.dumps(pattern), **bus)
        target = {"Id": "queue", "Arn": answer["Attributes"]["QueueArn"]}
        events.put_targets(Rule=name, Targets=[target], **bus)
        return cls(stack, name, url)

    def receive(self) -> list[dict[str, Any]]:
        """Return the events that have arrived, and keep them in `received`."""
        queues, before = self.stack.client("sqs"), len(self.received)
        while messages := queues.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=10
        ).get("Messages"):
            for message in messages:
                self.received.append(json.loads(message["Body"]))
                queues.delete_message(
                    QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"]
                )
        return self.received[before:]

    def end(self) -> None:
        """Delete the rule and the queue."""
        events, bus = self.stack.client("events"), self.stack.outputs["EventBusName"]
        events.remove_targets(Rule=self.name, EventBusName=bus, Ids=["queue"])
        events.delete_rule(Name=self.name, EventBusName=bus)
        self.stack.client("sqs").delete_queue(QueueUrl=self.queue_url)

    @staticmethod
    def key(event: Mapping[str, Any]) -> Key:
        """Return the key of an event's download."""
        return Key(event["detail"]["video_uid"], event["detail"]["download_type"])
