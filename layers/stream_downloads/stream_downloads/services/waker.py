"""Starts a run of the poller when none is at work."""

from __future__ import annotations

import json
import math
import os
import uuid
from functools import partial
from typing import TYPE_CHECKING, Final

from stream_downloads.adapters import aws
from stream_downloads.adapters.observability import described, logger
from stream_downloads.adapters.shared_state import POLLER_LEASE, Lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_downloads.adapters.shared_state import Control
    from stream_downloads.services.dependencies import Service

# A run takes over its lease within this time, or it did not start.
CLAIM_SECONDS: Final = 10.0
# A run that was just started or found reads the index after this time: no other is needed.
KNOWN_FOR: Final = 1.0


def start_poller(function_name: str, claim: str) -> None:
    """Invoke PollDownloads asynchronously, to take over the lease of the owner that is given."""
    aws.client("lambda").invoke(
        FunctionName=function_name,
        InvocationType="Event",
        Payload=json.dumps({"claim": claim}).encode(),
    )


class Waker:
    """Starts the poller: one run for many invocations.

    Each invocation first takes the poller's lease for the run that it starts.
    """

    def __init__(
        self,
        control: Control,
        start: Callable[[str], None],
        window: float,
        monotonic: Callable[[], float],
    ) -> None:
        """Take the parts, and start nothing yet.

        Args:
            control: the store of the lease.
            start: starts a run, which takes over the lease of the owner that is given.
            window: for how many seconds a run follows what falls due.
            monotonic: seconds.
        """
        self._control = control
        self._start = start
        self._window = window
        self._monotonic = monotonic
        self._known_until = -math.inf

    def wake(self, due_in: float) -> None:
        """Start a run for what falls due in so many seconds, unless one is at work.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: AWS could not be asked.
        """
        if due_in >= self._window or self._monotonic() < self._known_until:
            return
        claim = uuid.uuid4().hex
        lease = Lease(self._control, POLLER_LEASE, claim, CLAIM_SECONDS)
        if lease.hold():
            try:
                self._start(claim)
            except BaseException:
                lease.release()
                raise
        self._known_until = self._monotonic() + KNOWN_FOR


def wake_poller(waker: Waker | None, due_in: float) -> None:
    """Start a run for what falls due in so many seconds, unless one is at work.

    If none can be started, the scheduled run of the next minute does the work.
    """
    try:
        if waker:
            waker.wake(due_in)
    except Exception as error:  # noqa: BLE001 - what the caller has done stands
        logger.warning(
            "No run of the poller could be started: the next minute's goes on",
            extra=described(error),
        )


def waker_of(service: Service) -> Waker | None:
    """Return a waker, or None if PollWindowSeconds is 0: then the scheduled runs are enough.

    Raises:
        KeyError: a variable is missing; the error names it.
    """
    window = float(os.environ["POLL_WINDOW_SECONDS"])
    start = partial(start_poller, os.environ["POLL_DOWNLOADS_FUNCTION"])
    return Waker(service.control, start, window, service.monotonic) if window else None
