"""Polls every minute: the simple alternative to compare with.

Every minute it creates what could not be created when the webhook came, then lists every pending
download, the oldest first, sixteen requests at a time. It keeps to the same limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from stream_downloads.adapters.stream_api import StreamClient
from stream_downloads.domain.download import DownloadType
from tests.support.clock import VirtualClock

BATCH = 16
WINDOW = 300.0
SECONDS = 10.0


class MinutePoller:
    """The simplest poller, with everything in memory: it is never restarted here."""

    def __init__(
        self, stream: StreamClient, limit: int, clock: VirtualClock, latency: float
    ) -> None:
        """Take the limit of any rolling five minutes and the latency of a batch."""
        self.ready_at: dict[str, float] = {}
        self._stream = stream
        self._limit = limit
        self._clock = clock
        self._latency = latency
        self._sent: deque[float] = deque()
        self._wanted: dict[str, None] = {}
        self._pending: dict[str, None] = {}

    def receive(self, uid: str) -> None:
        """Create at once after a webhook, if the limit allows."""
        self._wanted[uid] = None
        if self._free():
            self._create(uid)

    def run(self) -> None:
        """Poll every unfinished download, once a minute."""
        self._batches(list(self._wanted), self._create)
        self._batches(list(self._pending), self._list)

    def _batches(self, uids: Sequence[str], request: Callable[[str], None]) -> None:
        while uids and self._free():
            self._clock.sleep(self._latency)
            batch, uids = uids[:BATCH], uids[BATCH:]
            for uid in batch[: self._free()]:  # webhooks may have come meanwhile
                request(uid)

    def _create(self, uid: str) -> None:
        self._sent.append(self._clock())
        self._stream.create_download(uid, DownloadType.DEFAULT, seconds=SECONDS)
        del self._wanted[uid]
        self._pending[uid] = None

    def _list(self, uid: str) -> None:
        self._sent.append(self._clock())
        state = self._stream.list_downloads(uid, seconds=SECONDS)[DownloadType.DEFAULT]
        if state.status == "ready":
            del self._pending[uid]
            self.ready_at[uid] = self._clock()

    def _free(self) -> int:
        while self._sent and self._sent[0] <= self._clock() - WINDOW:
            self._sent.popleft()
        return max(0, self._limit - len(self._sent))
