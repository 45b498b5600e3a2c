"""Reads the API credentials and the signing secret from Secrets Manager, and caches them.

Powertools caches each value for five minutes. This module adds two rules. A value that cannot be
used is refused with a message that says what to do and never contains the value. While Secrets
Manager fails, the last good value is used for up to an hour.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aws_lambda_powertools.utilities.parameters import GetParameterError, SecretsProvider
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

FRESH_SECONDS = 300
STALE_SECONDS = 3600
PAUSE_AFTER_FAILURE_SECONDS = 10
PAUSE_AFTER_REFRESH_SECONDS = 60

# The characters of a secret. With a newline that was copied along with a token, an HTTP library
# would raise an exception that contains the token.
_USABLE = re.compile("[!-~]+")

_CREDENTIALS_SHAPE = '{"api_token": "…"} or {"api_email": "…", "api_key": "…"}'

# Secrets Manager's error codes for a staging label without a version.
_NO_SUCH_VERSION = ("ResourceNotFoundException", "InvalidRequestException")

Value = TypeVar("Value")


class SecretUnavailable(Exception):
    """A secret cannot be read or used. The message says why, and never contains the value."""


class ApiCredentials:
    """The user's own credentials at Cloudflare.

    The secret is ``{"api_token": "…"}`` or ``{"api_email": "…", "api_key": "…"}``; with both, the
    token is used.

    Args:
        client: a low-level Secrets Manager client.
        secret_arn: the secret's ARN.
        monotonic: a clock in seconds, for the age of the last good value.
    """

    def __init__(
        self,
        client: SecretsManagerClient,
        secret_arn: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        provider = SecretsProvider(boto3_client=client)
        self._secret = _Secret(provider, secret_arn, _authorization, monotonic)

    def headers(self) -> Mapping[str, str]:
        """Return the headers that authorize a request to Cloudflare's API.

        https://developers.cloudflare.com/fundamentals/api/how-to/make-api-calls/

        Raises:
            SecretUnavailable: the secret cannot be read, and the last copy is over an hour old;
                or what is in it cannot be used.
        """
        return self._secret.get()

    def reread(self) -> None:
        """Read the secret again, now.

        Raises:
            SecretUnavailable: it cannot be read now, however fresh the last copy is; or what is in
                it cannot be used.
        """
        self._secret.reread()

    def refresh(self) -> bool:
        """Read the secret again, now; return True if there are new credentials to try."""
        before = self._secret.last_good()
        try:
            return self._secret.get(force=True) != before
        except SecretUnavailable:
            return False


class SigningSecrets:
    """The secrets with which Cloudflare may have signed a webhook: current and previous.

    The secret is ``{"webhook_secret": "…"}``. Storing a new one makes the old one
    ``AWSPREVIOUS``, so that webhooks already on their way stay valid.

    Args:
        client: a low-level Secrets Manager client.
        secret_arn: the secret's ARN.
        monotonic: a clock in seconds.
    """

    def __init__(
        self,
        client: SecretsManagerClient,
        secret_arn: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Two providers, because Powertools' cache does not tell the versions of a secret apart.
        current = SecretsProvider(boto3_client=client)
        previous = _PreviousVersion(boto3_client=client)
        self._client, self._secret_arn = client, secret_arn
        self._current = _Secret(current, secret_arn, _signing_secret, monotonic)
        self._previous = _Secret(previous, secret_arn, _signing_secret_if_usable, monotonic)
        self._monotonic = monotonic
        self._refreshed_at: float | None = None

    def candidates(self) -> tuple[bytes, ...]:
        """Return the current secret and, if there is one that can be used, the previous.

        Raises:
            SecretUnavailable: the current secret cannot be read, and the last copy is over an
                hour old; or it is empty or cannot be used.
        """
        return self._candidates(force=False)

    def refresh(self) -> tuple[bytes, ...] | None:
        """Read both again, at most once a minute; return None if that is too early.

        The refresh finds a secret that was just rotated. The limit is for a flood of wrong
        signatures.

        Raises:
            SecretUnavailable: as :meth:`candidates`.
        """
        now = self._monotonic()
        if (
            self._refreshed_at is not None
            and now - self._refreshed_at < PAUSE_AFTER_REFRESH_SECONDS
        ):
            return None
        self._refreshed_at = now
        return self.reread()

    def reread(self) -> tuple[bytes, ...]:
        """Read both again, now.

        Raises:
            SecretUnavailable: as :meth:`candidates`.
        """
        return self._candidates(force=True)

    def store(self, secret: str) -> bool:
        """Store ``secret`` unless it is the current one; return True if it was stored."""
        return store_signing_secret(self._client, self._secret_arn, secret)

    def _candidates(self, *, force: bool) -> tuple[bytes, ...]:
        current = self._current.get(force=force)
        previous = self._previous.get(force=force)
        return (current,) if previous in (None, current) else (current, previous)


def read_signing_secret(client: SecretsManagerClient, secret_arn: str) -> bytes:
    """Return the signing secret that is stored now.

    Raises:
        SecretUnavailable: it cannot be read, or not be used to verify a signature.
    """
    provider = SecretsProvider(boto3_client=client)
    return _Secret(provider, secret_arn, _signing_secret, time.monotonic).get()


def store_signing_secret(client: SecretsManagerClient, secret_arn: str, secret: str) -> bool:
    """Store ``secret`` unless it is the current one; return True if it was stored.

    Raises:
        SecretUnavailable: ``secret`` cannot be used to verify a signature.
        botocore.exceptions.ClientError: Secrets Manager refuses to read or to store.
    """
    wanted = _usable({"webhook_secret": secret}, "webhook_secret").encode()
    stored, version = "", ""
    try:
        current = client.get_secret_value(SecretId=secret_arn)
        stored, version = current.get("SecretString", ""), current["VersionId"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NO_SUCH_VERSION:
            raise
    if _signing_secret_if_usable(stored) == wanted:
        return False
    # Of two writers that replace the same version, the second changes nothing: two new versions
    # would take the label AWSPREVIOUS from the old secret.
    token = hashlib.sha256(f"{version} {secret}".encode()).hexdigest()
    value = json.dumps({"webhook_secret": secret})
    client.put_secret_value(SecretId=secret_arn, SecretString=value, ClientRequestToken=token)
    return True


class _PreviousVersion(SecretsProvider):
    """Reads the previous version of a secret: an empty text if there is none."""

    def _get(self, name: str, **sdk_options: Any) -> str | bytes:
        try:
            return super()._get(name, VersionStage="AWSPREVIOUS", **sdk_options)
        except ClientError as error:
            if error.response["Error"]["Code"] in _NO_SUCH_VERSION:
                return ""  # unlike None, it is cached
            raise


class _Secret(Generic[Value]):
    """One version of one secret, read and parsed.

    A value is fresh for five minutes (Powertools). If it cannot be read again, it is used for an
    hour more. If the new value is invalid, the old one is not used: an operator has replaced it.
    After any failure the next attempt waits ten seconds, so that a flood of requests does not
    become a flood of reads.
    """

    def __init__(
        self,
        provider: SecretsProvider,
        secret_arn: str,
        parse: Callable[[Any], Value],
        monotonic: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._secret_arn = secret_arn
        self._parse = parse
        self._monotonic = monotonic
        self._good: tuple[Value, float] | None = None
        self._failed_at: float | None = None
        self._failure = ""

    def get(self, *, force: bool = False) -> Value:
        """Return the value; ``force`` reads it again even if it is fresh."""
        now = self._monotonic()
        if force or not self._is_pausing(now):
            self._read(now, force=force)
        if self._good is not None and now - self._good[1] <= STALE_SECONDS:
            return self._good[0]
        raise self._unavailable()

    def reread(self) -> None:
        """Read the value again, now; raise if that fails, however fresh the last good value is."""
        self._read(self._monotonic(), force=True)
        if self._failed_at is not None:
            raise self._unavailable()

    def last_good(self) -> Value | None:
        """Return the last valid value, however old."""
        return self._good[0] if self._good else None

    def _unavailable(self) -> SecretUnavailable:
        # Made outside the `except` blocks, so that no chained exception contains the value.
        return SecretUnavailable(f"secret {self._secret_arn}: {self._failure}")

    def _is_pausing(self, now: float) -> bool:
        return self._failed_at is not None and now - self._failed_at < PAUSE_AFTER_FAILURE_SECONDS

    def _read(self, now: float, *, force: bool) -> None:
        try:
            text = self._provider.get(self._secret_arn, max_age=FRESH_SECONDS, force_fetch=force)
            self._good, self._failed_at = (self._parse(text), now), None
        except GetParameterError as error:
            self._failure, self._failed_at = f"it cannot be read: {error}", now
        except SecretUnavailable as error:
            self._failure, self._failed_at, self._good = str(error), now, None
            self._provider.store.clear()


def _authorization(text: str | bytes) -> Mapping[str, str]:
    fields = _fields(text, _CREDENTIALS_SHAPE)
    if "api_token" in fields:
        return {"Authorization": f"Bearer {_usable(fields, 'api_token')}"}
    if "api_email" in fields or "api_key" in fields:
        return {
            "X-Auth-Email": _usable(fields, "api_email"),
            "X-Auth-Key": _usable(fields, "api_key"),
        }
    raise SecretUnavailable(f'it has no "api_token"; store {_CREDENTIALS_SHAPE}')


def _signing_secret(text: str | bytes) -> bytes:
    return _usable(_fields(text, '{"webhook_secret": "…"}'), "webhook_secret").encode()


def _signing_secret_if_usable(text: str | bytes) -> bytes | None:
    try:
        return _signing_secret(text)
    except SecretUnavailable:
        return None


def _fields(text: str | bytes, shape: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise SecretUnavailable(f"it is not a JSON object; store {shape}")
    return fields


def _usable(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise SecretUnavailable(f'it has no "{name}"; store one')
    if not isinstance(value, str):
        raise SecretUnavailable(f'its "{name}" is not a string; store it in quotes')
    if not value:
        raise SecretUnavailable(f'its "{name}" is empty; store a value')
    if not _USABLE.fullmatch(value):
        raise SecretUnavailable(
            f'its "{name}" holds a space, a line break, a control character or a character'
            " outside ASCII; store it again without it"
        )
    return value
