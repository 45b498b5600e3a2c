"""The row of one download and every transition it can make.

A row is one download of one video. ``status`` says what is true, ``step`` what has to be done
next and ``due_at`` when. Every function here takes a row and what has just been learned, and
gives the row that follows; a function that has nothing to change gives the same row back.
Nothing here reads a clock, a table or a network. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple


class DownloadType(StrEnum):
    """What Cloudflare can make of a video: ``default`` is the MP4, ``audio`` the M4A."""

    DEFAULT = "default"
    AUDIO = "audio"


class Status(StrEnum):
    """What is true of a download."""

    REQUESTED = "requested"
    INPROGRESS = "inprogress"
    READY = "ready"
    ERROR = "error"
    DELETING = "deleting"
    DELETED = "deleted"


class Step(StrEnum):
    """What has to be done next; each step is one request to Cloudflare."""

    CREATE = "create"
    LIST = "list"
    CONFIRM = "confirm"  # ask for the video itself: is it there, and in what state?
    DELETE = "delete"
    VERIFY = "verify"  # list once more, long after it became ready: is it still there?


class Lane(StrEnum):
    """Today's videos go before those of a backfill."""

    LIVE = "live"
    BACKFILL = "backfill"


class ErrorCode(StrEnum):
    """Our own codes, for ends that Cloudflare gives no code for."""

    VIDEO_FAILED = "video_failed"
    VIDEO_GONE = "video_gone"
    DOWNLOAD_FAILED = "download_failed"
    REFUSED = "refused"
    NOT_READY_FOR_A_DAY = "not_ready_for_a_day"
    URL_REFUSED = "url_refused"
    RECORDING_TOO_LONG = "recording_too_long"
    DELETE_REFUSED = "delete_refused"


class VideoFacts(NamedTuple):
    """What a row repeats of its video, for the consumers."""

    requires_signed_url: bool | None = None
    creator: str | None = None
    name: str | None = None
    duration_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One row of the downloads table."""

    video_uid: str
    download_type: DownloadType
    status: Status
    requested_at: float
    updated_at: float
    ready_at: float | None = None
    url: str | None = None
    percent_complete: float | None = None
    requires_signed_url: bool | None = None
    creator: str | None = None
    name: str | None = None
    duration_seconds: float | None = None
    error_code: str | None = None
    error_message: str | None = None

    lane: Lane = Lane.LIVE
    step: Step | None = None
    due_at: float | None = None
    version: int = 0
    attempts: int = 0  # failures of the present step in a row
    recreations: int = 0  # how often it was deleted and created again after an error
    created_at: float | None = None  # when Cloudflare accepted the create
    sent_at: float | None = None  # when a create was sent of which nothing certain is known yet
    looked_at: float | None = None  # when a list last showed it
    refused_since: float | None = None  # since when Cloudflare refuses what we ask
    missing_since: float | None = None  # since when Cloudflare does not know it
    reopens: bool = False  # ended for the video's sake: a webhook may say that it is ready again

    @property
    def key(self) -> tuple[str, DownloadType]:
        """The key of the row: video and type."""
        return self.video_uid, self.download_type

    @property
    def facts(self) -> VideoFacts:
        """What the row repeats of its video."""
        return VideoFacts(
            requires_signed_url=self.requires_signed_url,
            creator=self.creator,
            name=self.name,
            duration_seconds=self.duration_seconds,
        )

    @property
    def queue(self) -> str | None:
        """The partition of the due index that the row waits in, or None with nothing to do."""
        if self.step is None:
            return None
        if self.status is Status.READY and self.step is not Step.DELETE:
            return UPKEEP_QUEUE
        if self.status is Status.READY:  # its retention is a promise: it waits for no backfill
            return queue_name(Lane.BACKFILL, creates=False)
        return queue_name(self.lane, creates=self.step is Step.CREATE)


UPKEEP_QUEUE: Final = "upkeep"


def queue_name(lane: Lane, *, creates: bool) -> str:
    """Creates wait apart from the other steps, so that a backlog of one never hides the other."""
    return f"{lane}-{'create' if creates else 'look'}"


_DOWNLOAD_URL: Final = re.compile(
    r"https://(?:[a-z0-9-]+\.)?(?:cloudflarestream\.com|videodelivery\.net)"
    r"/([0-9a-f]{32})/downloads/(default\.mp4|audio\.m4a)"
)


def is_publishable(url: str, video_uid: str, download_type: DownloadType) -> bool:
    """Whether this is a download URL of that video and type on a Cloudflare Stream host.

    https alone, no port, no user information, no query. The hosts and the path are those of
    https://developers.cloudflare.com/stream/viewing-videos/download-videos/.
    """
    found = _DOWNLOAD_URL.fullmatch(url)
    file_name = {DownloadType.DEFAULT: "default.mp4", DownloadType.AUDIO: "audio.m4a"}
    return found is not None and found.groups() == (video_uid, file_name[download_type])


def iso_time(seconds: float) -> str:
    """An instant as the consumers see it: ISO 8601, UTC, milliseconds, sorts as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
