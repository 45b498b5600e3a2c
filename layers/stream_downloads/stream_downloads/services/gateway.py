"""One request on somebody's behalf, now: within the budget, counted, or a reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from stream_downloads.adapters.observability import Metric, record
from stream_downloads.adapters.stream_api import RefusalKind, Refused
from stream_downloads.domain.download import iso_time
from stream_downloads.domain.request_budget import Asker

if TYPE_CHECKING:
    from stream_downloads.adapters.shared_state import Grant
    from stream_downloads.services.dependencies import Service

Result_co = TypeVar("Result_co", covariant=True)

CALL_SECONDS: Final = 8.0
_TRIES: Final = 3


class NotNow(Exception):
    """The shared allowance has no request left for this now; the text says when to try again."""


class Send(Protocol[Result_co]):
    """A call of the API that still lacks its limit."""

    def __call__(self, *, seconds: float) -> Result_co:
        """Send it; ``seconds`` is its limit in all."""


def ask(
    service: Service, send: Send[Result_co], call: str, seconds: float = CALL_SECONDS
) -> Result_co:
    """Send one request; once more if Cloudflare refused credentials that have changed since.

    Args:
        service: the parts of the service.
        send: the call.
        call: its name, for the metrics.
        seconds: the limit of one request.

    Raises:
        NotNow: the shared allowance is used up, or the gate is closed.
        CloudflareError: Cloudflare was not reached, or refused.
        SecretUnavailable: the credentials for Cloudflare cannot be used.
    """
    try:
        return _ask_once(service, send, call, seconds)
    except Refused as refusal:
        if refusal.kind is not RefusalKind.CREDENTIALS:
            raise
        if not service.credentials.refresh():
            record(Metric.CREDENTIALS_REFUSED)
            raise
    return _ask_once(service, send, call, seconds)


def _ask_once(service: Service, send: Send[Result_co], call: str, seconds: float) -> Result_co:
    service.credentials.headers()  # to read a secret may take longer than a grant holds
    _take(service)
    outcome = "not_reached"
    try:
        result = send(seconds=seconds)
        outcome = "ok"
    except Refused as refusal:
        outcome = refusal.kind
        if refusal.kind is RefusalKind.THROTTLED:
            service.budget.close(refusal.retry_after)
            record(Metric.GATE_CLOSED)
        raise
    finally:
        record(Metric.CLOUDFLARE_REQUESTS, call=call, outcome=outcome)
        service.budget.settle()
    return result


def _take(service: Service) -> None:
    """Take leave for one request, from all that is left: somebody waits for the answer."""
    for _ in range(_TRIES):  # another function may have been first
        grant = service.budget.take(1, Asker.OPERATOR)
        if grant.count and service.budget.is_current(grant):
            return
        if not grant.left:
            break
    raise NotNow(_why_not(grant))


def _why_not(grant: Grant) -> str:
    if grant.blocked_until:
        until = iso_time(grant.blocked_until)
        return f"Cloudflare's rate limit was reached: try again after {until}."
    return "The requests of these five minutes are used up: try again in a minute."
