"""Keeps in memory the rows that a run of the poller works on."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.observability import described, logger
from stream_downloads.domain.download import Download, Status, Step
from stream_downloads.services.steps import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from stream_downloads.adapters.downloads_table import Downloads, Due, Key
    from stream_downloads.services.steps import Outcome

ENTRIES_AT_ONCE: Final = 250
# Of each queue: more would only grow old in memory while they wait for a permit.
DUE_AT_MOST: Final = 64
# Rows that are followed keep their place at the front of the index: more would hide the others.
FOLLOWED_AT_MOST: Final = 100
# Polls that fall due so soon after another share its permit's write.
TOGETHER_WITHIN: Final = 1.0
# The table keeps three decimals.
SAME_TIME: Final = 0.001


class WorkingSet:
    """Rows as they were read or written last, or as they were followed since.

    What others write meanwhile shows in the index, or else by the condition of the next write.
    """

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads
        self._rows: dict[Key, Download] = {}
        self._unsaved: set[Key] = set()
        self._left_out: set[Key] = set()

    def read(self, queue: str, now: float, until: float) -> bool:
        """Read rows of a queue that are not in memory yet, the first to fall due.

        Args:
            queue: of the index.
            now: the time.
            until: by when the rows fall due.

        Returns:
            True if there may be more.
        """
        room = DUE_AT_MOST - len(self._due({queue}, now))
        entries = self._downloads.due(queue, until, ENTRIES_AT_ONCE) if room > 0 else iter(())
        new = [entry.key for entry in islice(self._unknown(queue, entries), max(0, room))]
        rows = self._downloads.read(new)
        for row in rows:
            if row.key not in self._rows or self._rows[row.key].version < row.version:
                self._rows[row.key] = row
                self._unsaved.discard(row.key)
        self._left_out |= set(new) - {row.key for row in rows}
        return len(new) >= room

    def due(self, queues: Collection[str], now: float) -> list[Download]:
        """Return the rows of these queues that are due, and the polls that are sent with them."""
        due = self._due(queues, now)
        if due:
            soon = self._due(queues, now + TOGETHER_WITHIN)
            due += [row for row in soon if (row.due_at or 0.0) > now and _is_followed(row)]
        return due

    def next_due_at(self) -> float:
        """Return when the first row of all falls due, infinity if none does."""
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
                self._left_out.add(row.key)

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

    def _due(self, queues: Collection[str], now: float) -> list[Download]:
        return [
            row
            for row in self._rows.values()
            if row.queue in queues and (row.due_at or 0.0) <= now and row.key not in self._left_out
        ]

    def _unknown(self, queue: str, entries: Iterable[Due]) -> Iterator[Due]:
        """Yield the entries that lead to rows of which this has no copy, or an older one."""
        for entry in entries:
            row = self._rows.get(entry.key)
            known_at = row.indexed_at if row and row.queue == queue else None
            if entry.key in self._left_out:
                continue
            if known_at is None or abs(known_at - entry.due_at) >= SAME_TIME:
                yield entry

    def _forget(self, key: Key) -> None:
        self._rows.pop(key, None)
        self._unsaved.discard(key)


def _is_followed(row: Download) -> bool:
    """Return True for a row that waits for nothing but progress: its poll may come early."""
    work = row.work
    is_poll = row.status is Status.INPROGRESS and work is not None and work.step is Step.LIST
    return is_poll and work is not None and work.trouble is None
