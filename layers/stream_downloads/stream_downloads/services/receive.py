"""Answers a webhook: verifies it, records the intent, creates at once if the limit allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters import function_url
from stream_downloads.adapters.download_item import Unreadable
from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.function_url import BadTransport
from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.secrets import SecretUnavailable, SigningSecrets
from stream_downloads.domain import signature
from stream_downloads.domain.download import Download, Step
from stream_downloads.domain.request_budget import Asker
from stream_downloads.domain.signature import NoSecret, Unauthentic, UnauthenticReason
from stream_downloads.domain.video import Unusable, Video, parse_webhook
from stream_downloads.services import intents
from stream_downloads.services.dependencies import Service
from stream_downloads.services.steps import Verdict
from stream_downloads.services.video_events import pass_on

if TYPE_CHECKING:
    from stream_downloads.adapters.event_bus import EventBus
    from stream_downloads.adapters.function_url import Delivery

# The answer to Cloudflare comes within a few seconds, whatever Cloudflare's API does.
CREATE_SECONDS: Final = 2.5
ALL_CREATES_SECONDS: Final = 4.0
OUR_FAULT: Final = (
    SecretUnavailable,
    NoSecret,
    LostRace,
    Unreadable,
    ClientError,
    BotoCoreError,
)
STALE: Final = (UnauthenticReason.TOO_OLD, UnauthenticReason.TOO_NEW)


def receive(
    service: Service,
    secrets: SigningSecrets,
    event: dict[str, Any],
    bus: EventBus | None = None,
) -> dict[str, Any]:
    """Answer one webhook: 200 only once the intent is durable, and whatever happens after that.

    With a bus, 200 only once the bus has the webhook, too.
    """
    now = service.clock()
    try:
        delivery = function_url.unwrap(event)
        verify(delivery, secrets, now)
        video = parse_webhook(delivery.body)
        try:
            rows = record_intent(service, video, now)
        finally:  # other systems hear of the video even if our own tables fail
            passed_on = pass_on(bus, video, delivery.body)
    except BadTransport as refusal:
        return refuse(service, refusal.status, "bad_transport", refusal)
    except Unauthentic as refusal:
        if refusal.reason in STALE:
            record(Metric.STALE_SIGNATURES)
        return refuse(service, 403, "unauthentic", refusal)
    except Unusable as refusal:
        return answer(200, "unusable", refusal)
    except OUR_FAULT as error:
        return answer(500, "failed", error)
    logger.append_keys(video_uid=video.uid)
    outcome = "video_failed"
    if video.state == "ready":
        create_at_once(service, rows)
        outcome = "recorded" if rows else "already_known"
    return answer(200, outcome) if passed_on else answer(500, "not_passed_on")


def verify(delivery: Delivery, secrets: SigningSecrets, now: float) -> None:
    """Verify the signature; if it is wrong, once more with freshly read secrets."""
    try:
        signature.verify(delivery.body, delivery.signature, secrets.candidates(), now)
    except Unauthentic as refusal:
        if refusal.reason is not UnauthenticReason.MISMATCH:
            raise
        fresh = secrets.refresh()
        if fresh is None:
            raise
        signature.verify(delivery.body, delivery.signature, fresh, now)


def record_intent(service: Service, video: Video, now: float) -> list[Download]:
    """Write down what the webhook means; return the rows that this opened."""
    downloads, types = service.downloads, video.wanted(service.download_types)
    intents.warn_of_unknown_downloads(video)
    if video.state == "ready":
        return intents.video_is_ready(downloads, video, types, now)
    intents.video_has_failed(downloads, video, types, now)
    return []


def create_at_once(service: Service, rows: list[Download]) -> None:
    """Create the downloads that were requested; what cannot be done now, the poller will do."""
    ends_at = service.monotonic() + ALL_CREATES_SECONDS
    try:
        pace = service.pace()
        for row in rows:
            if row.step is not Step.CREATE or (row.due_at or 0.0) > service.clock():
                continue
            seconds = min(CREATE_SECONDS, ends_at - service.monotonic())
            if seconds <= 0:
                return
            grant = service.gateway.permit(1, Asker.WEBHOOK)
            if not grant.count:
                return
            outcome = service.steps().perform([row], grant, pace, seconds)
            service.gateway.settle()
            if outcome.verdict is Verdict.CREDENTIALS:
                return
    except Exception:  # noqa: BLE001 - the intent is durable: nothing here can undo the 200
        logger.exception("The create could not be made at once; the poller will make it")


def refuse(
    service: Service, status: int, outcome: str, refusal: BadTransport | Unauthentic
) -> dict[str, Any]:
    """Answer a request that anybody may have sent; log one a minute for each reason."""
    left_out = service.refusals.admit(str(refusal), service.monotonic())
    if left_out is None:
        return http_answer(status, outcome)
    return answer(status, outcome, refusal, not_logged_since=left_out)


def answer(
    status: int, outcome: str, reason: Exception | None = None, **details: Any
) -> dict[str, Any]:
    """Log the outcome with its reason; return the HTTP answer, which gives none."""
    details |= {"outcome": outcome, "status": status, **(described(reason) if reason else {})}
    (logger.error if status >= 500 else logger.info)("Webhook", extra=details)
    return http_answer(status, outcome)


def http_answer(status: int, outcome: str) -> dict[str, Any]:
    """Count the outcome and return the HTTP answer."""
    record(Metric.WEBHOOKS, outcome=outcome)
    return function_url.answer(status)
