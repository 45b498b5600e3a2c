"""Block the network for the fault tests, and begin each without metrics of another test."""

from __future__ import annotations

import pytest

from stream_downloads.adapters import observability


@pytest.fixture(autouse=True)
def _alone(socket_disabled: None) -> None:  # noqa: ARG001
    """Block sockets, and write out the metrics that an earlier test has recorded."""
    observability.flush()
