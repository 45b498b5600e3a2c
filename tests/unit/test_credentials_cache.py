"""Test the cached secrets while they are rotated and unreadable, with a clock that moves."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aws_lambda_powertools.utilities.parameters import base
from botocore.exceptions import ClientError, ReadTimeoutError

from stream_downloads.adapters import secrets
from stream_downloads.adapters.secrets import ApiCredentials, SecretUnavailable, SigningSecrets
from tests.support.clock import VirtualClock
from tests.support.secrets_manager import SecretsManager, refusal

ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:example-AbCdEf"
VALUE = "value-that-must-not-be-shown"


@pytest.fixture
def clock(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    # The time of day by which Powertools' cache goes, and ours, which is monotonic.
    time_of_day = SimpleNamespace(now=lambda: datetime.fromtimestamp(clock(), UTC))
    monkeypatch.setattr(base, "datetime", time_of_day)
    return clock


@pytest.fixture
def secrets_manager() -> SecretsManager:
    return SecretsManager()


class Stored(SecretsManager):
    """A secret with both its readers; each test uses one of them."""

    def __init__(self, value: str, clock: VirtualClock) -> None:
        super().__init__()
        self.store(ARN, value)
        client: Any = self
        self.api = ApiCredentials(client, ARN, clock)
        self.signing = SigningSecrets(client, ARN, clock)
        self.clock = clock


@pytest.fixture
def users(clock: VirtualClock) -> Stored:
    """Return the user's own secret, a token."""
    return Stored(token(VALUE), clock)


@pytest.fixture
def ours(clock: VirtualClock) -> Stored:
    """Return the signing secret of the stack."""
    return Stored(signing_secret("first"), clock)


def token(value: str) -> str:
    return json.dumps({"api_token": value})


def signing_secret(value: str) -> str:
    return json.dumps({"webhook_secret": value})


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


# ---------------------------------------------------------------------------- API credentials


EMAIL = "a@example.com"
USABLE: dict[str, tuple[Any, dict[str, str]]] = {
    "a token": ({"api_token": VALUE}, bearer(VALUE)),
    "a token that is stored as bytes": (token(VALUE).encode(), bearer(VALUE)),
    "an e-mail and a key": (
        {"api_email": EMAIL, "api_key": VALUE},
        {"X-Auth-Email": EMAIL, "X-Auth-Key": VALUE},
    ),
    "a token before a key": (
        {"api_token": VALUE, "api_email": EMAIL, "api_key": "key"},
        bearer(VALUE),
    ),
    "a token beside other fields": ({"api_token": VALUE, "note": "by hand\n"}, bearer(VALUE)),
}


@pytest.mark.parametrize(("secret", "headers"), USABLE.values(), ids=USABLE.keys())
def test_a_secret_becomes_the_headers_of_a_request(
    users: Stored, secret: Any, headers: dict[str, str]
) -> None:
    users.store(ARN, secret)
    assert users.api.headers() == headers


def test_the_secret_is_read_once_in_five_minutes(users: Stored) -> None:
    users.api.headers()
    users.clock.now += 300
    users.api.headers()
    assert len(users.reads) == 1
    users.clock.now += 1
    users.api.headers()
    assert len(users.reads) == 2


def test_a_refresh_finds_a_new_token(users: Stored) -> None:
    users.api.headers()
    users.store(ARN, token("new"))
    assert users.api.headers() == bearer(VALUE)
    assert users.api.refresh() is True
    assert users.api.headers() == bearer("new")


def test_the_first_reading_is_something_new_and_the_same_again_is_not(users: Stored) -> None:
    assert users.api.refresh() is True
    assert users.api.refresh() is False


def test_a_refresh_that_fails_has_nothing_new_and_keeps_the_copy(users: Stored) -> None:
    users.api.headers()
    users.fail(refusal("InternalServiceError"))
    assert users.api.refresh() is False
    assert users.api.headers() == bearer(VALUE)


def test_a_refresh_that_finds_rubbish_has_nothing_new_and_drops_the_copy(users: Stored) -> None:
    users.api.headers()
    users.store(ARN, token(""))
    assert users.api.refresh() is False
    with pytest.raises(SecretUnavailable, match="is empty"):
        users.api.headers()


# ------------------------------------------------------------------- shapes that cannot be used

