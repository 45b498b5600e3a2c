"""Make rows for tests; a test gives the fields that differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stream_downloads.domain import transitions
from stream_downloads.domain.download import Download, DownloadType, Reason, Step, TroubleKind, Work
from stream_downloads.domain.video import Video

UID = "6b9e68b07dfee8cc2d116e4c51d6a957"
NOW = 1_800_000_000.0
DEFAULT, AUDIO = DownloadType.DEFAULT, DownloadType.AUDIO
RECHECK = Work(Step.RECHECK, NOW + 7 * 86_400)


def url_of(uid: str = UID, download_type: DownloadType = DEFAULT) -> str:
    """Return the URL under which Cloudflare has that download."""
    file = {DEFAULT: "default.mp4", AUDIO: "audio.m4a"}[download_type]
    return f"https://customer-m033z5x00ks6nunl.cloudflarestream.com/{uid}/downloads/{file}"


def requested(uid: str = UID, download_type: DownloadType = DEFAULT, **changes: Any) -> Download:
    """Return an intent, made and due at ``NOW``."""
    return replace(transitions.request(Video(uid=uid), download_type, NOW), **changes)


def trouble_of(row: Download) -> TroubleKind | None:
    """Return the kind of what the row's step has met, if it has met anything."""
    return row.work.trouble.kind if row.work and row.work.trouble else None


def due(row: Download, at: float) -> Download:
    """Return the row with its next step due at that time."""
    assert row.work
    return replace(row, work=replace(row.work, due_at=at))


def in_progress(uid: str = UID, download_type: DownloadType = DEFAULT, **changes: Any) -> Download:
    """Return a download that Cloudflare accepted at ``NOW``, to be polled a minute later."""
    row = transitions.create_sent(requested(uid, download_type), NOW)
    return replace(transitions.create_accepted(row, 0.0, NOW + 60, NOW), **changes)


def ready(uid: str = UID, download_type: DownloadType = DEFAULT, **changes: Any) -> Download:
    """Return a download that was found ready at ``NOW``, to be checked a week later."""
    row = in_progress(uid, download_type)
    return replace(
        transitions.listed_ready(row, url_of(uid, download_type), RECHECK, NOW), **changes
    )


def failed(**changes: Any) -> Download:
    """Return a download that ended in ``error`` at ``NOW``."""
    return replace(
        transitions.fail(in_progress(), Reason("10005", "no such codec"), NOW), **changes
    )


def deleting(**changes: Any) -> Download:
    """Return a ready download that was to be deleted at ``NOW``."""
    return replace(transitions.delete(ready(), NOW), **changes)


def deleted(**changes: Any) -> Download:
    """Return a tombstone."""
    return replace(transitions.deleted(deleting(), NOW), **changes)
