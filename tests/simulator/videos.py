"""Model videos and their downloads at Cloudflare: every state is a function of time."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

CUSTOMER_HOST = "customer-m033z5x00ks6nunl.cloudflarestream.com"
FILE_NAMES = {"default": "default.mp4", "audio": "audio.m4a"}
# How an MP4 begins.
FILE_HEAD = b"\0\0\0\x14ftypisom\0\0\0\0isom"
LONGEST_LIVE_RECORDING_SECONDS = 4 * 3600.0

# Functions from the real progress to the reported progress, both 0 to 1.
PROGRESS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda done: done,
    "silent": lambda _done: 0.0,
    "stalling": lambda done: min(done * 4, 0.9),
    "jumping": lambda done: math.floor(done * 4) / 4,
    "backwards": lambda done: done if done < 0.6 else done - 0.4,
}


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A video to upload, and its future at Cloudflare. Times are in seconds.

    ``encode_seconds`` pass before the video is ready or, with an ``error_code``, fails. A download
    waits ``queue_seconds`` and then takes its ``generation_seconds`` (one number, or one per type);
    of each type the first ``failing_creates`` end in ``error``. ``progress`` names one of
    `PROGRESS`, and ``noise`` is the largest error of a reported percentage, in points.

    ``webhook_delays`` has one entry for each time the webhook is sent, counted from the moment it
    is due: ``()`` loses it, ``(0, 60)`` sends it twice. None applies the simulator's habit.
    ``downloads`` is the value of ``meta.downloads``, None for none.
    ``claims`` replace fields of a download, as ``{"default": {"status": "paused"}}``.
    """

    duration_seconds: float = 30.0
    creator: str | None = None
    name: str = "clip.mp4"
    downloads: object = None
    private: bool = False
    live_input: str | None = None
    encode_seconds: float = 0.0
    error_code: str | None = None
    error_message: str = "The file was not recognized as a valid video file"
    generation_seconds: float | Mapping[str, float] = 5.0
    queue_seconds: float = 0.0
    progress: str = "linear"
    noise: float = 0.0
    failing_creates: Mapping[str, int] = field(default_factory=dict)
    has_audio: bool = True
    webhook_delays: tuple[float, ...] | None = None
    claims: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def seconds_to_generate(self, download_type: str) -> float:
        """Return the seconds that the download takes."""
        if isinstance(self.generation_seconds, Mapping):
            return self.generation_seconds.get(download_type, 5.0)
        return self.generation_seconds


@dataclass(slots=True)
class Download:
    """One download from its create on."""

    video_uid: str
    download_type: str
    starts_at: float
    seconds: float
    fails: bool
    upload: Upload

    @property
    def ends_at(self) -> float:
        """Return the time when it becomes ready, or fails."""
        return self.starts_at + self.seconds

    @property
    def url(self) -> str:
        """Return its URL."""
        return download_url(self.video_uid, self.download_type)

    def status(self, now: float) -> str:
        """Return ``inprogress``, then ``ready`` or ``error``."""
        if now < self.ends_at:
            return "inprogress"
        return "error" if self.fails else "ready"

    def percent(self, now: float) -> float:
        """Return the progress that is reported, 0 to 100."""
        if now >= self.ends_at:
            return 100.0
        if now <= self.starts_at:
            return 0.0
        done = (now - self.starts_at) / self.seconds
        noise = self.upload.noise and self.upload.noise * self._chance(now)
        reported = 100 * PROGRESS[self.upload.progress](done) + noise
        return round(min(max(reported, 0.0), 99.0), 1)

    def _chance(self, now: float) -> float:
        """Return a number from -1 to 1, always the same for a download and a time."""
        return zlib.crc32(f"{self.video_uid}{self.download_type}{now:.1f}".encode()) / 2**31 - 1

    def described(self, now: float) -> dict[str, object]:
        """Do as the API says it. The URL is there before the download is ready."""
        said: dict[str, object] = {
            "status": self.status(now),
            "url": self.url,
            "percentComplete": self.percent(now),
        }
        return said | dict(self.upload.claims.get(self.download_type, {}))


