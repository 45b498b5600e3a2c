"""Put the simulator in place of a connection pool: no socket, no thread, any clock."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError, ProtocolError, ReadTimeoutError

from tests.simulator.core import StreamSimulator, parse_query
from tests.simulator.messages import Request, Response, Wire

BASE_URL = "http://simulator/client/v4"
# Between two bytes of a slow body.
DRIP_SECONDS = 0.5


class InProcessPool(urllib3.PoolManager):
    """A pool that answers as `urllib3.PoolManager`, from a simulator in the same process.

    ``sleep`` makes the time pass that a request takes: a hang until the caller gives up, or a slow
    body. Let it move the clock of the test.
    """

    def __init__(
        self,
        simulator: StreamSimulator,
        *,
        sleep: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        super().__init__(num_pools=1)
        self.simulator = simulator
        self.sleep = sleep

    def request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: urllib3.Timeout | None = None,
        **_others: Any,
    ) -> urllib3.HTTPResponse:
        """Send one request; the answer's body is still to be read."""
        parts = urlsplit(url)
        request = Request(
            method,
            parts.path,
            parse_query(parts.query) if parts.query else {},
            {name.lower(): value for name, value in (headers or {}).items()},
            body or b"",
        )
        response = self.simulator.handle(request)
        if response.wire is not Wire.WHOLE:
            self._act_out(response, url, timeout)
        return self._answer(method, response)

    def _act_out(self, response: Response, url: str, timeout: urllib3.Timeout | None) -> None:
        """Raise what urllib3 raises if no answer comes."""
        patience = (timeout.clone().read_timeout if timeout else None) or 60.0
        match response.wire:
            case Wire.CANNOT_CONNECT:
                raise NewConnectionError(HTTPConnection("simulator"), "could not connect")
            case Wire.RESET:
                reset = ConnectionResetError(104, "Connection reset by peer")
                raise ProtocolError("Connection aborted.", reset) from reset
            case Wire.HANG | Wire.SLOW_HEAD:
                self.sleep(patience)
                pool = urllib3.HTTPConnectionPool("simulator")
                raise ReadTimeoutError(pool, url, f"Read timed out. (read timeout={patience})")

    def _answer(self, method: str, response: Response) -> urllib3.HTTPResponse:
        headers, body = response.headers, io.BytesIO(response.body)
        if response.wire is Wire.SLOW_BODY:
            body = _Drip(response.body, self.sleep)
        elif response.wire is Wire.CUT_OFF:
            headers = headers | {"content-length": str(len(response.body))}
            body = io.BytesIO(response.body[: len(response.body) // 2])
        return urllib3.HTTPResponse(
            body=body,
            headers=headers,
            status=response.status,
            preload_content=False,
            request_method=method,
        )


class _Drip(io.BytesIO):
    """A body of which each read gives one byte."""

    def __init__(self, content: bytes, sleep: Callable[[float], None]) -> None:
        super().__init__(content)
        self._sleep = sleep

    def read1(self, _size: int | None = -1, /) -> bytes:
        self._sleep(DRIP_SECONDS)
        return super().read1(1)

    read = read1
