"""Follow a download from a signed webhook to a URL that works and the row that consumers read."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.deployed import Deployed, Item, eventually
from tests.simulator import Upload, download_url
from tests.simulator.videos import Video
from tests.support.documents import block
from tests.support.events import VIDEO_UID, encoded, load_event, video_event

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def example(plain: Deployed) -> Iterator[Deployed]:
    """Let Cloudflare have the video of its guide's example event, without a row in the table."""
    plain.cloudflare.videos[VIDEO_UID] = Video(
        VIDEO_UID, time.time(), Upload(generation_seconds=0.0)
    )
    yield plain
    del plain.cloudflare.videos[VIDEO_UID]
    for kind in ("default", "audio"):
        plain.delete(VIDEO_UID, kind)


def test_a_webhook_becomes_a_url(either: Deployed) -> None:
    uid = either.upload_and_hear(generation_seconds=5.0, name="talk.mp4", creator="ada")
    requested = either.row(uid)
    assert requested["status"] == "inprogress"
    assert "url" not in requested

    either.pass_time(uid, seconds=100)
    either.poll()
    assert "url" not in either.row(uid)

    eventually(lambda: either.cloudflare.fetch(download_url(uid, "default")) == 200)
    either.pass_time(uid, seconds=1000)
    row = dict(either.poll_until("ready", uid))
    times = [row.pop(name) for name in ("requested_at", "updated_at", "ready_at")]
    assert {name: value for name, value in row.items() if not name.startswith("_")} == {
        "video_uid": uid,
        "download_type": "default",
        "status": "ready",
        "url": download_url(uid, "default"),
        "percent_complete": 100,
        "requires_signed_url": False,
        "creator": "ada",
        "name": "talk.mp4",
        "duration_seconds": 30,
    }
    assert all(INSTANT.fullmatch(instant) for instant in times)
    assert times[0] < times[2] <= times[1]
    assert either.creates(uid).count("default") == 1


def test_a_webhook_that_comes_again_changes_nothing(plain: Deployed) -> None:
    uid = plain.upload_and_hear(webhook_delays=(0.0, 0.0, 0.3))
    plain.hear(uid, times=3)
    plain.poll()
    ready = plain.row(uid)
    plain.cloudflare.repeat_webhook(uid)
    plain.hear(uid, times=4)
    assert plain.row(uid) == ready
    assert plain.creates(uid).count("default") == 1


def test_cloudflares_own_example_becomes_a_url(example: Deployed) -> None:
    body = encoded(video_event())
    assert example.post(body, example.sign(body)) == 200
    example.poll()
    row = example.row(VIDEO_UID)
    assert row["status"] == "ready"
    assert row["url"] == download_url(VIDEO_UID, "default")
    assert row["name"] == video_event()["meta"]["name"]
    assert row["duration_seconds"] == video_event()["duration"]
    assert row["requires_signed_url"] is False
    assert "creator" not in row


def test_a_body_in_base64_is_verified_byte_for_byte(example: Deployed) -> None:
    # What the content type calls no text reaches the function in base64.
    body = encoded(video_event())
    signature = example.sign(body)
    assert example.post(body, signature, Content_Type="application/octet-stream") == 200
    assert example.row(VIDEO_UID)["status"] in ("inprogress", "ready")


@pytest.mark.parametrize("name", ["receive_webhook", "receive_webhook_video_failed"])
def test_the_example_invocations_are_understood(plain: Deployed, name: str) -> None:
    # Signed in 2009, with the secret of the example.
    assert plain.stack.invoke("ReceiveWebhookFunctionName", load_event(name)) == {
        "statusCode": 403,
        "headers": {"Content-Type": "text/plain; charset=utf-8"},
        "body": "forbidden",
    }


def test_what_is_not_authentic_is_refused(guarded: Deployed) -> None:
    guarded.restart("ReceiveWebhook")  # a secret may be read again only once a minute
    uid = f"{time.time_ns():032x}"
    body = encoded(video_event(uid=uid))
    now = int(time.time())
    calls = len(guarded.cloudflare.calls)
    for signature in (
        None,
        "",
        f"time={now}",
        f"time={now},sig1={'0' * 64}",
        guarded.sign(body + b"\n"),
        guarded.sign(body, at=now - 400),
        guarded.sign(body, at=now + 400),
    ):
        assert guarded.post(body, signature) == 403
    assert guarded.row(uid) == {}
    sent = list(guarded.cloudflare.calls)[calls:]
    assert not [call for call in sent if call.video_uid in (None, uid)]  # the schedule polls others
    guarded.restart("ReceiveWebhook")


def test_the_status_tells_of_one_video_and_of_all(plain: Deployed) -> None:
    before = plain.manage("status")
    uid = plain.upload_and_hear()
    plain.poll_until("ready", uid)
    about = plain.manage("status", uid, download_types=["default"])
    assert about["video_uid"] == uid
    (row,) = about["downloads"]
    assert row == {
        name: value for name, value in plain.row(uid).items() if not name.startswith("_")
    }
    after = plain.manage("status")
    assert after["rows"]["ready"] > before["rows"]["ready"]
    assert " ".join(sorted(after["rows"])) == "deleted deleting error inprogress ready requested"
    assert 0 < after["requests_in_five_minutes"] < after["request_limit"]
    assert after["blocked_until"] is None


@pytest.fixture(scope="module")
def ready(plain_stack: Deployed) -> Item:
    """Return a ready download, as it is in the table."""
    uid = plain_stack.upload_and_hear(name="for consumers.mp4", creator="grace")
    return plain_stack.poll_until("ready", uid)


def test_the_documents_python_reads_urls(
    plain: Deployed, ready: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", plain.stack.endpoint)
    shown: dict[str, Any] = {}
    exec(block("docs/reference.md", "python", "import boto3"), shown)  # noqa: S102
    table = plain.stack.outputs["DownloadsTableName"]
    assert shown["url_of"](table, ready["video_uid"]) == ready["url"]
    assert shown["url_of"](table, "0" * 32) is None
    since = list(shown["ready_since"](table, ready["updated_at"]))
    assert ready["url"] in [item["url"] for item in since]
