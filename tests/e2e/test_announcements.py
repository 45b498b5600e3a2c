"""Check the events that a subscriber to the event bus receives."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.demo.stage import Subscriber
from tests.e2e.deployed import Deployed, eventually
from tests.playground.play import EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

ARRIVES_WITHIN: Final = 10.0
# One announcement shows that the role allows it; the others are the same on either stack.
once = pytest.mark.parametrize("either", ["plain"], indirect=True)


@pytest.fixture
def subscriber(either: Deployed) -> Iterator[Subscriber]:
    """Yield a subscriber to every event."""
    subscriber = Subscriber.to(either.stack, f"subscriber-{uuid.uuid4()}", *EVENTS)
    yield subscriber
    subscriber.end()


def next_about(subscriber: Subscriber, uid: str) -> dict[str, Any]:
    """Return the next event about a video's MP4."""

    def about() -> list[dict[str, Any]]:
        key = (uid, "default")
        return [event for event in subscriber.receive() if subscriber.key(event) == key]

    (event,) = eventually(about, within=ARRIVES_WITHIN)
    return event


def test_a_ready_download_is_announced(subscriber: Subscriber, either: Deployed) -> None:
    uid = either.upload_and_hear(creator="ada", duration_seconds=12.5)
    either.poll_until("ready", uid)
    event = next_about(subscriber, uid)
    assert event["source"] == "stream-downloads"
    assert event["detail-type"] == "Download Ready"
    assert event["detail"] == as_consumers_see_it(either, uid)


@once
def test_a_failed_video_is_announced(subscriber: Subscriber, either: Deployed) -> None:
    uid = either.upload_and_hear(error_code="ERR_NON_VIDEO")
    event = next_about(subscriber, uid)
    assert event["detail-type"] == "Download Failed"
    assert event["detail"]["error_code"] == "ERR_NON_VIDEO"
    assert event["detail"]["error_message"]
    assert event["detail"] == as_consumers_see_it(either, uid)
    assert either.creates(uid) == []


@once
def test_a_deleted_download_is_announced(subscriber: Subscriber, either: Deployed) -> None:
    uid = either.upload_and_hear()
    either.poll_until("ready", uid)
    assert next_about(subscriber, uid)["detail-type"] == "Download Ready"
    either.manage("delete", uid)
    either.poll_until("deleted", uid)
    event = next_about(subscriber, uid)
    assert event["detail-type"] == "Download Deleted"
    assert event["detail"] == as_consumers_see_it(either, uid)
    assert "url" not in event["detail"]


@once
def test_a_percentage_is_not_announced(subscriber: Subscriber, either: Deployed) -> None:
    next_about(subscriber, either.upload_and_hear(error_code="ERR_NON_VIDEO"))
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
    assert next_about(subscriber, uid)["detail-type"] == "Download Ready"
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
