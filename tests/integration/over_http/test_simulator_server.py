"""Test the simulator as a server: webhooks, test API, and its life as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.simulator import SimulatorServer

ROOT = Path(__file__).parents[3]


def enter(door_url: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Return the status and the JSON of the test API's answer."""
    content = None if body is None else json.dumps(body).encode()
    answer = urllib3.request(method, door_url + path, body=content, timeout=5.0, retries=False)
    return answer.status, answer.json()


class Receiver:
    """A subscriber, which keeps the webhooks that come."""

    def __init__(self) -> None:
        self.events: list[tuple[dict[str, str], bytes]] = []
        self.came = threading.Semaphore(0)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.events.append((dict(self.headers), body))
                self.send_response(200)
                self.end_headers()
                receiver.came.release()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.http.serve_forever, args=(0.05,))
    thread.start()
    yield receiver
    receiver.http.shutdown()
    receiver.http.server_close()
    thread.join()


def test_a_webhook_is_sent_when_it_is_due(server: SimulatorServer, receiver: Receiver) -> None:
    server.simulator.outbox.subscribe(receiver.url, 0)
    uid = server.simulator.upload(encode_seconds=0.2)
    assert receiver.came.acquire(timeout=5)
    ((headers, body),) = receiver.events
    assert json.loads(body)["uid"] == uid
    assert headers["Webhook-Signature"].startswith("time=")


def test_a_webhook_that_is_not_taken_is_not_sent_again(server: SimulatorServer) -> None:
    server.simulator.outbox.subscribe("http://127.0.0.1:9/", 0)
    uid = server.simulator.upload()
    while not server.webhook_answers:
        server.stopped.wait(0.02)
    assert server.webhook_answers == [(uid, 0)]


def test_the_door_uploads_drops_and_shows(server: SimulatorServer) -> None:
    door = server.door_url
    status, answer = enter(door, "POST", "/videos", {"name": "a.mp4", "webhook_delays": [0, 1]})
    assert status == 200
    uid = answer["uid"]
    server.simulator.videos[uid].create("audio", 0.0)
    state = enter(door, "GET", "/state")[1]
    assert state["videos"][uid]["name"] == "a.mp4"
    assert state["videos"][uid]["downloads"].keys() == {"audio"}
    assert enter(door, "DELETE", f"/videos/{uid}/downloads/audio") == (200, {})
    assert enter(door, "DELETE", f"/videos/{uid}") == (200, {})
    assert enter(door, "GET", "/state")[1]["videos"] == {}


def test_the_door_sends_a_webhook_again(server: SimulatorServer, receiver: Receiver) -> None:
    server.simulator.outbox.subscribe(receiver.url, 0)
    _, answer = enter(server.door_url, "POST", "/videos", {})
    assert receiver.came.acquire(timeout=5)
    assert enter(server.door_url, "POST", f"/videos/{answer['uid']}/webhook") == (200, {})
    assert receiver.came.acquire(timeout=5)
    assert len(receiver.events) == 2


def test_the_door_sets_faults_and_settings(server: SimulatorServer) -> None:
    door, settings = server.door_url, server.simulator.settings
    body = {"faults": ["server error"], "calls": ["list videos"], "times": 2}
    assert enter(door, "POST", "/faults", body) == (200, {})
    url = f"{server.base_url}/accounts/{settings.account_id}/stream"
    assert urllib3.request("GET", url, retries=False).status == 500
    assert enter(door, "PUT", "/settings", {"answer_shape": "flat"}) == (200, {})
    assert settings.answer_shape == "flat"


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
        ("DELETE", "/videos/unknown", None),
        ("POST", "/faults", {"faults": ["boredom"]}),
        ("PUT", "/settings", {"colour": "red"}),
    ],
)
def test_the_door_says_what_is_wrong_with_a_request(
    server: SimulatorServer, method: str, path: str, body: object
) -> None:
    status, answer = enter(server.door_url, method, path, body)
    assert status == 400
    assert answer["error"]
    assert enter(server.door_url, "GET", "/state")[1]["videos"] == {}


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.simulator", "--answer-shape", "flat", "--seed", "7"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def where(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout
    answer: dict[str, str] = json.loads(process.stdout.readline())
    return answer


def test_the_process_says_where_it_is_and_stops_when_told(process: subprocess.Popen[str]) -> None:
    place = where(process)
    state = enter(place["door_url"], "GET", "/state")[1]
    assert state["settings"]["account_id"] == place["account_id"]
    assert state["settings"]["answer_shape"] == "flat"
    assert enter(place["door_url"], "POST", "/stop") == (200, {})
    assert process.wait(timeout=5) == 0


def test_the_process_stops_on_a_signal(process: subprocess.Popen[str]) -> None:
    where(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 0
