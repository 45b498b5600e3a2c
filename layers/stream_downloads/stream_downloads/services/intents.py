"""Writes into the table the downloads that webhooks, reconciliation and operators request."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.observability import logger
from stream_downloads.domain import transitions
from stream_downloads.domain.download import Download, DownloadType, Lane
from stream_downloads.domain.video import META_DOWNLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream_downloads.adapters.downloads_table import Downloads
    from stream_downloads.domain.video import Video

_TRIES: Final = 5


def video_is_ready(
    downloads: Downloads,
    video: Video,
    download_types: Sequence[DownloadType],
    now: float,
    *,
    lane: Lane = Lane.LIVE,
    permits: int = 0,
) -> list[Download]:
    """Make sure that each wanted download of a ready video has a row.

    A row that is there stays as it is, unless it ended because the video itself had failed, or
    waits in a backfill.

    Args:
        downloads: the table.
        video: ready.
        download_types: the downloads that it gets.
        now: seconds since the epoch.
        lane: the priority of new rows.
        permits: for how many rows the caller sends the create next: new ones of these are added
            as sent, which saves a write.

    Returns:
        The rows that this has written.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: not everything could be written.
    """
    wanted = [transitions.request(video, kind, now, lane=lane) for kind in download_types]
    sent = [transitions.create_sent(row, now) for row in wanted[:permits]]
    again = partial(transitions.video_is_ready, video=video, now=now, lane=lane)
    return _add_or_change_all(downloads, sent + wanted[permits:], again)


def video_has_failed(
    downloads: Downloads, video: Video, download_types: Sequence[DownloadType], now: float
) -> list[Download]:
    """End the downloads of a failed video in ``error`` with Cloudflare's reason.

    If a row exists, a later webhook may have come first: then the poller checks the video.

    Returns:
        The rows that this has written.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: not everything could be written.
    """
    failed = [
        transitions.fail_video(transitions.request(video, kind, now), video, now)
        for kind in download_types
    ]
    return _add_or_change_all(downloads, failed, partial(transitions.video_has_failed, now=now))


def warn_of_unknown_downloads(video: Video) -> None:
    """Log an unknown value of ``meta.downloads``: the video gets the default downloads."""
    if video.unknown_downloads is not None:
        details = {"video_uid": video.uid, "meta_downloads": video.unknown_downloads}
        known = ", ".join(repr(value) for value in META_DOWNLOADS)
        logger.warning(
            f"meta.downloads is not one of {known}: DownloadTypes applies", extra=details
        )


def _add_or_change_all(
    downloads: Downloads,
    wanted: Sequence[Download],
    transition: Callable[[Download], Download],
) -> list[Download]:
    """Add rows, or make a transition of those that exist; return the rows as written."""
    rows = (add_or_change(downloads, row, transition) for row in wanted)
    return [row for row in rows if row is not None]


def add_or_change(
    downloads: Downloads, wanted: Download, transition: Callable[[Download], Download]
) -> Download | None:
    """Add a row, or make a transition of the one that exists.

    Returns:
        The row as written, or None if the transition had nothing to change.

    Raises:
        LostRace: other functions wrote the row first, several times.
    """
    existing = downloads.add(wanted)
    if existing is None:
        return replace(wanted, version=1)
    return change(downloads, existing, transition)


def change(
    downloads: Downloads, row: Download, transition: Callable[[Download], Download]
) -> Download | None:
    """Make a transition of a row; if another function wrote it first, of that version.

    Returns:
        The row as written, or None if the transition had nothing to change.

    Raises:
        LostRace: other functions wrote the row first, several times.
    """
    for _ in range(_TRIES):
        after = transition(row)
        if after is row:
            return None
        try:
            return downloads.save(after)
        except LostRace:
            found = downloads.get(*row.key)
            if found is None:  # an operator has deleted the item
                return None
            row = found
    raise LostRace(f"{row.video_uid}/{row.download_type} changes all the time")
