"""Keep the two tables in memory, with the rules of DynamoDB that the service relies on."""

from __future__ import annotations

import bisect
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, takewhile
from typing import Any

from stream_downloads.adapters.download_item import from_item, to_item
from stream_downloads.adapters.downloads_table import Due, LostRace
from stream_downloads.adapters.shared_state import Record
from stream_downloads.domain.download import Download, DownloadType, Status

Key = tuple[str, DownloadType]


class MemoryDownloads:
    """The downloads table, its indexes never late.

    Attributes:
        rows: by their keys.
        looked_up: how often `settled` has read the rows of each video.
    """

    def __init__(self) -> None:
        self.rows: dict[Key, Download] = {}
        self.looked_up: Counter[str] = Counter()
        self._due: dict[str, list[tuple[float, Key]]] = {}

    def add(self, row: Download) -> Download | None:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.add`."""
        there = self.rows.get(row.key)
        if there is None:
            self._write(replace(row, version=1))
        return there

    def save(self, row: Download) -> Download:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.save`."""
        there = self.rows.get(row.key)
        if there is None or there.version != row.version:
            raise LostRace(f"{row.video_uid}/{row.download_type} changed since it was read")
        return self._write(replace(row, version=row.version + 1))

    def get(self, video_uid: str, download_type: DownloadType) -> Download | None:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.get`."""
        return self.rows.get((video_uid, download_type))

    def of_video(self, video_uid: str) -> list[Download]:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.of_video`."""
        keys = sorted((video_uid, download_type) for download_type in DownloadType)
        return [self.rows[key] for key in keys if key in self.rows]

    def read(self, keys: Sequence[Key]) -> list[Download]:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.read`."""
        assert len(set(keys)) == len(keys) <= 100, "BatchGetItem refuses these keys"
        return [self.rows[key] for key in keys if key in self.rows]

    def due(self, queue: str, until: float, page: int) -> Iterator[Due]:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.due`."""
        entries = self._due.get(queue, ())
        found = (Due(key, at) for at, key in takewhile(lambda entry: entry[0] <= until, entries))
        return chain(list(islice(found, page)), found)  # the first page is read at once

    def with_status(self, status: Status) -> Iterator[Key]:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.with_status`."""
        found = [row for row in self.rows.values() if row.status is status]
        yield from (row.key for row in sorted(found, key=lambda row: row.updated_at))

    def count(self, status: Status) -> Iterator[int]:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.count`, a row a page."""
        return (1 for _ in self.with_status(status))

    def settled(self, keys: Sequence[Key]) -> set[Key]:
        """Do as `stream_downloads.adapters.downloads_table.DownloadsTable.settled`."""
        assert len(set(keys)) == len(keys) <= 100, "BatchGetItem refuses these keys"
        self.looked_up.update({uid for uid, _ in keys})
        return {key for key in keys if key in self.rows and not self.rows[key].reopens}

    def _write(self, row: Download) -> Download:
        stored = from_item(to_item(row))  # loses the same as the table
        before = self.rows.get(row.key)
        if before is not None and before.queue is not None:
            entries = self._due[before.queue]
            del entries[bisect.bisect_left(entries, _entry(before))]
        if stored.queue is not None:
            bisect.insort(self._due.setdefault(stored.queue, []), _entry(stored))
        self.rows[row.key] = stored
        return row


class MemoryControl:
    """The control table, with the clock of a test in place of DynamoDB's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: dict[str, tuple[str, int]] = {}

    def read(self, name: str) -> Record:
        """Do as `stream_downloads.adapters.shared_state.ControlTable.read`."""
        text, version = self._records.get(name, ("{}", 0))
        return Record(json.loads(text), version, float(int(self._clock())))

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:
        """Do as `stream_downloads.adapters.shared_state.ControlTable.write`."""
        if name in self._records and self._records[name][1] != version:
            return False
        self._records[name] = (json.dumps(value), version + 1)
        return True


def _entry(row: Download) -> tuple[float, Key]:
    return row.indexed_at or 0.0, row.key
