"""Control a deployed stack and the Cloudflare that it talks to, for the end-to-end tests."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import urllib3

from stream_downloads.adapters.shared_state import POLLER_LEASE
from stream_downloads.domain.download import iso_time
from stream_downloads.domain.signature import sign
from tests.simulator import Settings, SimulatorServer, StreamSimulator
from tests.simulator.limits import RateLimiter
from tests.support.deployment import Stack, deploy_for, unmarshalled
from tests.support.emulator import Emulator

Item = Mapping[str, Any]
Found = TypeVar("Found")

ACCOUNT: Final = Settings(account_id="023e105f4ecef8ad9ca31a8372d0c353")
ALARM_TOPIC: Final = "arn:aws:sns:us-east-1:000000000000:alarms"

DAY: Final = 86_400.0
# What the row remembers of time, in seconds: with all of them earlier, so much time has passed.
CLOCKS: Final = (
    ("_due_at",),
    ("_creation", "sent_at"),
    ("_creation", "accepted_at"),
    ("_creation", "polled_at"),
    ("_work", "due_at"),
    ("_work", "since"),
)
TIMES: Final = frozenset({"requested_at", "updated_at", "ready_at"})

# In a line of the service's logger; or of Lambda itself, which ends an invocation with an error.
WARNING: Final = re.compile(
    r'"level": ?"(WARNING|ERROR|CRITICAL)"|Traceback|^\[ERROR\]|Task timed out'
)


@dataclass
class Deployed:
    """A deployed stack and its Cloudflare.

    Attributes:
        stack: the stack.
        server: its Cloudflare.
        first_secret: the signing secret as deployed, before the webhook was subscribed.
        polls: the request ids of the polls that a test has asked for.
    """

    stack: Stack
    server: SimulatorServer
    first_secret: str = ""
    polls: set[str] = field(default_factory=set)

    @property
    def cloudflare(self) -> StreamSimulator:
        """Return its simulated Cloudflare, without the HTTP server."""
        return self.server.simulator

    # --- What happens at Cloudflare -----------------------------------------------------------

    def upload(self, **details: Any) -> str:
        """Upload a video whose downloads are made in no time unless ``details`` say otherwise."""
        uid = self.cloudflare.upload(**{"generation_seconds": 0.0, **details})
        self.server.wake()
        return uid

    def upload_and_hear(self, **details: Any) -> str:
        """Upload a video, and wait until its webhook has been answered with 200."""
        uid = self.upload(**details)
        self.hear(uid)
        return uid

    def hear(self, uid: str, times: int = 1) -> None:
        """Wait until that many webhooks of a video have been answered, all with 200."""
        answers = eventually(lambda: self.webhook_answers(uid), lambda found: len(found) >= times)
        assert answers == [200] * times, answers

    def webhook_answers(self, uid: str) -> list[int]:
        """Return the statuses of the answers to a video's webhooks."""
        return [status for about, status in list(self.server.webhook_answers) if about == uid]

    def creates(self, uid: str) -> list[str]:
        """Return the downloads that Cloudflare was asked to create of a video, in order."""
        return [
            call.download_type or "default"
            for call in list(self.cloudflare.calls)
            if call.name == "create download" and call.video_uid == uid
        ]

    # --- What its owner does ------------------------------------------------------------------

    def post(self, body: bytes, signature: str | None = None, **headers: str) -> int:
        """Send something to the Function URL; the status of the answer."""
        signed = {"Webhook-Signature": signature} if signature else {}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = urllib3.request(
            "POST",
            self.stack.webhook_url,
            body=body,
            headers={"Content-Type": "application/json", **signed, **given},
            timeout=30,
            retries=False,
        )
        return answer.status

    def sign(self, body: bytes, *, at: float | None = None, secret: str | None = None) -> str:
        """Sign a body, by default now and with the stack's own secret."""
        moment = int(time.time() if at is None else at)
        return sign(body, (secret or self.signing_secret()).encode(), moment)

    def signing_secret(self) -> str:
        """Return the secret that the stack verifies webhooks with."""
        answer = self.stack.client("secretsmanager").get_secret_value(
            SecretId=self.stack.outputs["WebhookSecretArn"]
        )
        secret: str = json.loads(answer["SecretString"])["webhook_secret"]
        return secret

    def register(self, **payload: bool) -> Any:
        """Have the webhook subscribed."""
        return self.stack.invoke("RegisterWebhookFunctionName", payload)

    def reconcile(self, **payload: str) -> Any:
        """Have the library looked through."""
        return self.stack.invoke("ReconcileLibraryFunctionName", payload)

    def manage(self, action: str, uid: str | None = None, **more: Any) -> Any:
        """Have ManageDownloads do something."""
        about = {"video_uid": uid} if uid else {}
        return self.stack.invoke("ManageDownloadsFunctionName", {"action": action, **about, **more})

    def poll(self) -> Any:
        """Have one run of the poller; the schedule's own may be under way, and is waited for."""
        return eventually(self._poll, lambda summary: summary["ended"] != "another run is at work")

    def poll_until(self, status: str, uid: str, kind: str = "default") -> Item:
        """Have runs of the poller until a row has that status, as :meth:`poll_for`."""
        return self.poll_for(uid, lambda row: row["status"] == status, kind)

    def poll_for(self, uid: str, good: Callable[[Item], bool], kind: str = "default") -> Item:
        """Have runs of the poller until a row is as it should be.

        Args:
            uid: the row's video.
            good: says whether the row is so.
            kind: the row's type.

        Returns:
            The row.
        """

        def after_a_poll() -> Item:
            self.poll()
            return self.row(uid, kind)

        return eventually(after_a_poll, good)

    def _poll(self) -> Any:
        summary, request_id = self.stack.invoke_as("PollDownloadsFunctionName", {})
        self.polls.add(request_id)
        return summary

    # --- What is in the tables ----------------------------------------------------------------

    def row(self, uid: str, kind: str = "default") -> Item:
        """Return one row with its internal attributes; an empty one if there is none."""
        answer = self.stack.client("dynamodb").get_item(**self._key(uid, kind), ConsistentRead=True)
        return unmarshalled(answer.get("Item", {}))

    def status(self, uid: str, kind: str = "default") -> str | None:
        """Return the status of one row."""
        return self.row(uid, kind).get("status")

    def warnings(self, since: float) -> list[str]:
        """Return the lines of level WARNING and above that any function has logged since then."""
        return [line for line in self.log_lines(since) if WARNING.search(line)]

    def log_lines(self, since: float = 0.0) -> list[str]:
        """Return each line that any function has logged since then, Lambda's own lines included."""
        logs = self.stack.client("logs")
        return [
            event["message"]
            for group in logs.describe_log_groups()["logGroups"]
            for page in logs.get_paginator("filter_log_events").paginate(
                logGroupName=group["logGroupName"], startTime=int(since * 1000)
            )
            for event in page["events"]
        ]

    def pass_time(self, uid: str, kind: str = "default", *, seconds: float) -> None:
        """Let time pass for one row alone."""
        row = self.row(uid, kind)
        paths = [".".join(f"#{name}" for name in path) for path in CLOCKS if _has(row, path)]
        earlier = [f"{path} = {path} - :seconds" for path in paths]
        values: dict[str, str | float] = {":seconds": seconds, ":one": 1}
        for name in TIMES & row.keys():
            earlier.append(f"#{name} = :{name}")
            values[f":{name}"] = iso_time(datetime.fromisoformat(row[name]).timestamp() - seconds)
        # A write like any other: a run of the schedule that has read the row must notice.
        self.update(uid, kind, f"SET {', '.join(earlier)} ADD #_version :one", values)

    def update(
        self,
        uid: str,
        kind: str,
        expression: str,
        values: Mapping[str, str | float] | None = None,
    ) -> None:
        """Change a row behind the stack's back.

        Args:
            uid: the row's video.
            kind: the row's type.
            expression: DynamoDB's update expression, with each attribute's name after a ``#``.
            values: the values in it.
        """
        typed = {
            name: {"S": value} if isinstance(value, str) else {"N": str(value)}
            for name, value in (values or {}).items()
        }
        self.stack.client("dynamodb").update_item(
            **self._key(uid, kind),
            UpdateExpression=expression,
            ExpressionAttributeNames={name: name[1:] for name in re.findall(r"#\w+", expression)},
            **({"ExpressionAttributeValues": typed} if typed else {}),
        )

    def delete(self, uid: str, kind: str) -> None:
        """Delete a row behind the stack's back."""
        self.stack.client("dynamodb").delete_item(**self._key(uid, kind))

    def forget(self, uids: Sequence[str]) -> None:
        """Delete videos, and their rows behind the stack's back."""
        for uid in uids:
            self.cloudflare.drop_video(uid)
        keys = [self._key(uid, kind)["Key"] for uid in uids for kind in ("default", "audio")]
        for first in range(0, len(keys), 25):
            requests = [{"DeleteRequest": {"Key": key}} for key in keys[first : first + 25]]
            self.stack.client("dynamodb").batch_write_item(
                RequestItems={self.stack.outputs["DownloadsTableName"]: requests}
            )

    def pass_five_minutes(self) -> None:
        """Let the requests of before leave the window, here and at Cloudflare."""
        self.stack.client("dynamodb").delete_item(
            TableName=self.stack.physical_id("ControlTable"), Key={"name": {"S": "budget"}}
        )
        self.cloudflare.limiter = RateLimiter(self.cloudflare.limiter.limit)

    def free_poller(self) -> None:
        """Take the lease of a run of the poller from it, so that another may start."""
        self.stack.client("dynamodb").delete_item(
            TableName=self.stack.physical_id("ControlTable"), Key={"name": {"S": POLLER_LEASE}}
        )

    def restart(self, function: str) -> None:
        """Have a function, by its name in the template, start again: no process of it stays."""
        functions = self.stack.client("lambda")
        name = self.stack.physical_id(f"{function}Function")
        variables = functions.get_function_configuration(FunctionName=name)["Environment"]
        variables["Variables"]["RESTARTED_AT"] = str(time.time())
        functions.update_function_configuration(FunctionName=name, Environment=variables)
        for alias in functions.list_aliases(FunctionName=name)["Aliases"]:
            version = functions.publish_version(FunctionName=name)["Version"]
            functions.update_alias(FunctionName=name, Name=alias["Name"], FunctionVersion=version)

    def _key(self, uid: str, kind: str) -> dict[str, Any]:
        return {
            "TableName": self.stack.outputs["DownloadsTableName"],
            "Key": {"video_uid": {"S": uid}, "download_type": {"S": kind}},
        }


