"""Run the simulator as a server on loopback, which is all that the tests here can reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_socket

from tests.simulator import SimulatorServer, StreamSimulator


@pytest.fixture(autouse=True)
def aws() -> None:
    """Allow loopback alone; no test here needs AWS."""
    pytest_socket.socket_allow_hosts(["127.0.0.1"])


@pytest.fixture
def server() -> Iterator[SimulatorServer]:
    """Return the server, whose slow answers come a byte every 50 ms."""
    with SimulatorServer(drip_seconds=0.05) as server:
        yield server


@pytest.fixture
def simulator(server: SimulatorServer) -> StreamSimulator:
    """Return what the server serves."""
    return server.simulator