UNUSABLE = {
    "not JSON": (VALUE, 'not a JSON object; store {"api_token"'),
    "binary": (b"\xff\xfe" + VALUE.encode(), "not a JSON object"),
    "nested too deep": ("[" * 100_000, "not a JSON object"),
    "an array": (json.dumps([VALUE]), 'not a JSON object; store {"api_token"'),
    "a text": (json.dumps(VALUE), "not a JSON object"),
    "nothing": ("", "not a JSON object"),
    "no field": ("{}", "store {"),
    "a field of another name": (json.dumps({"token": VALUE}), "store {"),
    "null": (json.dumps({"api_token": None}), 'no "api_token"'),
    "an empty token": (token(""), "is empty"),
    "a number": (json.dumps({"api_token": 12345}), "not a string"),
    "a list": (json.dumps({"api_token": [VALUE]}), "not a string"),
    "an object": (json.dumps({"api_token": {"a": VALUE}}), "not a string"),
    "a trailing newline": (token(f"{VALUE}\n"), "line break"),
    "a carriage return": (token(f"{VALUE}\r\nX: y"), "line break"),
    "a space": (token(f" {VALUE}"), "space"),
    "the word Bearer": (token(f"Bearer {VALUE}"), "space"),
    "a tab": (token(f"{VALUE}\t"), "space"),
    "a NUL": (token(f"{VALUE}\x00"), "control character"),
    "DEL": (token(f"{VALUE}\x7f"), "control character"),
    "not ASCII": (token(f"{VALUE}é"), "outside ASCII"),
    "half a surrogate": (token(f"{VALUE}\ud800"), "outside ASCII"),
    "an e-mail without a key": (json.dumps({"api_email": VALUE}), 'no "api_key"'),
    "a key without an e-mail": (json.dumps({"api_key": VALUE}), 'no "api_email"'),
    "an empty key": (json.dumps({"api_email": VALUE, "api_key": ""}), '"api_key" is empty'),
    "a key with a newline": (
        json.dumps({"api_email": "a@example.com", "api_key": f"{VALUE}\n"}),
        '"api_key" holds',
    ),
    "an empty token beside a key": (
        json.dumps({"api_token": "", "api_email": "a@example.com", "api_key": VALUE}),
        '"api_token" is empty',
    ),
}


