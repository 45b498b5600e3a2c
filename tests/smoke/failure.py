"""The end of a smoke test that did not prove what it should."""

from __future__ import annotations


class Failed(Exception):
    """The smoke test has failed; the text is a sentence for its user."""
