"""Describe the demo's videos: what happens to each, and how each must end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tests.simulator import StreamSimulator, Upload

DEFAULT, AUDIO = "default", "audio"

Item = Mapping[str, Any]


class Key(NamedTuple):
    """Identifies a row of the downloads table."""

    video_uid: str
    download_type: str


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Describes one video of the demo.

    Attributes:
        upload: the video, and how long Cloudflare takes for it.
        audio: True if its audio is requested as well, by hand.
        note: what is special about it.
        ends_as: the status that its row must have in the end.
    """

    upload: Upload
    audio: bool = False
    note: str = ""
    ends_as: str = "ready"

    @property
    def name(self) -> str:
        """Return the name of the file."""
        return self.upload.name

    @property
    def types(self) -> tuple[str, ...]:
        """Return the types of its downloads."""
        return (DEFAULT, AUDIO) if self.audio else (DEFAULT,)


def _clip(
    name: str,
    minutes: float,
    seconds: float,
    *,
    audio_seconds: float | None = None,
    note: str = "",
    ends_as: str = "ready",
    **upload: Any,
) -> Clip:
    """Return a clip of so many minutes, whose download takes so many seconds."""
    generation: Mapping[str, float] = {DEFAULT: seconds, AUDIO: audio_seconds or 0.0}
    described = Upload(
        name=name, duration_seconds=minutes * 60, generation_seconds=generation, **upload
    )
    return Clip(upload=described, audio=audio_seconds is not None, note=note, ends_as=ends_as)


# Each is ready at Cloudflare half a second after the one above it.
CLIPS = tuple(
    replace(clip, upload=replace(clip.upload, encode_seconds=number / 2))
    for number, clip in enumerate(
        (
            _clip("teaser.mp4", 0.1, 3),
            _clip("trailer.mp4", 2, 7),
            _clip("interview.mp4", 8, 18, audio_seconds=5, note="audio wanted, too"),
            _clip("podcast.mp4", 15, 24, audio_seconds=9, note="audio wanted, too"),
            _clip("salaries.mp4", 4, 11, private=True, note="private"),
            _clip("tour.mp4", 6, 15, webhook_delays=(0, 1), note="webhook comes twice"),
            _clip("webinar.mp4", 7, 13, webhook_delays=(), note="webhook gets lost"),
            _clip("holiday.mp4", 3, 9),
            _clip("lecture.mp4", 45, 28),
            _clip("keynote.mp4", 60, 36, audio_seconds=14, note="audio wanted, too"),
            _clip(
                "notes.pdf", 0, 0, error_code="ERR_NON_VIDEO", note="not a video", ends_as="error"
            ),
            _clip("draft.mp4", 1, 5, note="deleted at the end", ends_as="deleted"),
        )
    )
)


@dataclass(frozen=True)
class Library:
    """Holds the clips as uploaded.

    Attributes:
        uids: the clips' identifiers, in the order of `CLIPS`.
    """

    uids: Sequence[str]

    @classmethod
    def uploaded_to(cls, cloudflare: StreamSimulator) -> Library:
        """Upload all clips, and return them."""
        return cls([cloudflare.upload(clip.upload) for clip in CLIPS])

    def clips(self) -> Iterator[tuple[str, Clip]]:
        """Return each clip with its identifier."""
        return zip(self.uids, CLIPS, strict=True)

    def downloads(self) -> dict[Key, Clip]:
        """Return every download that is wanted."""
        return {Key(uid, kind): clip for uid, clip in self.clips() for kind in clip.types}

    @property
    def webhooks(self) -> int:
        """Return the number of webhooks to come."""
        return sum(
            1 if clip.upload.webhook_delays is None else len(clip.upload.webhook_delays)
            for clip in CLIPS
        )

    def uid(self, name: str) -> str:
        """Return the identifier of the clip of that name."""
        return next(uid for uid, clip in self.clips() if clip.name == name)


def complaints(
    library: Library, cloudflare: StreamSimulator, rows: Mapping[Key, Item], limit: int
) -> list[str]:
    """Return a line for each wrong end of a download, judged by Cloudflare's own state.

    Args:
        library: the uploaded videos.
        cloudflare: the simulated Cloudflare.
        rows: the downloads table.
        limit: the most requests that were allowed in five minutes.
    """
    wanted = library.downloads()
    found = [f"{key} is in the table and was never requested" for key in rows.keys() - wanted]
    for key, clip in wanted.items():
        wrong = _wrong_with(clip, key, rows.get(key), cloudflare)
        found += [f"{clip.name} ({key.download_type}): {text}" for text in wrong]
    most = cloudflare.most_requests_in(300.0)
    if most > limit:
        found.append(f"{most} requests in five minutes, {limit} were allowed")
    found += [
        f"{call.name} was answered {call.status}"
        for call in cloudflare.calls
        if call.status >= 400 and call.name != "get webhook"
    ]
    return found


def _wrong_with(
    clip: Clip, key: Key, row: Item | None, cloudflare: StreamSimulator
) -> Iterator[str]:
    if row is None:
        yield "has no row"
        return
    if row["status"] != clip.ends_as:
        yield f"is {row['status']}, and should be {clip.ends_as}"
    if ("url" in row) != (clip.ends_as == "ready"):
        yield "has a URL if it is ready, and only then: not so"
    elif "url" in row:
        answered = cloudflare.fetch(row["url"])
        if answered != (401 if clip.upload.private else 200):
            yield f"its URL answers {answered}"
    if clip.ends_as == "error" and row["error_code"] != clip.upload.error_code:
        yield f"its reason is {row['error_code']}, Cloudflare's is {clip.upload.error_code}"
    if clip.ends_as == "deleted" and cloudflare.videos[key.video_uid].downloads:
        yield "its download is still at Cloudflare"
    creates = creates_by_download(cloudflare)[key]
    if creates != (0 if clip.ends_as == "error" else 1):
        yield f"was created {creates} times"


def creates_by_download(cloudflare: StreamSimulator) -> Counter[Key]:
    """Count the requests to create each download."""
    return Counter(
        Key(call.video_uid or "", call.download_type or "default")
        for call in cloudflare.calls
        if call.name == "create download"
    )