def everything_said(error: BaseException | None) -> Iterator[str]:
    """Yield all that a thorough logger could print of an exception."""
    while error is not None:
        yield from (repr(error), str(error), repr(vars(error)))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(("secret", "advice"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_secret_that_cannot_be_used_is_refused_without_being_told(
    users: Stored, caplog: pytest.LogCaptureFixture, secret: str | bytes, advice: str
) -> None:
    caplog.set_level(logging.DEBUG)
    users.store(ARN, secret)
    with pytest.raises(SecretUnavailable) as refused:
        users.api.headers()
    assert advice in str(refused.value)
    assert ARN in str(refused.value)
    assert not [said for said in everything_said(refused.value) if VALUE in said]
    assert VALUE not in caplog.text


def test_a_secret_that_was_corrected_is_found_within_seconds(users: Stored) -> None:
    users.store(ARN, token(""))
    with pytest.raises(SecretUnavailable):
        users.api.headers()
    users.store(ARN, token("corrected"))
    users.clock.now += secrets.PAUSE_AFTER_FAILURE_SECONDS
    assert users.api.headers() == bearer("corrected")


# --------------------------------------------------------------------------------- outages

FAILURES = [
    refusal("InternalServiceError"),
    refusal("ThrottlingException"),
    refusal("AccessDeniedException"),
    refusal("ResourceNotFoundException"),
    ReadTimeoutError(endpoint_url="https://secretsmanager.us-east-1.amazonaws.com/"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_stale_copy_serves_during_an_outage(users: Stored, failure: Exception) -> None:
    users.api.headers()
    users.fail(failure)
    users.clock.now += 3600
    assert users.api.headers() == bearer(VALUE)


def test_a_copy_over_an_hour_old_does_not_serve(users: Stored) -> None:
    users.api.headers()
    users.fail(refusal("InternalServiceError"))
    users.clock.now += 3601
    with pytest.raises(SecretUnavailable, match="InternalServiceError"):
        users.api.headers()


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_without_a_copy_an_outage_is_said(users: Stored, failure: Exception) -> None:
    users.fail(failure)
    with pytest.raises(SecretUnavailable, match="cannot be read"):
        users.api.headers()


def test_a_flood_during_an_outage_does_not_become_a_flood_of_reads(users: Stored) -> None:
    users.fail(refusal("InternalServiceError"))
    for _ in range(100):
        with pytest.raises(SecretUnavailable):
            users.api.headers()
        users.clock.now += 0.1
    assert len(users.reads) == 1


def test_the_secret_is_read_again_after_an_outage(users: Stored) -> None:
    users.fail(refusal("InternalServiceError"))
    with pytest.raises(SecretUnavailable):
        users.api.headers()
    users.fail(None)
    users.clock.now += secrets.PAUSE_AFTER_FAILURE_SECONDS
    assert users.api.headers() == bearer(VALUE)


# ------------------------------------------------------------------------- signing secrets


def test_the_first_secret_is_the_only_candidate(ours: Stored) -> None:
    assert ours.signing.candidates() == (b"first",)


def test_the_current_secret_comes_before_the_previous(ours: Stored) -> None:
    ours.store(ARN, signing_secret("second"))
    assert ours.signing.candidates() == (b"second", b"first")


def test_the_same_secret_stored_twice_is_one_candidate(ours: Stored) -> None:
    ours.store(ARN, signing_secret("first"))
    assert ours.signing.candidates() == (b"first",)


@pytest.mark.parametrize("unusable", ["{}", "", "not JSON", signing_secret(""), token("x")])
def test_an_unusable_secret_is_passed_over_unless_it_is_current(
    ours: Stored, unusable: str
) -> None:
    ours.versions[ARN]["AWSPREVIOUS"] = unusable
    assert ours.signing.candidates() == (b"first",)
    ours.store(ARN, unusable)
    ours.clock.now += 301
    with pytest.raises(SecretUnavailable):
        ours.signing.candidates()


def test_each_version_is_read_once_in_five_minutes_even_if_one_is_missing(ours: Stored) -> None:
    for _ in range(100):
        ours.signing.candidates()
        ours.clock.now += 3
    assert sorted(ours.reads) == ["AWSCURRENT", "AWSPREVIOUS"]
    ours.clock.now += 1
    ours.signing.candidates()
    assert len(ours.reads) == 4


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "InvalidRequestException"])
def test_the_previous_version_may_be_missing(ours: Stored, code: str) -> None:
    ours.failures["AWSPREVIOUS"] = refusal(code)
    assert ours.signing.candidates() == (b"first",)


def test_a_previous_version_that_cannot_be_read_is_no_missing_one(ours: Stored) -> None:
    ours.failures["AWSPREVIOUS"] = refusal("AccessDeniedException")
    with pytest.raises(SecretUnavailable, match="AccessDeniedException"):
        ours.signing.candidates()


def test_a_refresh_finds_a_rotated_secret(ours: Stored) -> None:
    ours.signing.candidates()
    ours.store(ARN, signing_secret("second"))
    assert ours.signing.candidates() == (b"first",)
    assert ours.signing.refresh() == (b"second", b"first")
    assert ours.signing.candidates() == (b"second", b"first")


def test_a_flood_of_bad_signatures_costs_one_refresh_a_minute(ours: Stored) -> None:
    ours.signing.candidates()
    ours.reads.clear()
    for _ in range(600):  # a minute of them
        ours.signing.refresh()
        ours.clock.now += 0.1
    assert len(ours.reads) == 2  # current and previous
    ours.clock.now += 1
    assert ours.signing.refresh() is not None


def test_a_refresh_too_early_says_so(ours: Stored) -> None:
    assert ours.signing.refresh() == (b"first",)
    ours.clock.now += 59.9
    assert ours.signing.refresh() is None


def test_a_refresh_that_fails_counts_against_the_minute(ours: Stored) -> None:
    ours.fail(refusal("InternalServiceError"))
    with pytest.raises(SecretUnavailable):
        ours.signing.refresh()
    assert ours.signing.refresh() is None


def test_a_refresh_during_an_outage_gives_the_stale_copies(ours: Stored) -> None:
    ours.signing.candidates()
    ours.fail(refusal("InternalServiceError"))
    assert ours.signing.refresh() == (b"first",)


# ---------------------------------------------------------------------- storing the secret


def store(secrets_manager: SecretsManager, secret: str) -> bool:
    return secrets.store_signing_secret(cast("Any", secrets_manager), ARN, secret)


def test_the_same_secret_is_not_stored_again(secrets_manager: SecretsManager) -> None:
    secrets_manager.store(ARN, '{ "webhook_secret": "first" }')
    assert store(secrets_manager, "first") is False
    assert list(secrets_manager.versions[ARN]) == ["AWSCURRENT"]


@pytest.mark.parametrize("stored", ["{}", "not JSON", signing_secret(""), b"binary"])
def test_a_secret_that_cannot_be_used_is_replaced(
    secrets_manager: SecretsManager, stored: str | bytes
) -> None:
    secrets_manager.store(ARN, stored)
    assert store(secrets_manager, "first") is True
    assert secrets_manager.versions[ARN]["AWSCURRENT"] == signing_secret("first")


def test_a_secret_is_stored_where_there_was_none(secrets_manager: SecretsManager) -> None:
    assert store(secrets_manager, "first") is True


def test_nothing_is_stored_over_what_cannot_be_read(secrets_manager: SecretsManager) -> None:
    secrets_manager.store(ARN, signing_secret("first"))
    secrets_manager.fail(refusal("AccessDeniedException"))
    with pytest.raises(ClientError):
        store(secrets_manager, "second")
    assert secrets_manager.versions[ARN] == {"AWSCURRENT": signing_secret("first")}


@pytest.mark.parametrize("secret", ["", "with a space", "newline\n", "é"])
def test_a_secret_that_verifies_nothing_is_not_stored(
    secrets_manager: SecretsManager, secret: str
) -> None:
    with pytest.raises(SecretUnavailable):
        store(secrets_manager, secret)
    assert secrets_manager.versions == {}
