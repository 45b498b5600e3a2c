"""Test the row of a download: its queue, its publishable URLs, its times."""

from __future__ import annotations

import pytest

from stream_downloads.domain.download import (
    Download,
    DownloadType,
    Lane,
    Step,
    Work,
    is_publishable,
    iso_time,
)
from tests.support import rows
from tests.support.rows import AUDIO, DEFAULT, NOW, UID

HOST = "customer-m033z5x00ks6nunl.cloudflarestream.com"
PATH = f"/{UID}/downloads/default.mp4"


@pytest.mark.parametrize(
    ("row", "queue"),
    [
        (rows.requested(), "live-create"),
        (rows.requested(lane=Lane.BACKFILL), "backfill-create"),
        (rows.in_progress(), "live-look"),
        (rows.in_progress(lane=Lane.BACKFILL), "backfill-look"),
        (rows.deleting(), "live-look"),
        (rows.ready(), "upkeep"),
        (rows.ready(lane=Lane.BACKFILL), "upkeep"),
        (rows.ready(work=Work(Step.DELETE, NOW)), "backfill-look"),
        (rows.ready(work=None), None),
        (rows.failed(), None),
        (rows.deleted(), None),
    ],
)
def test_a_row_waits_in_the_queue_of_its_lane_and_step(row: Download, queue: str | None) -> None:
    assert row.queue == queue


@pytest.mark.parametrize(
    ("url", "download_type"),
    [
        (f"https://{HOST}{PATH}", DEFAULT),
        (f"https://{HOST}/{UID}/downloads/audio.m4a", AUDIO),
        (f"https://cloudflarestream.com{PATH}", DEFAULT),
        (f"https://videodelivery.net{PATH}", DEFAULT),
    ],
)
def test_a_url_of_that_video_and_type_on_a_stream_host_is_publishable(
    url: str, download_type: DownloadType
) -> None:
    assert is_publishable(url, UID, download_type)


@pytest.mark.parametrize(
    "url",
    [
        "",
        f"http://{HOST}{PATH}",
        f"HTTPS://{HOST}{PATH}",
        f"//{HOST}{PATH}",
        f" https://{HOST}{PATH}",
        f"https://{HOST}{PATH}\n",
        f"https://{HOST}{PATH}\r\nSet-Cookie: a=b",
        f"https://{HOST}\n{PATH}",
        f"https://{HOST}{PATH}?token=1",
        f"https://{HOST}{PATH}#top",
        f"https://{HOST}{PATH}/",
        f"https://{HOST}:443{PATH}",
        f"https://{HOST}:8443{PATH}",
        f"https://you@{HOST}{PATH}",
        f"https://you:me@{HOST}{PATH}",
        f"https://{HOST}@elsewhere.example{PATH}",
        f"https://elsewhere.example{PATH}",
        f"https://elsewhere.example/{HOST}{PATH}",
        f"https://evilcloudflarestream.com{PATH}",
        f"https://cloudflarestream.com.elsewhere.example{PATH}",
        f"https://elsewhere.example/.cloudflarestream.com{PATH}",
        f"https://elsewhere.example%2ecloudflarestream.com{PATH}",
        f"https://cloudflarestreamxcom{PATH}",
        f"https://a.b.cloudflarestream.com{PATH}",
        f"https://.cloudflarestream.com{PATH}",
        f"https://\uff43loudflarestream.com{PATH}",
        f"https://{HOST}/{'0' * 32}/downloads/default.mp4",
        f"https://{HOST}/{UID}{UID}/downloads/default.mp4",
        f"https://{HOST}/../{UID}/downloads/default.mp4",
        f"https://{HOST}/{UID}/downloads/audio.m4a",
        f"https://{HOST}/{UID}/downloads/defaultxmp4",
        f"https://{HOST}/{UID}/downloads/default.mp4.exe",
        f"https://{HOST}/{UID}/manifest/video.m3u8",
        f"https://{HOST}//{UID}/downloads/default.mp4",
    ],
)
def test_any_other_url_is_not_publishable(url: str) -> None:
    assert not is_publishable(url, UID, DEFAULT)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (NOW, "2027-01-15T08:00:00.000Z"),
        (NOW + 0.123, "2027-01-15T08:00:00.123Z"),
        (NOW + 0.9996, "2027-01-15T08:00:00.999Z"),
    ],
)
def test_a_time_is_shown_in_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert iso_time(seconds) == text
