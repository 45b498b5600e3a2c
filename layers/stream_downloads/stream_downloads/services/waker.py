"""Starts a run of the poller when none is at work."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters import aws
from stream_downloads.adapters.observability import described, logger
from stream_downloads.adapters.shared_state import POLLER_LEASE, Lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_downloads.adapters.shared_state import Control

# A run that was started takes its lease over by then, or else it did not start.
CLAIM_SECONDS: Final = 10.0
# A run that is at work notices new rows within this time, also at its end.
KNOWN_FOR: Final = 5.0


def start_poller(claim: str) -> None:
    """Invoke PollDownloads asynchronously, to take over the lease of the owner that is given."""
    aws.client("lambda").invoke(
        FunctionName=os.environ["POLL_DOWNLOADS_FUNCTION"],
        InvocationType="Event",
        Payload=json.dumps({"claim": claim}).encode(),
    )


class Waker:
    """Starts the poller, at most one run of many invocations.

    Each invocation first takes the poller's lease for the run that it starts.
    """

    def __init__(
        self,
        control: Control,
        start: Callable[[str], None],
        monotonic: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            control: the store of the lease.
            start: starts a run, which takes over the lease of the owner that is given.
            monotonic: seconds.
        """
        self._control = control
        self._start = start
        self._monotonic = monotonic
        self._known_until = 0.0

    def wake(self) -> None:
        """Start a run unless one is at work.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: AWS could not be asked.
        """
        if self._monotonic() < self._known_until:
            return
        claim = uuid.uuid4().hex
        if Lease(self._control, POLLER_LEASE, claim, CLAIM_SECONDS).hold():
            self._start(claim)
        self._known_until = self._monotonic() + KNOWN_FOR


def wake_poller(waker: Waker | None) -> None:
    """Start a run for new rows, unless one is at work; the next minute's goes on if none starts."""
    try:
        if waker:
            waker.wake()
    except (ClientError, BotoCoreError) as error:
        logger.warning(
            "No run of the poller could be started: the next minute's goes on",
            extra=described(error),
        )
