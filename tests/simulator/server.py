"""Serve the simulator over HTTP: the API, network faults, webhooks, and a test API."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import urllib3

from tests.simulator.core import API_PATH, StreamSimulator, parse_query
from tests.simulator.messages import Request, Response, Wire
from tests.simulator.videos import FILE_NAMES, Upload, Video
from tests.simulator.webhooks import Webhook

DOOR = "/_simulator"
HANG_SECONDS = 60.0


class SimulatorServer:
    """Serves a simulator on a port of its own until the context ends.

    Webhooks go out over HTTP as they fall due by the simulator's clock, which has to be the real
    one for that; each is tried once. ``webhook_answers`` keeps what came back: (uid, status), the
    status 0 for no answer. ``addresses`` stands for the DNS: where a URL that only exists on AWS
    is reached here.

    Beside the API, ``/_simulator`` lets another process decide what happens: ``POST /videos`` with
    the fields of an `Upload` uploads one; ``POST /throttle`` with ``{"seconds": 20}`` answers 429
    for so long.
    """

    def __init__(
        self,
        simulator: StreamSimulator | None = None,
        *,
        drip_seconds: float = 0.5,
    ) -> None:
        self.simulator = simulator or StreamSimulator()
        self.drip_seconds = drip_seconds
        self.addresses: dict[str, str] = {}
        self.webhook_answers: list[tuple[str, int]] = []
        self.stopped = threading.Event()
        self._news = threading.Event()
        self._http = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self._threads = [
            threading.Thread(target=self._http.serve_forever, args=(0.05,), name="simulator"),
            threading.Thread(target=self._send_webhooks, name="simulator-webhooks"),
        ]

    @property
    def base_url(self) -> str:
        """Return the URL in place of ``https://api.cloudflare.com/client/v4``."""
        return self._origin + API_PATH

    @property
    def door_url(self) -> str:
        """Return the URL of the test API."""
        return self._origin + DOOR

    @property
    def _origin(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def connections(self) -> int:
        """Return how many connections were accepted so far."""
        return self._http.accepted

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        self._news.set()
        self._http.shutdown()
        self._http.hang_up()
        self._http.server_close()
        for thread in self._threads:
            thread.join()

    def wake(self) -> None:
        """Recompute the time of the next webhook after an upload."""
        self._news.set()

    def _send_webhooks(self) -> None:
        pool = urllib3.PoolManager(maxsize=8)
        with ThreadPoolExecutor(8, "simulator-webhook") as senders:
            while not self.stopped.is_set():
                # A late look is harmless; a video uploaded past this server is seen within 0.1 s.
                next_at = self.simulator.next_webhook_at
                wait = 0.1 if next_at is None else min(next_at - self.simulator.clock(), 0.1)
                self._news.wait(max(wait, 0.0))
                self._news.clear()
                for webhook in self.simulator.due_webhooks():
                    senders.submit(self._send_webhook, pool, webhook)
        pool.clear()

    def _send_webhook(self, pool: urllib3.PoolManager, webhook: Webhook) -> None:
        try:
            status = pool.request(
                "POST",
                self.addresses.get(webhook.url, webhook.url),
                body=webhook.body,
                headers=webhook.headers,
                timeout=10.0,
                retries=False,
            ).status
        except urllib3.exceptions.HTTPError:
            status = 0
        self.webhook_answers.append((webhook.video_uid, status))

    def enter(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Return the status and the JSON of the test API's answer."""
        try:
            given = json.loads(body) if body else {}
            if not isinstance(given, dict):
                raise TypeError("the body has to be a JSON object")
            return 200, self._entered(method, path.removeprefix(DOOR).strip("/").split("/"), given)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return 400, {"error": f"{type(error).__name__}: {error}"}

    def _entered(self, method: str, path: list[str], given: dict[str, Any]) -> object:
        match method, path:
            case "POST", ["videos"]:
                delays = given.pop("webhook_delays", None)
                upload = Upload(
                    **given, webhook_delays=None if delays is None else tuple(map(float, delays))
                )
                _live_through(upload)
                uid = self.simulator.upload(upload)
                self.wake()
                return {"uid": uid}
            case "POST", ["throttle"]:
                self.simulator.throttle(**given)
                return {}
        raise LookupError("no such door")


def _live_through(upload: Upload) -> None:
    """Create a video with both downloads once, so that a wrong value fails at once."""
    video = Video("0" * 32, 0.0, upload)
    for kind in FILE_NAMES:
        download = video.create(kind, 0.0)
        download.described(download.ends_at / 2)
    for now in (0.0, video.encoded_at):
        json.dumps(video.listed(now))


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for every connection's thread
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        super().__init__(address, handler)
        self._lines: set[socket.socket] = set()
        self.accepted = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self._lines.add(request)
        self.accepted += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._lines.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that wait for another request."""
        for line in list(self._lines):
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._lines.discard(line)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, owner: SimulatorServer, *args: Any, **options: Any) -> None:
        self._owner = owner
        super().__init__(*args, **options)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: the state shows all requests."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        path, _, query = self.path.partition("?")
        if path.startswith(DOOR + "/"):
            status, answer = self._owner.enter(self.command, path, body)
            response = Response(status, json.dumps(answer).encode())
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, path, parse_query(query), headers, body)
            response = self._owner.simulator.handle(request)
        self._give(response)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer  # noqa: N815

    def _give(self, response: Response) -> None:
        """Act out how the answer travels."""
        match response.wire:
            case Wire.WHOLE:
                self.wfile.write(_chunked(response))
            case Wire.HANG:
                self._owner.stopped.wait(HANG_SECONDS)
                self.close_connection = True
            case Wire.SLOW_HEAD:
                self._drip(_head(response) + response.body)
            case Wire.SLOW_BODY:
                self.wfile.write(_head(response))
                self._drip(response.body)
            case Wire.CUT_OFF:
                self.wfile.write(_head(response) + response.body[: len(response.body) // 2])
                self.close_connection = True
            case Wire.RESET | Wire.CANNOT_CONNECT:
                # The connection exists already: a reset is most like a host that cannot be reached.
                self._reset()

    def _drip(self, content: bytes) -> None:
        for byte in content:
            if self._owner.stopped.wait(self._owner.drip_seconds):
                break
            self.wfile.write(bytes([byte]))
        self.close_connection = True

    def _reset(self) -> None:
        """Close the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def _chunked(response: Response) -> bytes:
    """Return all of it in one piece; Cloudflare's API does not tell the length in advance."""
    chunk = b"%x\r\n%b\r\n" % (len(response.body), response.body) if response.body else b""
    return _head(response, "transfer-encoding: chunked") + chunk + b"0\r\n\r\n"


def _head(response: Response, framing: str | None = None) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        framing or f"content-length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
