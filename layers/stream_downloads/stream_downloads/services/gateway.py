"""Sends every request to Cloudflare, within the limit that all functions share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.stream_api import RefusalKind, Refused
from stream_downloads.domain.download import iso_time
from stream_downloads.domain.request_budget import Asker

if TYPE_CHECKING:
    from stream_downloads.adapters.secrets import ApiCredentials
    from stream_downloads.adapters.shared_state import Budget, Grant, Usage
    from stream_downloads.adapters.stream_api import StreamClient

P = ParamSpec("P")
Result = TypeVar("Result")

# The total limit of a request that a caller waits for.
CALL_SECONDS: Final = 8.0


class NotNow(Exception):
    """The shared limit allows no request now; the text says when to try again."""


class SendAgain(Exception):
    """The request had no effect, and can be sent again under a new grant.

    The grant had run out, or Cloudflare refused credentials that have changed since.
    """


class Gateway:
    """Sends requests to Cloudflare within the shared limit. Thread-safe.

    Attributes:
        stream: the client of the API; its methods are the requests that can be sent.
        sent: how many requests were sent through this gateway.
    """

    def __init__(self, budget: Budget, credentials: ApiCredentials, stream: StreamClient) -> None:
        self.stream = stream
        self.sent = 0
        self._budget = budget
        self._credentials = credentials
        self._lock = threading.Lock()
        self._refreshed_under: Grant | None = None

    def permit(self, wanted: int, asker: Asker, *, leave: float = 0.0) -> Grant:
        """Reserve up to ``wanted`` requests of the shared limit; fewer, or none, may be granted.

        Args:
            wanted: how many, at least 1.
            asker: for whom.
            leave: the part of the limit, 0 to 1, that this kind of work leaves to others as well.

        Raises:
            SecretUnavailable: the credentials for Cloudflare cannot be used.
            botocore.exceptions.ClientError, BotoCoreError: DynamoDB could not be asked.
        """
        self._headers()  # reading the secret may take longer than a grant holds
        return self._budget.take(wanted, asker, leave=leave)

    def send(
        self, grant: Grant, call: Callable[P, Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Send one request under a grant.

        A 429 closes the gate for all functions. Refused credentials are read again.

        Args:
            grant: with a request that has not been sent yet.
            call: a method of ``stream``; its name is the dimension of the metric.
            args: its arguments.
            kwargs: its arguments.

        Raises:
            SendAgain: the request has to be sent again under a new grant.
            CloudflareError: Cloudflare was not reached, or refused.
            SecretUnavailable: the credentials for Cloudflare cannot be used.
        """
        headers = self._headers()
        if not self._budget.is_current(grant):
            raise SendAgain("The grant had run out.")
        outcome = "not_reached"
        try:
            result = call(*args, **kwargs)
            outcome = "ok"
        except Refused as refusal:
            outcome = refusal.kind
            self._handle_refusal(refusal, grant, headers)
            raise
        finally:
            self._count(call.__name__, outcome)
        return result

    def ask(self, call: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Send one request that a caller waits for.

        Args:
            call: a method of ``stream``.
            args: its arguments.
            kwargs: its arguments.

        Raises:
            NotNow: the shared limit leaves no request, or the gate is closed after a 429.
            CloudflareError: Cloudflare was not reached, or refused, also with a 429.
            SecretUnavailable: the credentials for Cloudflare cannot be used.
            botocore.exceptions.ClientError, BotoCoreError: DynamoDB could not be asked.
        """
        for _ in range(2):  # with fresh credentials, if they were refused and have changed
            try:
                return self.send(self._permit_now(), call, *args, **kwargs)
            except SendAgain:
                continue
            finally:
                self.settle()
        raise NotNow("The request could not be sent in time: try again.")

    def settle(self) -> None:
        """Share what the last answers said about the limit of the account."""
        try:
            self._budget.settle()
        except (ClientError, BotoCoreError) as error:  # the next answer has a new number
            logger.warning("The account's rate limit could not be shared", extra=described(error))

    def usage(self) -> Usage:
        """Return what is used of the request limit now."""
        return self._budget.usage()

    def reread_credentials(self) -> None:
        """Read the credentials again, now.

        Raises:
            SecretUnavailable: they cannot be read now, or not be used.
        """
        self._credentials.reread()

    def refresh_credentials(self) -> bool:
        """Read the credentials again, now; return True if they have changed."""
        return self._credentials.refresh()

    def _permit_now(self) -> Grant:
        grant = self.permit(1, Asker.OPERATOR)
        if grant.count:
            return grant
        if grant.blocked_until:
            until = iso_time(grant.blocked_until)
            raise NotNow(f"Cloudflare's rate limit was reached: try again after {until}.")
        if grant.contended:
            raise NotNow("Many functions send requests at this moment: try again.")
        raise NotNow("The requests of these five minutes are used up: try again in a minute.")

    def _handle_refusal(self, refusal: Refused, grant: Grant, headers: Mapping[str, str]) -> None:
        """Act on a refusal that concerns all requests."""
        if refusal.kind is RefusalKind.THROTTLED:
            record(Metric.GATE_CLOSED)
            try:
                self._budget.close(refusal.retry_after)
            except (ClientError, BotoCoreError) as error:  # this process obeys it all the same
                logger.error("A 429 could not be shared with others", extra=described(error))
        elif refusal.kind is RefusalKind.CREDENTIALS:
            with self._lock:  # only the first refusal under a grant reads the secret
                changed = self._headers() != headers
                if not changed and self._refreshed_under is not grant:
                    self._refreshed_under = grant
                    changed = self._credentials.refresh()
            if changed:
                raise SendAgain("The credentials have changed.") from refusal
            record(Metric.CREDENTIALS_REFUSED)

    def _headers(self) -> Mapping[str, str]:
        try:
            return self._credentials.headers()
        except SecretUnavailable:
            record(Metric.CREDENTIALS_REFUSED)
            raise

    def _count(self, call: str, outcome: str) -> None:
        with self._lock:
            self.sent += 1
        record(Metric.CLOUDFLARE_REQUESTS, call=call, outcome=outcome)
