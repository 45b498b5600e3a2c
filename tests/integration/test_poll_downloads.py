"""Test PollDownloads with moto's tables and the simulator in the same process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from functions.poll_downloads import app
from stream_downloads.domain.commands import BadRequest
from stream_downloads.domain.download import DownloadType, Status
from stream_downloads.domain.video import Video
from stream_downloads.services import intents
from stream_downloads.services.dependencies import Service
from tests.simulator import StreamSimulator
from tests.support.events import LambdaContext, load_event
from tests.support.rows import due
from tests.support.template import REFERENCES

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

BOTH = (DownloadType.DEFAULT, DownloadType.AUDIO)


@pytest.fixture(autouse=True)
def deployed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the handler use this service, one pass at a time."""
    monkeypatch.setattr(app, "SERVICE", service)
    monkeypatch.setattr(app, "WINDOW", 0.0)


def poll(**context: Any) -> dict[str, Any]:
    answer = app.lambda_handler(load_event("poll_downloads"), LambdaContext(**context))
    assert isinstance(answer, dict)
    return answer


def want(service: Service, uid: str, *kinds: DownloadType) -> None:
    now = service.clock()
    intents.video_is_ready(service.downloads, Video(uid=uid), kinds or BOTH[:1], now)


def hurry(service: Service, uid: str) -> None:
    """Let the next steps of a video be due now."""
    for row in service.downloads.of_video(uid):
        service.downloads.save(due(row, service.clock()))


def test_what_is_wanted_is_created_then_listed_then_ready(
    simulator: StreamSimulator, service: Service
) -> None:
    uid = simulator.upload(generation_seconds=0.0, webhook_delays=())
    want(service, uid, *BOTH)
    assert poll()["requests"] == 2
    hurry(service, uid)
    answer = poll()
    assert answer["requests"] == 1
    assert answer["ready"] == 2
    for row in service.downloads.of_video(uid):
        assert row.status is Status.READY
        assert row.url is not None
        assert simulator.fetch(row.url) == 200
    assert simulator.counts() == {"create download": 2, "list downloads": 1}


def test_a_run_with_no_time_left_leaves_everything_due(
    simulator: StreamSimulator, service: Service
) -> None:
    uid = simulator.upload(webhook_delays=())
    want(service, uid)
    answer = poll(remaining_ms=10_000)
    assert answer["ended"] == "the function's time is over"
    assert simulator.calls == []
    assert poll()["requests"] == 1


def test_a_row_that_cannot_be_read_blocks_no_other(
    simulator: StreamSimulator, dynamodb: DynamoDBClient, service: Service
) -> None:
    uid = simulator.upload(webhook_delays=())
    dynamodb.put_item(
        TableName=REFERENCES["DownloadsTable"],
        Item={
            "video_uid": {"S": "poison"},
            "download_type": {"S": "mp3"},
            "_queue": {"S": "live-create"},
            "_due_at": {"N": "1"},
        },
    )
    want(service, uid)
    assert poll()["requests"] == 1


def test_input_is_refused() -> None:
    with pytest.raises(BadRequest, match="takes no input"):
        app.lambda_handler({"now": True}, LambdaContext())