@dataclass(slots=True)
class Video:
    """One uploaded video and the downloads that it has at the moment."""

    uid: str
    created_at: float
    upload: Upload
    downloads: dict[str, Download] = field(default_factory=dict)
    creates: dict[str, int] = field(default_factory=dict)

    @property
    def encoded_at(self) -> float:
        """Return the time when the video becomes ready, or fails."""
        return self.created_at + self.upload.encode_seconds

    def state(self, now: float) -> str:
        """Return the video's state by Cloudflare's name."""
        if now >= self.encoded_at:
            return "error" if self.upload.error_code else "ready"
        if math.isinf(self.upload.encode_seconds):
            return "pendingupload"
        return "live-inprogress" if self.upload.live_input else "inprogress"

    def why_no_download(self, download_type: str, now: float) -> str | None:
        """Return the reason why Cloudflare makes no such download now, None if it makes one."""
        if self.state(now) != "ready":
            return "The video is not ready to view"
        if self.upload.live_input and self.upload.duration_seconds > LONGEST_LIVE_RECORDING_SECONDS:
            return "Downloads are not available for live recordings over four hours"
        if download_type == "audio" and not self.upload.has_audio:
            return "The video has no audio track"
        return None

    def create(self, download_type: str, now: float) -> Download:
        """Start a download, or find the one that exists."""
        if download_type not in self.downloads:
            attempt = self.creates.get(download_type, 0) + 1
            self.creates[download_type] = attempt
            self.downloads[download_type] = Download(
                video_uid=self.uid,
                download_type=download_type,
                starts_at=now + self.upload.queue_seconds,
                seconds=self.upload.seconds_to_generate(download_type),
                fails=attempt <= self.upload.failing_creates.get(download_type, 0),
                upload=self.upload,
            )
        return self.downloads[download_type]

    def listed(self, now: float) -> dict[str, Any]:
        """Do as the API says it: with the time at which it became ready, which is in no webhook."""
        ready = self.state(now) == "ready"
        return self.described(now) | (
            {"readyToStreamAt": timestamp(self.encoded_at)} if ready else {}
        )

    def described(self, now: float) -> dict[str, Any]:
        """Do as the API and the webhook say it: the fields of the example in Cloudflare's guide."""
        upload, state, base = self.upload, self.state(now), f"https://{CUSTOMER_HOST}/{self.uid}"
        known = now >= self.encoded_at and not upload.error_code
        said: dict[str, Any] = {
            "uid": self.uid,
            "creator": upload.creator,
            "thumbnail": f"{base}/thumbnails/thumbnail.jpg",
            "thumbnailTimestampPct": 0,
            "readyToStream": state == "ready",
            "status": {
                "state": state,
                "pctComplete": "100.000000" if known else "0.000000",
                "errorReasonCode": upload.error_code or "" if state == "error" else "",
                "errorReasonText": upload.error_message if state == "error" else "",
            },
            "meta": {
                "filename": upload.name,
                "filetype": "video/mp4",
                "name": upload.name,
                "relativePath": "null",
                "type": "video/mp4",
                **({} if upload.downloads is None else {"downloads": upload.downloads}),
            },
            "created": timestamp(self.created_at),
            "modified": timestamp(min(now, self.encoded_at)),
            "size": int(upload.duration_seconds * 250_000),
            "preview": f"{base}/watch",
            "allowedOrigins": [],
            "requireSignedURLs": upload.private,
            "uploaded": timestamp(self.created_at),
            "uploadExpiry": timestamp(self.created_at + 86400),
            "maxSizeBytes": None,
            "maxDurationSeconds": None,
            "duration": upload.duration_seconds if known else -1,
            "input": {"width": 1280, "height": 720} if known else {"width": -1, "height": -1},
            "playback": {
                "hls": f"{base}/manifest/video.m3u8",
                "dash": f"{base}/manifest/video.mpd",
            },
            "watermark": None,
        }
        return said | ({"liveInput": upload.live_input} if upload.live_input else {})


def download_url(video_uid: str, download_type: str) -> str:
    """Return the URL of a download."""
    return f"https://{CUSTOMER_HOST}/{video_uid}/downloads/{FILE_NAMES[download_type]}"


@lru_cache(maxsize=1024)  # a list of videos says the same times again and again
def timestamp(at: float) -> str:
    """Format Unix seconds as Cloudflare does: microseconds, and Z."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
