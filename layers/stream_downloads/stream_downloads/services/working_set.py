"""Keeps in memory the rows that a run of the poller works on."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.downloads_table import Due, LostRace
from stream_downloads.adapters.observability import described, logger
from stream_downloads.domain.download import Download, Status, Step
from stream_downloads.services.steps import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from stream_downloads.adapters.downloads_table import Downloads, Key
    from stream_downloads.services.steps import Outcome

ENTRIES_AT_ONCE: Final = 250
# Due rows in memory, of each queue: more would only get outdated while they wait for a permit.
DUE_AT_MOST: Final = 64
# Followed rows stay at the front of the index. `status` still reads past this many and a batch.
FOLLOWED_AT_MOST: Final = 80
# Polls that fall due so soon after another are sent with it, to share the write of the permits.
TOGETHER_WITHIN: Final = 1.0
# The table keeps three decimals.
SAME_TIME: Final = 0.001


class WorkingSet:
    """Keeps rows as last read or written, and followed rows: polled since, but not written.

    A change by others shows in the index, or makes the next write fail.
    """

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads
        self._rows: dict[Key, Download] = {}
        self._unsaved: set[Key] = set()
        # Rows that wait for the next run, each with its due time in the index: a row that others
        # write gets another time.
        self._left_out: dict[Key, float] = {}

    def read(self, queue: str, now: float, until: float) -> bool:
        """Read rows of a queue that are not in memory yet, the first to fall due.

        Followed rows come first in the index, but fall due later: they are skipped.

        Args:
            queue: of the index.
            now: the time.
            until: by when the rows fall due.

        Returns:
            True if there may be more.
        """
        unknown = self._unknown(queue, self._downloads.due(queue, until, ENTRIES_AT_ONCE))
        while (room := DUE_AT_MOST - len(self._due({queue}, now))) > 0:
            # An entry that moves while the index is read can come twice.
            entries = {entry.key: entry.due_at for entry in islice(unknown, room)}
            if not entries:
                break
            self._take_over(self._downloads.read(list(entries)))
            for key in entries.keys() - self._rows.keys():
                self._left_out[key] = entries[key]
        return room <= 0

    def due(self, queues: Collection[str], now: float) -> list[Download]:
        """Return the rows of these queues that are due, and the polls that are sent with them.

        Such a poll falls due within `TOGETHER_WITHIN`, or is of the same video as a due one: one
        list answers for all downloads of a video.
        """
        due = self._due(queues, now)
        if not due:
            return []
        videos = {row.video_uid for row in due if _waits_for_progress(row)}
        soon = self._due(queues, now + TOGETHER_WITHIN)
        same = [row for row in self._due(queues, math.inf) if row.video_uid in videos]
        polls = [row for row in (*soon, *same) if _waits_for_progress(row)]
        return list({row.key: row for row in (*due, *polls)}.values())

    def next_due_at(self) -> float:
        """Return when the next row falls due, infinity if none does."""
        rows = (row for row in self._rows.values() if row.key not in self._left_out)
        return min((row.due_at for row in rows if row.due_at is not None), default=math.inf)

    @property
    def can_follow(self) -> bool:
        """Return True if there is room for more rows that stay unwritten."""
        followed = sum(bool(row.work and row.work.indexed_at) for row in self._rows.values())
        return followed < FOLLOWED_AT_MOST

    def take(self, job: Sequence[Download], outcome: Outcome) -> None:
        """Take over the outcome of a step. Rows that it left unchanged wait for the next run."""
        changed = {row.key: row for _, row in outcome.changes}
        followed = {row.key: row for row in outcome.followed}
        self._rows |= changed | followed
        self._unsaved = self._unsaved - changed.keys() | followed.keys()
        for row in job:
            if row.key in changed or row.key in followed:
                continue
            if outcome.verdict is Verdict.LOST_RACE:  # the index leads to what others wrote
                self._forget(row.key)
            elif outcome.verdict in (Verdict.ANSWERED, Verdict.FAILED):
                self._left_out[row.key] = row.indexed_at or 0.0

    def write(self, in_parallel: Callable[..., Iterable[bool]]) -> set[Key]:
        """Write the rows that were followed; return those that could not be written."""
        rows = [self._rows[key] for key in sorted(self._unsaved)]
        written = zip(rows, in_parallel(self._write, rows) if rows else (), strict=True)
        failed = {row.key for row, succeeded in written if not succeeded}
        self._unsaved.clear()
        return failed

    def _write(self, row: Download) -> bool:
        """Write a row, and return True, unless others wrote it or the table fails."""
        try:
            self._rows[row.key] = self._downloads.save(row)
        except LostRace:
            self._forget(row.key)
        except (ClientError, BotoCoreError) as error:
            details: dict[str, Any] = {"video_uid": row.video_uid, **described(error)}
            logger.warning("The progress of a download could not be written", extra=details)
        else:
            return True
        return False

    def _take_over(self, rows: Iterable[Download]) -> None:
        """Take over rows that are newer than those in memory."""
        for row in rows:
            if row.key not in self._rows or self._rows[row.key].version < row.version:
                self._rows[row.key] = row
                self._unsaved.discard(row.key)
                self._left_out.pop(row.key, None)

    def _due(self, queues: Collection[str], until: float) -> list[Download]:
        return [
            row
            for row in self._rows.values()
            if (due_at := row.due_at) is not None
            and due_at <= until
            and row.queue in queues
            and row.key not in self._left_out
        ]

    def _unknown(self, queue: str, entries: Iterable[Due]) -> Iterator[Due]:
        """Yield the entries of rows that are not in memory, or only in an older version."""
        for key, due_at in entries:
            row = self._rows.get(key)
            known_at = row.indexed_at if row and row.queue == queue else None
            known = (at for at in (known_at, self._left_out.get(key)) if at is not None)
            if all(abs(at - due_at) >= SAME_TIME for at in known):
                yield Due(key, due_at)

    def _forget(self, key: Key) -> None:
        self._rows.pop(key, None)
        self._left_out.pop(key, None)
        self._unsaved.discard(key)


def _waits_for_progress(row: Download) -> bool:
    """Return True if the next poll of a row may come early: nothing holds the download up."""
    work = row.work
    if work is None or work.trouble:
        return False
    return row.status is Status.INPROGRESS and work.step is Step.LIST
