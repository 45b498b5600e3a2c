"""A video says itself which downloads it gets, on every path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stream_downloads.domain import commands
from stream_downloads.domain.commands import Command
from stream_downloads.domain.download import DownloadType, Lane, Status
from stream_downloads.services.manage import manage
from tests.support.world import World

HOUR = 3600.0
DEFAULT, AUDIO = DownloadType.DEFAULT, DownloadType.AUDIO

# How a video becomes known to the stack.
Path = Callable[[World, dict[str, Any]], str]


def webhook(world: World, upload: dict[str, Any]) -> str:
    uid = world.simulator.upload(**upload)
    assert world.deliver_webhooks() == [200]
    return uid


def look_back(world: World, upload: dict[str, Any]) -> str:
    uid = world.simulator.upload(webhook_delays=(), **upload)
    world.reconcile()
    return uid


def backfill(world: World, upload: dict[str, Any]) -> str:
    began = world.clock()
    uid = world.simulator.upload(webhook_delays=(), **upload)
    world.clock.now += 72 * HOUR
    world.reconcile(began)
    return uid


def long_encoding(world: World, upload: dict[str, Any]) -> str:
    uid = world.simulator.upload(webhook_delays=(), encode_seconds=50 * HOUR, **upload)
    for _ in range(51):
        world.reconcile()
        world.clock.now += HOUR
    world.reconcile()
    return uid


def every_path(world: World, upload: dict[str, Any]) -> str:
    began = world.clock()
    uid = webhook(world, upload)
    world.reconcile()
    world.simulator.repeat_webhook(uid)
    world.deliver_webhooks()
    world.clock.now += 72 * HOUR
    world.reconcile(began)
    return uid


PATHS = [webhook, look_back, backfill, long_encoding, every_path]


def ends_with(world: World, uid: str, by: Path) -> set[str]:
    """Return the downloads that are created and become ready in the end."""
    for _ in range(5):
        world.poll(50)
        world.clock.now += 60
    rows = world.downloads.of_video(uid)
    assert {row.status for row in rows} <= {Status.READY}
    assert {row.lane for row in rows} <= {Lane.BACKFILL if by is backfill else Lane.LIVE}
    kinds = {row.download_type.value for row in rows}
    creates = [call for call in world.simulator.calls if call.name == "create download"]
    assert sorted(call.download_type or "default" for call in creates) == sorted(kinds)
    return kinds


@pytest.mark.parametrize("by", PATHS)
@pytest.mark.parametrize("for_all", [(DEFAULT,), (AUDIO,), (DEFAULT, AUDIO)])
@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("none", set()),
        ("default", {"default"}),
        ("audio", {"audio"}),
        ("default,audio", {"default", "audio"}),
    ],
)
def test_what_a_video_says_overrides_download_types(
    said: str, wanted: set[str], for_all: tuple[DownloadType, ...], by: Path
) -> None:
    world = World(download_types=for_all)
    uid = by(world, {"downloads": said, "generation_seconds": 1})
    assert ends_with(world, uid, by) == wanted


@pytest.mark.parametrize("by", PATHS)
@pytest.mark.parametrize("said", ["None", "audio,default", "", "mp4", 0, ["audio"], {"a": 1}])
def test_what_says_nothing_is_logged_with_the_video(
    said: object, by: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    uid = by(world, {"downloads": said, "generation_seconds": 1})
    assert ends_with(world, uid, by) == {"default"}
    about = [line for line in caplog.records if "meta.downloads is not one of" in line.message]
    assert {line.levelname for line in about} == {"WARNING"}
    assert {vars(line)["video_uid"] for line in about} == {uid}
    assert len(about) == (2 if by is every_path else 1)  # once for each webhook


def test_a_failed_video_that_wants_none_leaves_no_row() -> None:
    world = World()
    webhook(world, {"downloads": "none", "error_code": "ERR_NON_VIDEO"})
    assert world.downloads.rows == {}
    webhook(world, {"downloads": "audio", "error_code": "ERR_NON_VIDEO"})
    assert [row.download_type for row in world.downloads.rows.values()] == [AUDIO]


@pytest.mark.parametrize("types", [None, ["audio"], ["default", "audio"]])
def test_a_request_by_hand_asks_for_what_it_names(types: list[str] | None) -> None:
    world = World()
    uid = webhook(world, {"downloads": "none"})
    payload = {"action": "request", "video_uid": uid}
    command = commands.command(payload | ({"download_types": types} if types else {}))
    assert isinstance(command, Command)
    manage(world.service, command, lambda: 30.0)
    rows = {row.download_type.value for row in world.downloads.of_video(uid)}
    assert rows == set(types or ["default"])


def test_what_is_there_stays_when_a_video_wants_none_later() -> None:
    world = World()
    uid = webhook(world, {"generation_seconds": 1})
    video = world.simulator.videos[uid]
    video.upload = type(video.upload)(downloads="none", generation_seconds=1)
    world.simulator.repeat_webhook(uid)
    world.deliver_webhooks()
    world.reconcile()
    assert ends_with(world, uid, webhook) == {"default"}
