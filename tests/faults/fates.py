"""Decide how each download has to end, only from the state of Cloudflare and the commands."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from stream_downloads.domain.download import DownloadType, Status
from stream_downloads.domain.transitions import RECREATE_PAUSES
from stream_downloads.domain.video import META_DOWNLOADS
from tests.faults.stage import BOTH, Stage
from tests.simulator import Upload

Key = tuple[str, DownloadType]

NOT_RECORDED = None


def fates(upload: Upload, kind: DownloadType) -> set[Status | None]:
    """Return the possible ends of a download of this video, if no command deletes it."""
    wanted = META_DOWNLOADS.get(str(upload.downloads), BOTH)
    return ends(upload, kind) | (set() if kind in wanted else {NOT_RECORDED})  # or by hand


def ends(upload: Upload, kind: DownloadType) -> set[Status | None]:
    """Return the possible ends of a download of this video that is wanted."""
    if upload.error_code:
        return {Status.ERROR, NOT_RECORDED}  # if its webhook was lost, it has no row
    fails = upload.failing_creates.get(kind, 0) > len(RECREATE_PAUSES)
    if fails:
        return {Status.ERROR, Status.READY}  # by hand it can be tried more often
    no_audio = kind is DownloadType.AUDIO and not upload.has_audio
    too_long = upload.live_input and upload.duration_seconds > 4 * 3600
    if no_audio or too_long or kind in upload.claims:
        return {Status.ERROR}
    return {Status.READY}


def wrong_ends(stage: Stage, deleted: Collection[Key]) -> Iterator[str]:
    """Yield a line for each download that ended in another state than it should.

    Args:
        stage: the stack and its Cloudflare.
        deleted: what was deleted by command, and not requested again.
    """
    for uid, video in stage.simulator.videos.items():
        rows = {row.download_type: row for row in stage.downloads.of_video(uid)}
        for kind in BOTH:
            row = rows.get(kind)
            status = row.status if row else NOT_RECORDED
            wanted = {Status.DELETED} if (uid, kind) in deleted else fates(video.upload, kind)
            if status not in wanted:
                why = row and row.error_message
                yield f"invariant 2 or 3: {kind} of {uid} ended as {status} ({why}), not {wanted}"
            elif row and row.url and stage.simulator.fetch(row.url) not in (200, 401):
                yield f"invariant 4: {row.url} does not work"


def wrong_ends_or_creates(stage: Stage, *, deletes: bool = False) -> Iterator[str]:
    """Yield a line for each download that ended wrongly or cost too many creates.

    Args:
        stage: the stack and its Cloudflare.
        deletes: True if every download was deleted by command; else none was.
    """
    every = {(uid, kind) for uid in stage.simulator.videos for kind in BOTH}
    yield from wrong_ends(stage, every if deletes else ())
    for uid, video in stage.simulator.videos.items():
        is_known = stage.downloads.of_video(uid) or (uid, "default") in stage.invariants.leaves
        if is_known and video.upload.downloads == "none":
            yield f"{uid} wants no download, and has a row or a create"
    for key, leave in stage.invariants.leaves.items():
        if leave.creates > 1 + leave.again:
            yield f"{leave.creates} creates of {key}, and {leave.again} reasons to do it again"
