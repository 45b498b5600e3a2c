"""Open HTTP connections that keep to their time limits, whatever the server does."""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import time
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

CONNECT_SECONDS: Final = 2.0
READ_SECONDS: Final = 15.0


def bounded_pool(maxsize: int = 32) -> urllib3.PoolManager:
    """Return a pool whose connect limit covers all addresses and TLS, its read limit all reads.

    urllib3 applies the connect limit to each address of a host and again to TLS, so that a request
    could leave long after its permit. It applies the read limit to each piece that arrives, so that
    headers that arrive byte by byte could hold a call for hours: http.client reads them in one
    call, in which nothing else can check the time. (Only the resolver limits a DNS look-up.)
    """
    pool = urllib3.PoolManager(num_pools=2, maxsize=maxsize, block=False)
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool


class _BoundedStream(io.RawIOBase):
    """Read a socket's stream until one deadline."""

    def __init__(self, stream: io.RawIOBase, connection: socket.socket) -> None:
        self._stream = stream
        self._connection = connection
        self._deadline = time.monotonic() + (connection.gettimeout() or READ_SECONDS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer did not end in time")
        self._connection.settimeout(remaining)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(connection, *args, **options)
        self.fp = io.BufferedReader(_BoundedStream(self.fp.detach(), connection))


class _HttpConnection(HTTPConnection):
    response_class = _BoundedResponse
    # A function is frozen between two events. Meanwhile the server may close a connection that
    # still looks open here.
    IDLE_SECONDS = 60.0

    def connect(self) -> None:
        """Connect; raise an error that says for every failure that nothing was sent."""
        try:
            super().connect()
        except (ConnectTimeoutError, NewConnectionError):
            raise
        except (OSError, HTTPError) as error:
            raise NewConnectionError(self, f"could not connect: {error}") from error

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        self._used_at = time.time()
        return super().getresponse()

    @property
    def is_connected(self) -> bool:
        idle_seconds = time.time() - getattr(self, "_used_at", 0.0)
        return super().is_connected and 0 <= idle_seconds < self.IDLE_SECONDS

    def _new_conn(self) -> socket.socket:
        """Try the host's addresses in turn, each for its share of the time that is left."""
        deadline = time.monotonic() + (self.timeout or CONNECT_SECONDS)
        found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        hosts = [str(address[0]) for *_, address in found]
        failure: OSError | None = None
        for tried, host in enumerate(hosts):
            share = max((deadline - time.monotonic()) / (len(hosts) - tried), 0.001)
            try:
                connection = socket.create_connection((host, self.port), share)
            except OSError as error:
                failure = error
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            return connection
        raise NewConnectionError(self, f"could not connect: {failure}") from failure


class _HttpsConnection(_HttpConnection, HTTPSConnection):
    def connect(self) -> None:
        self.ssl_context = _tls_context()
        super().connect()


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Return one context for all connections: it takes tens of milliseconds to build."""
    return ssl.create_default_context()


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
