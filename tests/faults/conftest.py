"""Block the network for the fault tests, and begin each without metrics of another test."""

from __future__ import annotations

import pytest
import pytest_socket

from stream_downloads.adapters import observability


@pytest.fixture(autouse=True)
def _no_network() -> None:
    """Block all hosts but this one.

    In the same process the end-to-end tests' simulators accept connections from their stacks.
    """
    pytest_socket.socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _no_earlier_metrics() -> None:
    """Write out the metrics that an earlier test has recorded."""
    observability.flush()
