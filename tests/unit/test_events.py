"""Check the files of ``events/`` against the code."""

from __future__ import annotations

import json

import pytest

from tests.support.emulator import REPOSITORY
from tests.support.events import EVENTS, EXAMPLE_SECRET, EXAMPLE_TIME, load_event, signed_event

# A stream of the table invokes the other one.
FUNCTIONS = {path.parent.name for path in REPOSITORY.glob("functions/*/app.py")} - {
    "announce_downloads"
}


@pytest.mark.parametrize("name", sorted(path.stem for path in EVENTS.glob("*.json")))
def test_every_file_is_a_json_object(name: str) -> None:
    assert isinstance(load_event(name), dict)


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_every_function_has_an_event(function: str) -> None:
    assert list(EVENTS.glob(f"{function}*.json"))


@pytest.mark.parametrize(
    ("request_name", "body_name"),
    [("receive_webhook", "video_ready"), ("receive_webhook_video_failed", "video_failed")],
)
def test_the_request_carries_the_body_beside_it(request_name: str, body_name: str) -> None:
    event = load_event(request_name)
    assert json.loads(event["body"]) == load_event(body_name)
    assert event["headers"]["content-length"] == str(len(event["body"]))


def test_the_example_has_every_field_of_cloudflares_guide() -> None:
    assert list(load_event("video_ready")) == [
        *("uid", "creator", "thumbnail", "thumbnailTimestampPct", "readyToStream", "status"),
        *("meta", "created", "modified", "size", "preview", "allowedOrigins"),
        *("requireSignedURLs", "uploaded", "uploadExpiry", "maxSizeBytes", "maxDurationSeconds"),
        *("duration", "input", "playback", "watermark"),
    ]


def test_the_example_is_what_signing_makes_of_it() -> None:
    assert signed_event(load_event("video_ready"), EXAMPLE_SECRET, EXAMPLE_TIME) == load_event(
        "receive_webhook"
    )
