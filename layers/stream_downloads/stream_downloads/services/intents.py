"""What webhooks, reconciliation and people want, written into the table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.domain import transitions
from stream_downloads.domain.download import Download, DownloadType, Lane, VideoFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream_downloads.adapters.downloads_table import Downloads

_TRIES = 5


def video_is_ready(
    downloads: Downloads,
    video_uid: str,
    download_types: Sequence[DownloadType],
    facts: VideoFacts,
    now: float,
    *,
    lane: Lane = Lane.LIVE,
) -> list[Download]:
    """A video is ready: make sure that each wanted download has a row.

    A row that is there stays as it is, unless it ended because the video itself had failed, or
    waits in a backfill that somebody else need not wait for.

    Returns:
        The rows that this has written.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: not everything could be written.
    """
    opened = []
    for download_type in download_types:
        wanted = transitions.request(video_uid, download_type, now, facts=facts, lane=lane)
        row = _add_or_change(
            downloads, wanted, lambda row: transitions.video_is_ready(row, now, lane=lane)
        )
        if row is not None:
            opened.append(row)
    return opened


def video_has_failed(
    downloads: Downloads,
    video_uid: str,
    download_types: Sequence[DownloadType],
    facts: VideoFacts,
    code: str | None,
    message: str | None,
    now: float,
) -> list[Download]:
    """A video has failed: its downloads end in ``error`` with Cloudflare's reason.

    Where there is a row already, this webhook may have been overtaken by a later one: such a row
    first asks Cloudflare for the video.

    Returns:
        The rows that this has written.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: not everything could be written.
    """
    written = []
    for download_type in download_types:
        wanted = transitions.request(video_uid, download_type, now, facts=facts)
        failed = transitions.fail_video(wanted, code, message, now)
        row = _add_or_change(downloads, failed, lambda row: transitions.video_has_failed(row, now))
        if row is not None:
            written.append(row)
    return written


def change(
    downloads: Downloads, row: Download, transition: Callable[[Download], Download]
) -> Download | None:
    """Make a transition, from the row as it is by then.

    A lost race is read again, and the transition judges anew.

    Returns:
        The row as written, or None if the transition had nothing to change.

    Raises:
        LostRace: somebody else was first several times over.
    """
    for _ in range(_TRIES):
        after = transition(row)
        if after is row:
            return None
        try:
            return downloads.save(after)
        except LostRace:
            found = downloads.get(*row.key)
            if found is None:  # a person has deleted the item
                return None
            row = found
    raise LostRace(f"{row.video_uid}/{row.download_type} changes all the time")


def _add_or_change(
    downloads: Downloads, wanted: Download, transition: Callable[[Download], Download]
) -> Download | None:
    there = downloads.add(wanted)
    if there is None:
        return replace(wanted, version=1)
    return change(downloads, there, transition)
