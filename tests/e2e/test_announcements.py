"""Check the events that a subscriber to the event bus receives."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.deployed import Deployed, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

ARRIVES_WITHIN: Final = 10.0
# One announcement shows that the role allows it; the others are the same on either stack.
once = pytest.mark.parametrize("either", ["plain"], indirect=True)


@dataclass
class Subscriber:
    """A queue behind a rule on the stack's bus."""

    deployed: Deployed
    queue_url: str

    def receive(self) -> list[dict[str, Any]]:
        """Return the events that have come since the last time."""
        queues, events = self.deployed.stack.client("sqs"), []
        while messages := queues.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=10
        ).get("Messages"):
            for message in messages:
                events.append(json.loads(message["Body"]))
                queues.delete_message(
                    QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"]
                )
        return events

    def next_about(self, uid: str) -> dict[str, Any]:
        """Return the next event about a video."""

        def about() -> list[dict[str, Any]]:
            return [event for event in self.receive() if event["detail"]["video_uid"] == uid]

        (event,) = eventually(about, within=ARRIVES_WITHIN)
        return event


@pytest.fixture
def subscriber(either: Deployed) -> Iterator[Subscriber]:
    """Yield a subscriber to every event about an MP4."""
    name = f"subscriber-{uuid.uuid4()}"
    events, queues = either.stack.client("events"), either.stack.client("sqs")
    queue_url = queues.create_queue(QueueName=name)["QueueUrl"]
    attributes = queues.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    target = {"Id": "queue", "Arn": attributes["Attributes"]["QueueArn"]}
    pattern = {"source": ["stream-downloads"], "detail": {"download_type": ["default"]}}
    rule = {"EventBusName": either.stack.outputs["EventBusName"]}
    events.put_rule(Name=name, EventPattern=json.dumps(pattern), **rule)
    events.put_targets(Rule=name, Targets=[target], **rule)
    yield Subscriber(either, queue_url)
    events.remove_targets(Rule=name, Ids=["queue"], **rule)
    events.delete_rule(Name=name, **rule)
    queues.delete_queue(QueueUrl=queue_url)


def test_a_ready_download_is_announced(subscriber: Subscriber, either: Deployed) -> None:
    uid = either.upload_and_hear(creator="ada", duration_seconds=12.5)
    either.poll_until("ready", uid)
    event = subscriber.next_about(uid)
    assert event["source"] == "stream-downloads"
    assert event["detail-type"] == "Download Ready"
    assert event["detail"] == as_consumers_see_it(either, uid)


@once
def test_a_failed_video_is_announced(subscriber: Subscriber, either: Deployed) -> None:
    uid = either.upload_and_hear(error_code="ERR_NON_VIDEO")
    event = subscriber.next_about(uid)
    assert event["detail-type"] == "Download Failed"
    assert event["detail"]["error_code"] == "ERR_NON_VIDEO"
    assert event["detail"] == as_consumers_see_it(either, uid)


@once
def test_a_deleted_download_is_announced(subscriber: Subscriber, either: Deployed) -> None:
    uid = either.upload_and_hear()
    either.poll_until("ready", uid)
    assert subscriber.next_about(uid)["detail-type"] == "Download Ready"
    either.manage("delete", uid)
    either.poll_until("deleted", uid)
    event = subscriber.next_about(uid)
    assert event["detail-type"] == "Download Deleted"
    assert event["detail"] == as_consumers_see_it(either, uid)
    assert "url" not in event["detail"]


@once
def test_a_percentage_is_not_announced(subscriber: Subscriber, either: Deployed) -> None:
    subscriber.next_about(either.upload_and_hear(error_code="ERR_NON_VIDEO"))
    before = announcements(either)
    uid = either.upload_and_hear(generation_seconds=1000.0)
    download = either.cloudflare.videos[uid].downloads["default"]
    for _ in range(2):
        seen = either.row(uid)["percent_complete"]
        download.starts_at -= 300
        either.pass_time(uid, seconds=300)
        row = either.poll_for(uid, lambda row: row["percent_complete"] > seen)  # noqa: B023
        assert row["status"] == "inprogress"
    download.starts_at -= 1000
    either.pass_time(uid, seconds=1000)
    either.poll_until("ready", uid)
    # The stream is in order: of what came before this, none is still to come.
    assert subscriber.next_about(uid)["detail-type"] == "Download Ready"
    assert announcements(either) == before + 1


def as_consumers_see_it(deployed: Deployed, uid: str) -> dict[str, Any]:
    row = deployed.row(uid)
    return {name: value for name, value in row.items() if not name.startswith("_")}


def announcements(deployed: Deployed) -> int:
    """Return how often AnnounceDownloads has been invoked, once nothing more is under way."""
    group = {"logGroupName": deployed.stack.physical_id("AnnounceDownloadsLogGroup")}
    pages = deployed.stack.client("logs").get_paginator("filter_log_events")
    counts: list[int] = []

    def count() -> list[int]:
        messages = (
            event["message"] for page in pages.paginate(**group) for event in page["events"]
        )
        counts.append(sum(1 for message in messages if message.startswith("START ")))
        return counts[-8:]

    return eventually(count, lambda last: len(last) == 8 and len(set(last)) == 1)[-1]
