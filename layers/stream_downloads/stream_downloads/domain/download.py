"""The row of one download: the public fields that consumers read, and the work that is left.

A row is one download of one video. ``status`` says what is true, ``work`` what to do next and
when, ``creation`` what exists at Cloudflare. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final


class DownloadType(StrEnum):
    """The kinds of downloads at Cloudflare: ``default`` is the MP4, ``audio`` the M4A."""

    DEFAULT = "default"
    AUDIO = "audio"


def download_types(names: Iterable[object]) -> tuple[DownloadType, ...]:
    """Return the download types of these names, each once.

    Raises:
        ValueError: a name is no download type; the text names it and the known types.
    """
    types: dict[DownloadType, None] = {}
    for name in names:
        if name not in tuple(DownloadType):
            known = " and ".join(DownloadType)
            raise ValueError(f"{str(name)[:40]!r} is no download type: there are {known}")
        types[DownloadType(str(name))] = None
    return tuple(types)


class Status(StrEnum):
    """The state of a download."""

    REQUESTED = "requested"
    INPROGRESS = "inprogress"
    READY = "ready"
    ERROR = "error"
    DELETING = "deleting"
    DELETED = "deleted"


class Step(StrEnum):
    """The next thing to do; each step is one request to Cloudflare."""

    CREATE = "create"
    LIST = "list"
    GET_VIDEO = "get_video"  # does the video exist, and in which state?
    DELETE = "delete"
    RECHECK = "recheck"  # list a ready download again after days: does it still exist?


class TroubleKind(StrEnum):
    """The ways in which a download can be held up."""

    FAILING = "failing"  # requests fail for a passing reason: no answer, a 5xx
    REFUSED = "refused"  # Cloudflare refuses the create or the delete
    UNLISTED = "unlisted"  # lists do not show the download
    VIDEO_UNKNOWN = "video_unknown"  # Cloudflare does not know the video
    BAD_URL = "bad_url"  # the list says ready, with a URL that must not be published


class Lane(StrEnum):
    """The priority of a row: live downloads go before those of a backfill."""

    LIVE = "live"
    BACKFILL = "backfill"


class ErrorCode(StrEnum):
    """Our own error codes, for failures that Cloudflare gives no code for."""

    VIDEO_FAILED = "video_failed"
    VIDEO_GONE = "video_gone"
    DOWNLOAD_FAILED = "download_failed"
    REFUSED = "refused"
    NOT_READY_FOR_A_DAY = "not_ready_for_a_day"
    URL_REFUSED = "url_refused"
    RECORDING_TOO_LONG = "recording_too_long"
    DELETE_REFUSED = "delete_refused"


@dataclass(frozen=True, slots=True)
class Reason:
    """A code and a message: Cloudflare's, or our own."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """The problem that holds a download up.

    Attributes:
        kind: the kind of problem.
        since: when it was first seen.
        count: how often it was seen since then.
        reason: what Cloudflare said last; the error of the row if the problem never ends.
    """

    kind: TroubleKind
    since: float
    count: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Work:
    """The next step of a row. New work has no failures and no trouble.

    Attributes:
        step: the request to send.
        due_at: when to send it.
        attempts: consecutive failures of any kind; they decide how long the next pause is.
        trouble: the problem that holds the download up, if one does.
        indexed_at: the due time in the index of due rows, if it is earlier than ``due_at``: a
            poll that shows only progress does not update the index.
    """

    step: Step
    due_at: float
    attempts: int = 0
    trouble: Trouble | None = None
    indexed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A percentage that a list has reported, and when."""

    at: float
    percent: float


@dataclass(frozen=True, slots=True)
class Creation:
    """The download at Cloudflare that a create has made, or may have made.

    Attributes:
        sent_at: when the create was sent.
        accepted_at: when Cloudflare accepted it; None while that is unknown.
        polled_at: when it was last polled; None before the first poll.
        earlier: a report of its progress, old enough to compare the next one with.
    """

    sent_at: float
    accepted_at: float | None = None
    polled_at: float | None = None
    earlier: Report | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One row of the downloads table.

    Attributes:
        work: the next step; None when there is nothing to do.
        creation: None if nothing of ours exists at Cloudflare.
        recreations: how often it was deleted and created again after Cloudflare failed to make it.
        reopens: it ended because of its video: it is requested again when the video is ready.
        lane: its priority.
        version: goes up by one with each write; every write is conditional on it.
    """

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

    work: Work | None = None
    creation: Creation | None = None
    recreations: int = 0
    reopens: bool = False
    lane: Lane = Lane.LIVE
    version: int = 0

    @property
    def key(self) -> tuple[str, DownloadType]:
        """Return the key of the row: video and type."""
        return self.video_uid, self.download_type

    @property
    def step(self) -> Step | None:
        """Return the next step, or None when there is nothing to do."""
        return self.work.step if self.work else None

    @property
    def due_at(self) -> float | None:
        """Return when the next step is due, or None when there is nothing to do."""
        return self.work.due_at if self.work else None

    @property
    def indexed_at(self) -> float | None:
        """Return the due time in the index of due rows, or None when there is nothing to do."""
        if self.work is None or self.work.indexed_at is None:
            return self.due_at
        return self.work.indexed_at

    @property
    def queue(self) -> str | None:
        """Return the row's partition of the index of due rows, None when nothing is to do."""
        if self.work is None:
            return None
        if self.status is not Status.READY:
            return queue_name(self.lane, creates=self.work.step is Step.CREATE)
        if self.work.step is Step.DELETE:  # its retention is over: it does not wait with rechecks
            return queue_name(Lane.BACKFILL, creates=False)
        return MAINTENANCE_QUEUE


# These names are stored in the rows.
MAINTENANCE_QUEUE: Final = "upkeep"


def queue_name(lane: Lane, *, creates: bool) -> str:
    """Return the queue of a lane. Creates have their own: a backlog of them hides no polls."""
    return f"{lane}-{'create' if creates else 'look'}"


_DOWNLOAD_URL: Final = re.compile(
    r"https://(?:[a-z0-9-]+\.)?(?:cloudflarestream\.com|videodelivery\.net)"
    r"/([0-9a-f]{32})/downloads/(default\.mp4|audio\.m4a)"
)
_FILE_NAMES: Final = {DownloadType.DEFAULT: "default.mp4", DownloadType.AUDIO: "audio.m4a"}


def is_publishable(url: str, video_uid: str, download_type: DownloadType) -> bool:
    """Return True for a download URL of that video and type on a Cloudflare Stream host.

    It must be https, without port, user information or query. The hosts and the path are those of
    https://developers.cloudflare.com/stream/viewing-videos/download-videos/.
    """
    found = _DOWNLOAD_URL.fullmatch(url)
    return found is not None and found.groups() == (video_uid, _FILE_NAMES[download_type])


def iso_time(seconds: float) -> str:
    """Return a time as consumers see it: ISO 8601, UTC, milliseconds; it sorts as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
