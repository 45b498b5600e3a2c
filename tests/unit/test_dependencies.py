"""Test the service that a function's environment describes."""

from __future__ import annotations

import pytest

from stream_downloads.domain.download import DownloadType
from stream_downloads.domain.polling import CHEAPEST, CHEAPEST_ONCE_A_MINUTE
from stream_downloads.services.dependencies import Service
from tests.support.template import environment

SETTINGS = (
    "TABLE_NAME",
    "CONTROL_TABLE_NAME",
    "CLOUDFLARE_ACCOUNT_ID",
    "CLOUDFLARE_API_BASE_URL",
    "CLOUDFLARE_REQUEST_LIMIT",
    "CLOUDFLARE_SECRET_ARN",
    "DOWNLOAD_TYPES",
    "RETENTION_DAYS",
    "POLL_WINDOW_SECONDS",
)


def test_the_environment_of_the_template_makes_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_DAYS", "2")
    monkeypatch.setenv("DOWNLOAD_TYPES", "audio,default")
    service = Service.from_environment()
    assert service.retention == 2 * 86_400
    assert service.download_types == (DownloadType.AUDIO, DownloadType.DEFAULT)
    assert 0 <= service.jitter() < 1


@pytest.mark.parametrize(("window", "expected"), [("0", CHEAPEST_ONCE_A_MINUTE), ("50", CHEAPEST)])
def test_the_price_of_a_poll_follows_the_window(
    window: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLL_WINDOW_SECONDS", window)
    assert Service.from_environment().price(0.0) == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name in environment()
    monkeypatch.delenv(name)
    with pytest.raises(KeyError, match=name):
        Service.from_environment()


def types_of(text: str) -> tuple[DownloadType, ...]:
    """Return the download types of a function whose environment says so."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DOWNLOAD_TYPES", text)
        return Service.from_environment().download_types


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("default", ["default"]),
        ("audio", ["audio"]),
        ("default,audio", ["default", "audio"]),
        (" audio , default ", ["audio", "default"]),
        ("default,default", ["default"]),
    ],
)
def test_download_types_are_a_list_with_commas(text: str, types: list[str]) -> None:
    assert [*types_of(text)] == types


@pytest.mark.parametrize("text", ["", ",", "mp4", "default,", "Default", "default;audio"])
def test_what_is_no_download_type_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(ValueError, match="is no download type: there are default and audio"):
        types_of(text)
