"""Test the payloads that the functions accept and refuse."""

from __future__ import annotations

from typing import Any

import pytest

from stream_downloads.domain import commands
from stream_downloads.domain.commands import (
    Action,
    BadRequest,
    CheckCommand,
    Command,
    LinkCommand,
    Registration,
)
from stream_downloads.domain.download import DownloadType
from tests.support.events import VIDEO_UID, load_event

NOW = 1_800_000_000.0
REQUEST, DELETE, LINK = (
    {"action": action, "video_uid": VIDEO_UID} for action in ("request", "delete", "link")
)


def test_the_documented_payloads_are_taken() -> None:
    status = Command(Action.STATUS, None, None)
    assert commands.command(load_event("manage_downloads_status")) == status
    delete = Command(Action.DELETE, VIDEO_UID, (DownloadType.AUDIO,))
    assert commands.command(DELETE | {"download_types": ["audio"]}) == delete
    link = LinkCommand(VIDEO_UID, DownloadType.DEFAULT, 3600, None)
    assert commands.command(LINK) == link
    assert commands.command(load_event("manage_downloads_check")) == CheckCommand()
    assert commands.command({"action": "retry"}) == Command(Action.RETRY, None, None)
    assert commands.registration(load_event("register_webhook")) is Registration.SUBSCRIBE
    assert commands.registration(load_event("register_webhook_force")) is Registration.TAKE_OVER
    assert commands.registration(load_event("register_webhook_guest")) is Registration.GUEST
    assert commands.registration({"refresh": True}) is Registration.REFRESH
    assert commands.since({}, NOW) is None
    assert commands.since({"since": "2024-01-01T00:00:00Z"}, NOW) == 1_704_067_200.0
    assert commands.since({"since": "2024-01-01T02:00:00+02:00"}, NOW) == 1_704_067_200.0
    commands.nothing({}, "PollDownloads")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ([], "JSON object"),
        (None, "JSON object"),
        ({}, "request, delete, retry, status, link"),
        ({"action": "REQUEST"}, "request, delete, retry, status, link"),
        ({"action": ["request"]}, "request, delete, retry, status, link"),
        ({"action": "REQUEST"}, "'REQUEST' is no action: .*; the nearest is request"),
        ({"action": "explode"}, "'explode' is no action: .*, check\\. Nothing"),
        ({"acton": "status"}, "ManageDownloads takes no 'acton'; the nearest key is action"),
        ({"action": "status", "uid": VIDEO_UID}, "takes no 'uid'; the nearest key is video_uid"),
        (
            {"action": "request", "download_type": "audio"},
            "request takes no 'download_type'; the nearest key is download_types",
        ),
        (
            {"action": "link", "download_types": ["audio"]},
            "link takes no 'download_types'; the nearest key is download_type\\.",
        ),
        (
            {"action": "status", "force": True},
            "status takes no 'force', only action, download_types and video_uid",
        ),
        ({"action": "check", "video_uid": VIDEO_UID}, "check takes no 'video_uid', only action"),
        ({"action": "request"}, "request needs a video_uid"),
        ({"action": "delete"}, "delete needs a video_uid"),
        ({"action": "link"}, "link needs a video_uid"),
        ({"action": "delete", "video_uid": "../x"}, "32 characters"),
        ({"action": "delete", "video_uid": VIDEO_UID + "\n"}, "32 characters"),
        ({"action": "delete", "video_uid": 7}, "32 characters"),
        (REQUEST | {"download_types": []}, "a list such as"),
        (REQUEST | {"download_types": "audio"}, "a list such"),
        (REQUEST | {"download_types": ["mp3"]}, "'mp3' is no download type: there are default and"),
        (REQUEST | {"download_types": [[]]}, "default and audio"),
        ({"action": "retry", "download_types": ["audio"]}, "needs a video_uid"),
        (DELETE | {"expires_in": 5}, "takes no 'expires_in'"),
        (LINK | {"download_type": "mp3"}, "default and audio"),
        (LINK | {"download_type": ["audio"]}, "download_type has to be one text"),
        (LINK | {"expires_in": 0}, "whole seconds"),
        (LINK | {"expires_in": 86_401}, "whole seconds"),
        (LINK | {"expires_in": True}, "whole seconds"),
        (LINK | {"expires_in": 60.0}, "whole seconds"),
        (LINK | {"filename": "a b"}, "120 characters"),
        (LINK | {"filename": "a" * 121}, "120 characters"),
        (LINK | {"filename": "a\n"}, "120 characters"),
        (LINK | {"filename": ""}, "120 characters"),
    ],
)
def test_a_bad_command_is_refused_with_what_is_wrong(event: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as refusal:
        commands.command(event)
    assert str(refusal.value).endswith("Nothing was changed.")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"since": "yesterday"}, "ISO 8601"),
        ({"since": 1_704_067_200}, "ISO 8601"),
        ({"since": None}, "ISO 8601"),
        ({"since": "2024-01-01T00:00:00"}, "offset"),
        ({"since": "2999-01-01T00:00:00Z"}, "in the past"),
        ({"since": "1969-01-01T00:00:00Z"}, "after 1970"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "after 1970"),
        ({"from": "2024-01-01T00:00:00Z"}, "ReconcileLibrary takes no 'from', only since"),
        ({"Since": "2024-01-01T00:00:00Z"}, "the nearest key is since"),
    ],
)
def test_a_bad_since_is_refused_with_what_is_wrong(event: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        commands.since(event, NOW)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"force": False}, "RegisterWebhook takes"),
        ({"force": 1}, "RegisterWebhook takes"),
        ({"Force": True}, "RegisterWebhook takes"),
        ([], "a JSON object"),
        (None, "a JSON object"),
        ({"subscribe": True}, "RegisterWebhook takes"),
        ({"subscribe": 0}, "RegisterWebhook takes"),
        ({"subscribe": None}, "RegisterWebhook takes"),
        ({"subscribe": False, "force": True}, "but not both"),
        ({"subscribe": False, "force": False}, "but not both"),
    ],
)
def test_a_bad_registration_is_refused(event: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        commands.registration(event)


def test_input_for_a_function_that_takes_none_is_refused() -> None:
    with pytest.raises(BadRequest, match="PollDownloads takes no input"):
        commands.nothing({"now": True}, "PollDownloads")