@contextmanager
def deployed_on(
    aws: Emulator,
    template: Path,
    parameters: Mapping[str, str],
    secret: Mapping[str, str] | None = None,
) -> Iterator[Deployed]:
    """Deploy the stack with a Cloudflare of its own, and subscribe its webhook there.

    Args:
        aws: where to.
        template: as it was built.
        parameters: the template's, as far as they are not settled by this.
        secret: the credentials for `ACCOUNT` as their owner stores them; its API token if None.
    """
    with SimulatorServer(StreamSimulator(settings=ACCOUNT)) as server:
        stack = deploy_for(server, aws.url, template, parameters, secret)
        deployed = Deployed(stack, server)
        deployed.first_secret = deployed.signing_secret()
        deployed.register()
        yield deployed


def eventually(
    look: Callable[[], Found], good: Callable[[Found], object] = bool, within: float = 60.0
) -> Found:
    """Poll until a result is good; return it.

    Args:
        look: gives what is to be seen.
        good: says whether that is it.
        within: seconds after which to give up.

    Raises:
        AssertionError: it never was.
    """
    ends_at = time.monotonic() + within
    while not good(seen := look()):
        assert time.monotonic() < ends_at, f"still not so after {within:.0f} s: {seen!r}"
        time.sleep(0.05)
    return seen


def _has(row: Item, path: Sequence[str]) -> bool:
    """Return True if the row has that attribute, or that entry of a map."""
    here: Any = row
    for name in path:
        if name not in here:
            return False
        here = here[name]
    return True
