"""Unit tests reach nothing: whoever opens a socket fails."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_network(socket_disabled: None) -> None:
    """Block sockets in every test of this folder."""
