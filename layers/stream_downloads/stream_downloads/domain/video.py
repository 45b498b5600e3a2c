"""What Cloudflare says of a video."""

from __future__ import annotations

from typing import NamedTuple


class Video(NamedTuple):
    """What concerns a video's downloads. Times are text, as Cloudflare sent them."""

    uid: str
    state: str
    ready_to_stream: bool
    created: str
    creator: str | None
    name: str | None
    duration_seconds: float | None
    require_signed_urls: bool | None
    live_input: str | None
    error_code: str | None
    error_message: str | None
    ready_at: str | None = None


class VideoPage(NamedTuple):
    """Part of the library.

    ``listed`` is how many videos Cloudflare listed, ``videos`` those of them that have a usable
    uid: without one, nothing can be asked about a video.
    """

    videos: list[Video]
    listed: int
