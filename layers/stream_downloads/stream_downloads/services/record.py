"""Makes sure that ready videos have their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from stream_downloads.adapters.download_item import Unreadable
from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.observability import described, logger
from stream_downloads.domain.download import Download, DownloadType, Lane
from stream_downloads.services import intents

if TYPE_CHECKING:
    from stream_downloads.adapters.downloads_table import Downloads
    from stream_downloads.domain.video import Video

Key = tuple[str, DownloadType]

KEYS_AT_ONCE: Final = 100
KNOWN_AT_MOST: Final = 20_000
# A webhook that has not come by then counts as missed. A stack that reconciles at least this often
# depends on none.
WEBHOOK_TAKES_AT_MOST: Final = 600.0


class Known:
    """Remember the rows that a warm process has seen settled, so that it reads them only once.

    A whole look-back does not use it, and so notices a row that an operator deleted from the table.
    """

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}  # the oldest first

    def __contains__(self, key: Key) -> bool:
        """Return True if the row has been seen settled."""
        return key in self._keys

    def add(self, keys: Iterable[Key]) -> None:
        """Remember these rows, and forget the oldest beyond a number that fits into memory."""
        self._keys |= dict.fromkeys(keys)
        for key in list(islice(self._keys, max(0, len(self._keys) - KNOWN_AT_MOST))):
            del self._keys[key]


class Recorded(NamedTuple):
    """Hold the result of recording videos.

    Attributes:
        opened: videos that lacked a row, or had one that a ready video opens again.
        missed: those of them whose webhook should have come by now.
    """

    opened: int
    missed: int


@dataclass(frozen=True, slots=True)
class Recorder:
    """Write the rows that ready videos lack. Rows that exist cost a read, not a write.

    Attributes:
        downloads: the table.
        download_types: the downloads of every video whose ``meta`` names none.
        in_parallel: ``map`` over a pool of threads, or the plain one.
        known: the rows that need not be read.
    """

    downloads: Downloads
    download_types: Sequence[DownloadType]
    in_parallel: Callable[..., Iterator[list[Download]]]
    known: Known

    def record(self, videos: Sequence[Video], lane: Lane, now: float) -> Recorded:
        """Make sure that each wanted download of these ready videos has a row.

        A row that cannot be read or written is logged, and blocks no other.

        Args:
            videos: each once.
            lane: where new rows wait.
            now: seconds since the epoch.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: not everything could be written;
                recording the videos again does no harm.
        """
        wanted = {video.uid: video.wanted(self.download_types) for video in videos}
        missing = self.missing(wanted)
        lacking = [video for video in videos if video.uid in missing]

        def open_rows(video: Video) -> list[Download]:
            intents.warn_of_unknown_downloads(video)
            kinds = missing[video.uid]
            return [row for kind in kinds for row in self._open(video, kind, lane, now)]

        written = zip(lacking, self.in_parallel(open_rows, lacking), strict=True)
        opened = {video: rows for video, rows in written if rows}
        self.known.add(row.key for rows in opened.values() for row in rows)
        missed = [
            video
            for video in opened
            # A row of another type shows that the webhook came: this type was added later.
            if len(missing[video.uid]) == len(wanted[video.uid])
            # Older videos lack the time at which they became ready.
            and now - (video.ready_at or video.created_at or now) > WEBHOOK_TAKES_AT_MOST
        ]
        return Recorded(len(opened), len(missed))

    def missing(
        self, wanted: Mapping[str, Sequence[DownloadType]]
    ) -> dict[str, list[DownloadType]]:
        """Return the wanted downloads whose rows are missing, or are opened by a ready video.

        Args:
            wanted: the downloads of each video, by uid.
        """
        keys = [(uid, kind) for uid, kinds in wanted.items() for kind in kinds]
        settled = {key for key in keys if key in self.known}
        unread = (key for key in keys if key not in settled)
        while some := list(islice(unread, KEYS_AT_ONCE)):
            settled |= self.downloads.settled(some)
        self.known.add(settled)
        missing: dict[str, list[DownloadType]] = {}
        for uid, kind in keys:
            if (uid, kind) not in settled:
                missing.setdefault(uid, []).append(kind)
        return missing

    def _open(self, video: Video, kind: DownloadType, lane: Lane, now: float) -> list[Download]:
        try:
            return intents.video_is_ready(self.downloads, video, [kind], now, lane=lane)
        except (Unreadable, LostRace) as error:
            details = {"video_uid": video.uid, "download_type": kind, **described(error)}
            logger.error(
                "A download could not be recorded: its row is left as it is", extra=details
            )
            return []
