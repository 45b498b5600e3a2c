"""Test the commands of operators: request, delete, retry, status, link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stream_downloads.adapters.download_item import Unreadable
from stream_downloads.adapters.stream_api import Refused
from stream_downloads.domain import commands
from stream_downloads.domain.commands import Action, BadRequest, Command
from stream_downloads.domain.download import (
    Download,
    DownloadType,
    Reason,
    Status,
    Step,
    Work,
    iso_time,
)
from stream_downloads.domain.transitions import try_again
from stream_downloads.services import manage as manage_service
from stream_downloads.services.gateway import NotNow
from tests.simulator import Fault
from tests.support import rows
from tests.support.rows import AUDIO, DEFAULT, NOW, UID
from tests.support.world import World


@pytest.fixture
def world() -> World:
    return World()


def manage(world: World, remaining: float = 30.0, **command: Any) -> dict[str, Any]:
    parsed: Any = commands.command(command)
    return manage_service.manage(world.service, parsed, lambda: remaining)


def follow(world: World, minutes: int = 3) -> None:
    """Let that many minutes pass, with a poll each."""
    for _ in range(minutes):
        before = world.clock()
        world.poll(50)
        world.clock.now = max(world.clock(), before + 60)


def ready_video(world: World, **details: Any) -> str:
    """Return a video whose MP4 is ready."""
    uid = world.simulator.upload(**details)
    world.deliver_webhooks()
    follow(world)
    assert status_of(world, uid) is Status.READY
    return uid


def status_of(world: World, uid: str, kind: DownloadType = DEFAULT) -> Status | None:
    row = world.downloads.rows.get((uid, kind))
    return row.status if row else None


def test_a_request_makes_a_row_and_the_poller_does_the_rest(world: World) -> None:
    uid = ready_video(world, creator="someone")
    answer = manage(world, action="request", video_uid=uid, download_types=["audio"])
    (row,) = answer["downloads"]
    assert row["download_type"] == "audio"
    assert row["status"] == "requested"
    assert row["creator"] == "someone"
    assert not any(name.startswith("_") for name in row)
    follow(world)
    assert status_of(world, uid, AUDIO) is Status.READY


def test_a_request_defaults_to_the_types_of_the_stack(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=())
    manage(world, action="request", video_uid=uid)
    assert set(world.downloads.rows) == {(uid, DEFAULT)}


def test_a_request_of_what_is_ready_changes_nothing(world: World) -> None:
    uid = ready_video(world)
    before = dict(world.downloads.rows)
    manage(world, action="request", video_uid=uid)
    assert world.downloads.rows == before


def test_a_delete_takes_all_urls_at_once_and_leaves_tombstones(world: World) -> None:
    uid = ready_video(world)
    manage(world, action="request", video_uid=uid, download_types=["audio"])
    follow(world)
    rows = manage(world, action="delete", video_uid=uid)["downloads"]
    assert [row["status"] for row in rows] == ["deleting", "deleting"]
    assert not [row for row in rows if "url" in row]
    follow(world, 1)
    assert {row.status for row in world.downloads.rows.values()} == {Status.DELETED}
    assert world.simulator.videos[uid].downloads == {}


def test_only_a_request_revives_a_tombstone(world: World) -> None:
    uid = ready_video(world)
    manage(world, action="delete", video_uid=uid)
    follow(world, 1)
    world.simulator.repeat_webhook(uid)
    world.deliver_webhooks()
    manage(world, action="retry", video_uid=uid)
    assert status_of(world, uid) is Status.DELETED
    manage(world, action="request", video_uid=uid)
    follow(world)
    assert status_of(world, uid) is Status.READY


def test_types_are_deleted_one_by_one(world: World) -> None:
    uid = ready_video(world)
    manage(world, action="request", video_uid=uid, download_types=["audio"])
    follow(world)
    manage(world, action="delete", video_uid=uid, download_types=["audio"])
    follow(world, 1)
    assert status_of(world, uid) is Status.READY
    assert status_of(world, uid, AUDIO) is Status.DELETED
    assert set(world.simulator.videos[uid].downloads) == {"default"}


def test_a_request_during_a_delete_waits_for_it_and_wins(world: World) -> None:
    uid = ready_video(world)
    manage(world, action="delete", video_uid=uid)
    manage(world, action="request", video_uid=uid)
    follow(world)
    assert status_of(world, uid) is Status.READY
    names = [call.name for call in world.simulator.calls]
    assert names.index("delete downloads") < len(names) - names[::-1].index("create download") - 1


def test_a_retry_opens_what_ended_in_error_and_nothing_else(world: World) -> None:
    ended = world.simulator.upload(failing_creates={"default": 4})
    fine = ready_video(world)
    world.deliver_webhooks()
    follow(world, 40)
    assert status_of(world, ended) is Status.ERROR
    assert manage(world, action="retry") == {"retried": 1, "ended": "done"}
    follow(world, 5)
    assert status_of(world, ended) is status_of(world, fine) is Status.READY


def test_a_row_that_cannot_be_opened_blocks_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = [number * 32 for number in "abc"]
    for uid in uids:
        world.downloads.add(rows.failed(video_uid=uid))
    get = world.downloads.get

    def get_or_not(uid: str, kind: DownloadType) -> Download | None:
        if uid == uids[1]:
            raise Unreadable("not a download")
        return get(uid, kind)

    monkeypatch.setattr(world.downloads, "get", get_or_not)
    answer = manage(world, action="retry")
    assert answer["retried"] == 2
    assert "1 could not be opened" in answer["ended"]
    assert [get(uid, DEFAULT).status for uid in uids] == [  # type: ignore[union-attr]
        Status.REQUESTED,
        Status.ERROR,
        Status.REQUESTED,
    ]


def test_a_retry_of_everything_stops_in_time_and_says_so(world: World) -> None:
    world.downloads.add(rows.failed())
    answer = manage(world, remaining=1.0, action="retry")
    assert answer["retried"] == 0
    assert "send the same again" in answer["ended"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault.SERVER_ERROR,
        Fault.UNAUTHORIZED,
        Fault.THROTTLED,
        Fault.NOT_FOUND_HTML,  # a page of something in between: it says nothing of the video
        Fault.CANNOT_CONNECT,
        Fault.HANG_BEFORE,
    ],
)
def test_a_request_is_recorded_with_what_is_known_if_cloudflare_cannot_be_asked(
    world: World, fault: Fault
) -> None:
    known = rows.ready(creator="me", name="clip", requires_signed_url=True, duration_seconds=5.5)
    world.downloads.add(known)
    for uid in (UID, "a" * 32):
        world.simulator.faults.script(fault, calls=["get video"])
        manage(world, action="request", video_uid=uid, download_types=["audio"])
    assert world.downloads.rows["a" * 32, AUDIO].status is Status.REQUESTED
    sibling = world.downloads.rows[UID, AUDIO]
    assert sibling.status is Status.REQUESTED
    for fact in ("creator", "name", "requires_signed_url", "duration_seconds"):
        assert getattr(sibling, fact) == getattr(known, fact), fact


def without_credentials(world: World) -> None:
    world.credentials.in_memory = world.credentials.stored = ""


@pytest.mark.parametrize("lose", [World.use_up_budget, without_credentials])
def test_a_request_is_recorded_if_no_request_can_be_sent_to_cloudflare(
    world: World, lose: Callable[[World], None]
) -> None:
    lose(world)
    manage(world, action="request", video_uid="a" * 32)
    assert status_of(world, "a" * 32) is Status.REQUESTED
    assert world.simulator.calls == []


def test_a_request_of_a_video_that_cloudflare_does_not_know_changes_nothing(world: World) -> None:
    uid = ready_video(world)
    world.simulator.drop_video(uid)
    before = dict(world.downloads.rows)
    with pytest.raises(BadRequest, match=r"does not know video .* check the uid and the account"):
        manage(world, action="request", video_uid=uid, download_types=["default", "audio"])
    assert world.downloads.rows == before


@pytest.mark.parametrize("action", ["delete", "retry", "status"])
def test_an_unknown_video_is_an_error_that_changes_nothing(world: World, action: str) -> None:
    with pytest.raises(BadRequest, match="no such download"):
        manage(world, action=action, video_uid="a" * 32)
    assert world.downloads.rows == {}


@pytest.mark.parametrize(
    ("row", "waits_for"),
    [
        (rows.requested(), "create"),
        (rows.in_progress(), "poll"),
        (rows.requested(work=Work(Step.GET_VIDEO, NOW + 60)), "video"),
        (rows.deleting(), "delete"),
        (rows.ready(), None),
        (rows.failed(), None),
        (rows.deleted(), None),
    ],
)
def test_the_status_of_a_video_says_what_a_download_waits_for(
    world: World, row: Download, waits_for: str | None
) -> None:
    world.downloads.add(row)
    (said,) = manage(world, action="status", video_uid=UID)["downloads"]
    if waits_for is None:
        assert "waiting" not in said
    else:
        assert said["waiting"] == {"for": waits_for, "until": iso_time(row.due_at or 0.0)}


def test_the_status_of_a_video_names_the_problem_and_since_when(world: World) -> None:
    row = try_again(rows.requested(), NOW + 90, Reason("10005", "not now"), NOW + 30)
    world.downloads.add(row)
    (said,) = manage(world, action="status", video_uid=UID)["downloads"]
    assert said["waiting"] == {
        "for": "create",
        "until": "2027-01-15T08:01:30.000Z",
        "problem": "10005: not now",
        "since": "2027-01-15T08:00:30.000Z",
    }


def test_the_status_of_the_stack_sums_up(world: World) -> None:
    ready_video(world)
    waiting = world.simulator.upload(generation_seconds=1000)
    world.deliver_webhooks()
    answer = manage(world, action="status")
    assert answer["rows"] == dict.fromkeys(Status, 0) | {"inprogress": 1, "ready": 1}
    assert answer["oldest_due"] is None
    assert answer["requests_in_five_minutes"] == 3
    assert answer["request_limit"] == 600
    assert answer["blocked_until"] is None
    world.clock.now += 3600
    assert manage(world, action="status")["oldest_due"] < manage(
        world, action="status", video_uid=waiting
    )["downloads"][0]["requested_at"].replace("08:", "09:")


def test_the_status_says_what_could_not_be_counted_in_time(world: World) -> None:
    for number in range(6):
        row = rows.requested(f"{number:032x}", DEFAULT)
        world.downloads.add(row if number else rows.failed(video_uid=row.video_uid))
    left = iter([30.0] * 9)
    status = Command(Action.STATUS, None, None)
    answer = manage_service.manage(world.service, status, lambda: next(left, 0.0))
    assert answer["rows"].pop("requested") == {"at_least": 3}
    assert answer["rows"] == {"inprogress": 0, "ready": 0, "error": 1, "deleting": 0, "deleted": 0}
    assert answer["request_limit"] == 600


def test_the_status_says_until_when_the_gate_is_closed(world: World) -> None:
    world.budget.close(100.0)
    blocked_until = manage(world, action="status")["blocked_until"]
    assert blocked_until == "2027-01-15T08:01:42.000Z"


def test_the_link_of_a_public_video_is_the_plain_url(world: World) -> None:
    uid = ready_video(world)
    row = world.downloads.rows[uid, DEFAULT]
    assert manage(world, action="link", video_uid=uid) == {"url": row.url, "expires_at": None}


def test_the_link_of_a_private_video_works_until_it_expires(world: World) -> None:
    uid = ready_video(world, private=True)
    row = world.downloads.rows[uid, DEFAULT]
    assert row.url is not None
    assert world.simulator.fetch(row.url) == 401
    answer = manage(world, action="link", video_uid=uid, expires_in=600, filename="my_clip-1")
    url, _, query = answer["url"].partition("?")
    assert query == "filename=my_clip-1"
    assert uid not in url
    assert world.simulator.fetch(url) == 200
    world.clock.now += 601
    assert world.simulator.fetch(url) == 401


def test_a_video_that_was_made_private_after_its_webhook_gets_a_link_that_works(
    world: World,
) -> None:
    uid = ready_video(world)
    video = world.simulator.videos[uid]
    video.upload = replace(video.upload, private=True)
    assert world.simulator.fetch(world.downloads.rows[uid, DEFAULT].url or "") == 401
    url = manage(world, action="link", video_uid=uid)["url"]
    assert world.simulator.fetch(url) == 200


def test_only_a_ready_download_has_a_link(world: World) -> None:
    uid = world.simulator.upload(generation_seconds=1000)
    world.deliver_webhooks()
    with pytest.raises(BadRequest, match="status of this one is inprogress"):
        manage(world, action="link", video_uid=uid)


def test_after_a_429_a_link_says_when_to_try_again(world: World) -> None:
    uid = ready_video(world, private=True)
    world.simulator.faults.script(Fault.THROTTLED, calls=["create token"])
    with pytest.raises(Refused, match="429"):
        manage(world, action="link", video_uid=uid)
    sent = len(world.simulator.calls)
    with pytest.raises(NotNow, match="try again after"):
        manage(world, action="link", video_uid=uid)
    assert len(world.simulator.calls) == sent


@pytest.mark.parametrize("private", [True, False])
def test_a_link_keeps_to_the_budget(world: World, *, private: bool) -> None:
    uid = ready_video(world, private=private)
    world.use_up_budget()
    sent = len(world.simulator.calls)
    with pytest.raises(NotNow, match="try again"):
        manage(world, action="link", video_uid=uid)
    assert len(world.simulator.calls) == sent
