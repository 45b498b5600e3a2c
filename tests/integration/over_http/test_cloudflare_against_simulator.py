"""Test the Stream client over real sockets: connections, time limits, faults of the wire."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from stream_downloads.adapters import http
from stream_downloads.adapters.stream_api import (
    DownloadState,
    NotReached,
    RefusalKind,
    Refused,
    StreamClient,
)
from stream_downloads.domain.download import DownloadType
from tests.simulator import Fault, SimulatorServer, StreamSimulator, download_url


def connect(
    server: SimulatorServer, pool: urllib3.PoolManager | None = None, **options: Any
) -> StreamClient:
    settings = server.simulator.settings
    options = {"base_url": server.base_url} | options
    authorization = {"Authorization": f"Bearer {settings.api_token}"}
    return StreamClient(
        settings.account_id, authorization=lambda: authorization, pool=pool, **options
    )


@dataclass(frozen=True)
class Cloudflare:
    """The simulator with one video, and a client of it."""

    server: SimulatorServer
    client: StreamClient
    uid: str

    def script(self, *faults: Fault) -> None:
        self.server.simulator.faults.script(*faults)

    def create(self, seconds: float = 5.0) -> Mapping[str, DownloadState]:
        return self.client.create_download(self.uid, None, seconds=seconds)

    def list(self) -> Mapping[str, DownloadState]:
        return self.client.list_downloads(self.uid, seconds=5)


@pytest.fixture
def cloudflare(server: SimulatorServer) -> Cloudflare:
    return Cloudflare(server, connect(server), server.simulator.upload())


@pytest.fixture
def client(server: SimulatorServer) -> StreamClient:
    return connect(server)


@contextmanager
def lasts(at_least: float, below: float) -> Iterator[None]:
    """Check how many seconds the block takes."""
    began = time.monotonic()
    yield
    assert at_least <= time.monotonic() - began < below


# The way of a download


@pytest.mark.parametrize("shape", ["keyed", "flat"])
def test_a_download_is_created_followed_and_deleted(
    client: StreamClient, simulator: StreamSimulator, shape: str
) -> None:
    simulator.settings.answer_shape = shape  # type: ignore[assignment]
    uid = simulator.upload(generation_seconds={"default": 0.0, "audio": 3600.0})
    assert client.list_downloads(uid, seconds=5) == {}
    ready = DownloadState("ready", 100.0, download_url(uid, "default"))
    assert client.create_download(uid, None, seconds=5) == {"default": ready}
    created = client.create_download(uid, DownloadType.AUDIO, seconds=5)
    assert created["audio"].status == "inprogress"
    assert client.list_downloads(uid, seconds=5).keys() == {"default", "audio"}
    client.delete_downloads(uid, None, seconds=5)
    assert client.list_downloads(uid, seconds=5).keys() == {"audio"}
    client.delete_downloads(uid, DownloadType.AUDIO, seconds=5)
    assert client.list_downloads(uid, seconds=5) == {}


# Connections


def test_one_connection_serves_many_calls_even_after_refusals(cloudflare: Cloudflare) -> None:
    cloudflare.script(Fault.NOT_FOUND, Fault.UNAVAILABLE_HTML, Fault.REDIRECT)
    for _ in range(3):
        with pytest.raises(Refused):
            cloudflare.list()
    cloudflare.list()
    assert cloudflare.server.connections == 1


def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again(
    cloudflare: Cloudflare,
) -> None:
    cloudflare.script(Fault.HUGE_BODY)
    with pytest.raises(Refused, match="longer than 1048576 bytes"):
        cloudflare.list()
    assert cloudflare.list() == {}
    assert cloudflare.server.connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    cloudflare: Cloudflare, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudflare.list()
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 61)
    cloudflare.list()
    assert cloudflare.server.connections == 2


def test_several_threads_share_one_client(client: StreamClient, simulator: StreamSimulator) -> None:
    uids = [simulator.upload() for _ in range(8)]

    def url_of(uid: str) -> str | None:
        return client.create_download(uid, None, seconds=10)["default"].url

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(url_of, uids * 10))
    assert found == [download_url(uid, "default") for uid in uids] * 10
    assert simulator.counts()["create download"] == 80


# Limits


@pytest.mark.parametrize("fault", [Fault.SLOW_BODY, Fault.SLOW_HEAD, Fault.HANG_AFTER], ids=str)
def test_no_slowness_outlives_the_deadline(cloudflare: Cloudflare, fault: Fault) -> None:
    cloudflare.script(fault)
    with lasts(0.35, 0.8), pytest.raises((NotReached, Refused)) as caught:
        cloudflare.create(seconds=0.4)
    assert caught.value.ambiguous


def test_a_drip_cannot_outlive_the_deadline_of_an_ordinary_pool_either(
    cloudflare: Cloudflare,
) -> None:
    server = cloudflare.server
    ordinary = replace(cloudflare, client=connect(server, urllib3.PoolManager()))
    cloudflare.script(Fault.SLOW_BODY)
    with lasts(0.35, 0.8), pytest.raises(Refused, match="did not end in time") as caught:
        ordinary.create(seconds=0.4)
    assert caught.value.kind is RefusalKind.UNUSABLE
    # The connection, with half an answer in it, is not used again.
    assert ordinary.list().keys() == {"default"}


def test_the_last_wait_for_an_answer_is_no_longer_than_what_is_left(cloudflare: Cloudflare) -> None:
    cloudflare.server.drip_seconds = 0.5
    cloudflare.script(Fault.SLOW_HEAD)
    with lasts(0.55, 0.9), pytest.raises(NotReached):
        cloudflare.create(seconds=0.6)


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER], ids=str)
def test_a_reset_leaves_open_whether_it_happened(cloudflare: Cloudflare, fault: Fault) -> None:
    cloudflare.script(fault)
    with pytest.raises(NotReached) as caught:
        cloudflare.create()
    assert caught.value.ambiguous
    video = cloudflare.server.simulator.videos[cloudflare.uid]
    assert bool(video.downloads) is (fault is Fault.RESET_AFTER)


def test_a_body_that_is_cut_off_is_no_answer(cloudflare: Cloudflare) -> None:
    cloudflare.script(Fault.CUT_OFF)
    with pytest.raises(Refused, match="broke off"):
        cloudflare.list()


# Before anything is sent


def unreached(base_url: str, seconds: float = 2.0) -> NotReached:
    client = StreamClient(
        "a" * 32, base_url=base_url, authorization=lambda: {"Authorization": "Bearer hush"}
    )
    with pytest.raises(NotReached) as caught:
        client.list_videos(seconds=seconds)
    assert "hush" not in str(caught.value)
    return caught.value


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_closed_port_is_reported_as_not_sent(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    assert not unreached(f"http://127.0.0.1:{port}").ambiguous


def test_a_host_without_an_address_is_reported_as_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", no_address)
    assert not unreached("https://api.invalid").ambiguous


def test_an_address_that_makes_no_sense_is_reported_as_not_sent() -> None:
    assert not unreached("http://[::bad").ambiguous


def test_all_addresses_of_a_host_are_tried_within_the_limit_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares: list[float] = []

    def unreachable(_: object, share: float) -> socket.socket:
        shares.append(share)
        raise TimeoutError("timed out")

    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))] * 4
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: addresses)
    monkeypatch.setattr("socket.create_connection", unreachable)
    assert not unreached("http://127.0.0.1:9", seconds=1.0).ambiguous
    assert shares == pytest.approx([0.25, 1 / 3, 0.5, 1.0], abs=0.05)


def test_the_next_address_is_tried_if_one_fails(
    server: SimulatorServer, client: StreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(server.base_url.split(":")[2].split("/")[0])
    addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host in ("127.0.0.2", "127.0.0.1")
    ]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: addresses)
    tried: list[str] = []

    def connection(address: tuple[str, int], _share: float) -> socket.socket:
        tried.append(address[0])
        if address[0] == "127.0.0.2":
            raise ConnectionRefusedError(111, "Connection refused")
        connected = socket.socket()
        connected.connect(address)
        return connected

    monkeypatch.setattr("socket.create_connection", connection)
    assert client.list_videos(seconds=5).videos == []
    assert tried == ["127.0.0.2", "127.0.0.1"]


def test_a_host_that_never_answers_the_handshake_is_reported_as_not_sent(
    listener: socket.socket,
) -> None:
    with lasts(0.35, 0.8):
        assert not unreached(f"https://127.0.0.1:{listener.getsockname()[1]}", 0.4).ambiguous


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a self-signed certificate for 127.0.0.1, with its key."""
    path = tmp_path / "certificate.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    name = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", path, "-out", f"{path}.public")
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", *name, *files],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + (tmp_path / "certificate.pem.public").read_bytes())
    return path


@pytest.fixture
def secure(server: SimulatorServer, certificate: Path) -> SimulatorServer:
    """Return the simulator behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = server._http.socket
    server._http.socket = context.wrap_socket(
        listener, server_side=True, do_handshake_on_connect=False
    )
    return server


def secure_client(server: SimulatorServer) -> StreamClient:
    return connect(server, base_url=server.base_url.replace("http:", "https:"))


def test_a_self_signed_certificate_is_reported_as_not_sent(secure: SimulatorServer) -> None:
    with pytest.raises(NotReached, match="CERTIFICATE_VERIFY_FAILED") as caught:
        secure_client(secure).list_videos(seconds=5)
    assert not caught.value.ambiguous
    assert secure.simulator.calls == []


def test_tls_holds_the_deadline_too(
    secure: SimulatorServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(http, "_tls_context", lambda: trusting)
    client = secure_client(secure)
    uid = secure.simulator.upload()
    assert client.list_downloads(uid, seconds=5) == {}
    secure.simulator.faults.script(Fault.SLOW_HEAD)
    with lasts(0.35, 0.8), pytest.raises(NotReached):
        client.create_download(uid, None, seconds=0.4)


def test_certificates_are_checked_by_default() -> None:
    context = http._tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
