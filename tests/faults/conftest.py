"""Block the network for the fault tests, and begin each without metrics of another test."""

from __future__ import annotations

import pytest

from stream_downloads.adapters import observability


@pytest.fixture(autouse=True)
def _no_network(socket_disabled: None) -> None:
    """Block sockets in every test of this folder."""


@pytest.fixture(autouse=True)
def _no_earlier_metrics() -> None:
    """Write out the metrics that an earlier test has recorded."""
    observability.flush()
