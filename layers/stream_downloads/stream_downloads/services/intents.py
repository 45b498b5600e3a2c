"""Writes into the table what webhooks, reconciliation and operators want."""

from __future__ import annotations

from dataclasses import replace
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
        permits: for so many new rows the caller sends the create next: they are added as sent,
            which saves a write.

    Returns:
        The rows that this has written.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: not everything could be written.
    """
    written: list[Download] = []
    for download_type in download_types:
        wanted = transitions.request(video, download_type, now, lane=lane)
        if permits > len(written):
            wanted = transitions.create_sent(wanted, now)
        row = add_or_change(
            downloads, wanted, lambda row: transitions.video_is_ready(row, video, now, lane=lane)
        )
        if row is not None:
            written.append(row)
    return written


def video_has_failed(
    downloads: Downloads, video: Video, download_types: Sequence[DownloadType], now: float
) -> list[Download]:
    """End the downloads of a failed video in ``error`` with Cloudflare's reason.

    Where there is a row already, a later webhook may have overtaken this one: such a row first
    asks Cloudflare for the video.

    Returns:
        The rows that this has written.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: not everything could be written.
    """
    written = []
    for download_type in download_types:
        wanted = transitions.request(video, download_type, now)
        failed = transitions.fail_video(wanted, video, now)
        row = add_or_change(downloads, failed, lambda row: transitions.video_has_failed(row, now))
        if row is not None:
            written.append(row)
    return written


def warn_of_unknown_downloads(video: Video) -> None:
    """Log a ``meta.downloads`` that says nothing: the video gets the downloads of every video."""
    if video.unknown_downloads is not None:
        details = {"video_uid": video.uid, "meta_downloads": video.unknown_downloads}
        known = ", ".join(repr(value) for value in META_DOWNLOADS)
        logger.warning(
            f"meta.downloads is not one of {known}: DownloadTypes applies", extra=details
        )


def add_or_change(
    downloads: Downloads, wanted: Download, transition: Callable[[Download], Download]
) -> Download | None:
    """Add a row, or make a transition of the one that is there.

    Returns:
        The row as written, or None if the transition had nothing to change.

    Raises:
        LostRace: another function was first several times over.
    """
    there = downloads.add(wanted)
    if there is None:
        return replace(wanted, version=1)
    return change(downloads, there, transition)


def change(
    downloads: Downloads, row: Download, transition: Callable[[Download], Download]
) -> Download | None:
    """Make a transition, from the row as it is by the time of the write.

    Returns:
        The row as written, or None if the transition had nothing to change.

    Raises:
        LostRace: another function was first several times over.
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
