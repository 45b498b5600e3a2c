"""Block sockets in unit tests, and give them a clock."""

from __future__ import annotations

import pytest

from tests.support.clock import VirtualClock


@pytest.fixture(autouse=True)
def _no_network(socket_disabled: None) -> None:
    """Block sockets in every test of this folder."""


@pytest.fixture
def clock() -> VirtualClock:
    """Return the clock of the test."""
    return VirtualClock()
