"""Provide the one clock of the tests: only the code and the test move it."""

from __future__ import annotations

from collections.abc import Callable

START = 1_800_000_000.0


class VirtualClock:
    """A clock that moves when a test sets ``now`` or the code calls ``sleep``.

    Events during a sleep happen at their own time: ``next_event`` returns the time of the next one,
    or None; ``happen`` runs it. While ``stands_still``, sleeping takes no time.
    """

    def __init__(self, now: float = START) -> None:
        self.now = now
        self.stands_still = False
        self.next_event: Callable[[], float | None] = lambda: None
        self.happen: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let that many seconds pass."""
        if self.stands_still:
            return
        until = self.now + seconds
        while (at := self.next_event()) is not None and at <= until:
            self.now = max(self.now, at)
            self.happen()
        self.now = max(self.now, until)  # an event may have taken time of its own
