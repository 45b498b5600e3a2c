"""Connections that keep to their time limits, whatever the other side does."""

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
    """Connections that keep to their time limits whatever the other side does.

    In urllib3 the connect limit counts for each address of a host and once more for TLS, and the
    read limit for each piece that arrives, so that a slow drip evades it. Here the connect limit
    covers all addresses and TLS, and the read limit the whole answer. (Only the resolver's own
    limits bound the look-up of the host's name.)
    """
    pool = urllib3.PoolManager(num_pools=2, maxsize=maxsize, block=False)
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool


class _PacedStream(io.RawIOBase):
    """A socket's stream of which all reads together end by one deadline."""

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


class _PacedResponse(http.client.HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(connection, *args, **options)
        self.fp = io.BufferedReader(_PacedStream(self.fp.detach(), connection))


class _HttpConnection(HTTPConnection):
    response_class = _PacedResponse
    # A function that was frozen between two events wakes up with connections that the other side
    # has long given up, and that look alive.
    IDLE_SECONDS = 60.0

    def connect(self) -> None:
        """Connect; every failure on the way says that nothing has been sent yet."""
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
        limit = self.timeout or CONNECT_SECONDS
        deadline = time.monotonic() + limit
        addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for left, (_family, _type, _protocol, _name, address) in zip(
            range(len(addresses), 0, -1), addresses, strict=True
        ):
            share = max((deadline - time.monotonic()) / left, 0.001)
            try:
                connection = socket.create_connection((str(address[0]), self.port), share)
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
    """One for all connections: reading the system's certificates takes tens of milliseconds."""
    return ssl.create_default_context()


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
