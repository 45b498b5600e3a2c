"""Test the simulator with Cloudflare's own Python SDK."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import cloudflare
import pytest

from tests.simulator import Settings, SimulatorServer, StreamSimulator, download_url

ACCOUNT: Any = {"account_id": Settings.account_id}


def connect(server: SimulatorServer, **credentials: str) -> cloudflare.Cloudflare:
    return cloudflare.Cloudflare(
        base_url=server.base_url,
        max_retries=0,
        # What the SDK finds out about this machine for its headers is of no use here.
        default_headers={"X-Stainless-OS": "test"},
        **(credentials or {"api_token": server.simulator.settings.api_token}),  # type: ignore[arg-type]
    )


@pytest.fixture
def sdk(server: SimulatorServer) -> Iterator[Any]:
    """Return the SDK, as `Any`: each of its answers may be None."""
    with connect(server) as sdk:
        yield sdk


def test_the_sdk_creates_follows_and_deletes_downloads(
    sdk: Any, simulator: StreamSimulator
) -> None:
    uid = simulator.upload(generation_seconds=0.2)
    created = sdk.stream.downloads.create(uid, **ACCOUNT)
    assert created.default.status == "inprogress"
    assert created.audio is None
    ready_at = simulator.ready_at(uid, "default")
    assert ready_at
    while time.time() < ready_at:
        assert sdk.stream.downloads.get(uid, **ACCOUNT)
    found = sdk.stream.downloads.get(uid, **ACCOUNT)
    assert found.default.to_dict() == {
        "status": "ready",
        "url": download_url(uid, "default"),
        "percentComplete": 100.0,
    }
    assert sdk.stream.downloads.delete(uid, **ACCOUNT) == "ok"
    assert sdk.stream.downloads.get(uid, **ACCOUNT).to_dict() == {}


def test_the_sdk_reads_an_audio_download(sdk: Any, simulator: StreamSimulator) -> None:
    uid = simulator.upload()
    base = f"/accounts/{ACCOUNT['account_id']}/stream/{uid}/downloads"
    # The SDK has no method of its own for a type.
    sdk.post(f"{base}/audio", cast_to=object)
    found = sdk.stream.downloads.get(uid, **ACCOUNT)
    assert found.audio.url == download_url(uid, "audio")
    sdk.delete(f"{base}/audio", cast_to=object)
    assert simulator.videos[uid].downloads == {}


def test_the_sdk_lists_videos_by_time_and_state(sdk: Any, simulator: StreamSimulator) -> None:
    first, _failed, last = (simulator.upload(error_code=code) for code in (None, "ERR", None))
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    listed = sdk.stream.list(**ACCOUNT, status="ready", asc=True, start=now - hour, limit=1000)
    assert [video.uid for video in listed] == [first, last]
    listed = sdk.stream.list(**ACCOUNT, after=now - hour, before=now + hour, limit=1)
    assert [video.uid for video in listed] == [last]
    assert list(sdk.stream.list(**ACCOUNT, start=now + hour)) == []


def test_the_sdk_reads_a_video(sdk: Any, simulator: StreamSimulator) -> None:
    uid = simulator.upload(
        duration_seconds=5.5, private=True, creator="a-creator", live_input="abc"
    )
    video = sdk.stream.get(uid, **ACCOUNT)
    assert video.uid == uid
    assert video.duration == 5.5
    assert video.creator == "a-creator"
    assert video.require_signed_urls is True
    assert video.live_input == "abc"
    assert video.status.state == "ready"
    assert abs(video.created.timestamp() - simulator.videos[uid].created_at) < 0.001


def test_the_sdk_subscribes_reads_and_unsubscribes(sdk: Any, simulator: StreamSimulator) -> None:
    first = sdk.stream.webhooks.update(**ACCOUNT, body_notification_url_1="https://a.example/")
    second = sdk.stream.webhooks.update(**ACCOUNT, body_notification_url_2="https://b.example/")
    assert first.secret != second.secret
    found = sdk.stream.webhooks.get(**ACCOUNT)
    assert found.notification_url == "https://b.example/"
    assert found.secret == second.secret
    assert found.modified
    assert sdk.stream.webhooks.delete(**ACCOUNT) == "ok"
    assert simulator.outbox.subscription is None


def test_the_sdk_gets_a_token(sdk: Any, simulator: StreamSimulator) -> None:
    uid = simulator.upload(private=True, generation_seconds=0)
    sdk.stream.downloads.create(uid, **ACCOUNT)
    exp = int(time.time()) + 60
    answer = sdk.stream.token.create(uid, **ACCOUNT, exp=exp, downloadable=True)
    assert answer.token
    url = download_url(uid, "default")
    assert simulator.fetch(url) == 401
    assert simulator.fetch(url.replace(uid, answer.token)) == 200


def test_the_sdk_is_let_in_by_an_email_and_a_key(server: SimulatorServer) -> None:
    settings = server.simulator.settings
    with connect(server, api_email=settings.api_email, api_key=settings.api_key) as sdk:
        assert list(sdk.stream.list(**ACCOUNT)) == []


def test_the_sdk_knows_the_errors(
    server: SimulatorServer, sdk: Any, simulator: StreamSimulator
) -> None:
    with pytest.raises(cloudflare.NotFoundError) as missing:
        sdk.stream.downloads.get("0" * 32, **ACCOUNT)
    assert [error.code for error in missing.value.errors] == [10003]
    with (
        connect(server, api_token="wrong") as stranger,
        pytest.raises(cloudflare.AuthenticationError) as unknown,
    ):
        stranger.stream.get("0" * 32, **ACCOUNT)
    assert [error.code for error in unknown.value.errors] == [10000]
    with pytest.raises(cloudflare.BadRequestError) as early:
        sdk.stream.downloads.create(simulator.upload(encode_seconds=60), **ACCOUNT)
    assert [error.code for error in early.value.errors] == [10005]
    simulator.others_send(1200)
    with pytest.raises(cloudflare.RateLimitError) as blocked:
        sdk.stream.webhooks.get(**ACCOUNT)
    assert int(blocked.value.response.headers["retry-after"]) in (299, 300)
