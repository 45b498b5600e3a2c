"""The error of a smoke test that failed."""

from __future__ import annotations


class Failed(Exception):
    """The smoke test has failed; the text is a sentence for its user."""
