"""Test the simulator as a server: webhooks and test API."""

from __future__ import annotations

import json
from typing import Any

import pytest
import urllib3

from tests.simulator import Request, Response, SimulatorServer


def enter(door_url: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Return the status and the JSON of the test API's answer."""
    content = None if body is None else json.dumps(body).encode()
    answer = urllib3.request(method, door_url + path, body=content, timeout=5.0, retries=False)
    return answer.status, answer.json()


def answers(server: SimulatorServer) -> list[tuple[str, int]]:
    """Wait for the first answer to a webhook; return all answers."""
    while not server.webhook_answers:
        server.stopped.wait(0.02)
    return server.webhook_answers


def test_a_webhook_is_sent_when_it_is_due(
    server: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[Request] = []

    def take(request: Request) -> Response:
        came.append(request)
        return Response(200, b"")

    monkeypatch.setattr(server.simulator, "handle", take)
    server.simulator.outbox.subscribe(server.base_url, 0)
    uid = server.simulator.upload(encode_seconds=0.2)
    assert answers(server) == [(uid, 200)]
    (request,) = came
    assert json.loads(request.body)["uid"] == uid
    assert request.headers["webhook-signature"].startswith("time=")


def test_a_webhook_that_is_not_taken_is_not_sent_again(server: SimulatorServer) -> None:
    server.simulator.outbox.subscribe("http://127.0.0.1:9/", 0)
    uid = server.simulator.upload()
    assert answers(server) == [(uid, 0)]


def test_the_door_uploads(server: SimulatorServer) -> None:
    details = {"name": "a.mp4", "webhook_delays": [0, 1]}
    status, answer = enter(server.door_url, "POST", "/videos", details)
    assert status == 200
    upload = server.simulator.videos[answer["uid"]].upload
    assert upload.name == "a.mp4"
    assert upload.webhook_delays == (0, 1)


def test_the_door_throttles_for_a_while(server: SimulatorServer) -> None:
    url = f"{server.base_url}/accounts/{server.simulator.settings.account_id}/stream"
    assert enter(server.door_url, "POST", "/throttle", {"seconds": 20}) == (200, {})
    answer = urllib3.request("GET", url, retries=False)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "20"
    assert enter(server.door_url, "POST", "/throttle", {"seconds": 0}) == (200, {})
    assert urllib3.request("GET", url, retries=False).status == 401


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/nothing", None),
        ("POST", "/videos", {"colour": "red"}),
        ("POST", "/videos", []),
        ("POST", "/videos", "talk.mp4"),
        ("POST", "/videos", {"encode_seconds": "soon"}),
        ("POST", "/videos", {"generation_seconds": "soon"}),
        ("POST", "/videos", {"progress": "brisk"}),
        ("POST", "/videos", {"claims": "paused"}),
        ("POST", "/videos", {"webhook_delays": ["soon"]}),
        ("POST", "/throttle", {"seconds": -1}),
        ("POST", "/throttle", {"seconds": float("inf")}),
        ("DELETE", "/videos", None),
    ],
)
def test_the_door_says_what_is_wrong_with_a_request(
    server: SimulatorServer, method: str, path: str, body: object
) -> None:
    status, answer = enter(server.door_url, method, path, body)
    assert status == 400
    assert answer["error"]
    assert server.simulator.videos == {}
