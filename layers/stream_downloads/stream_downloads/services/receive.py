"""Answers a webhook: verifies it, records the intent, creates at once if the limit allows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters import function_url
from stream_downloads.adapters.download_item import Unreadable
from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.function_url import BadTransport
from stream_downloads.adapters.observability import Metric, described, logger, record
from stream_downloads.adapters.secrets import SecretUnavailable, SigningSecrets
from stream_downloads.adapters.shared_state import Grant
from stream_downloads.domain import signature, transitions
from stream_downloads.domain.download import Download, Step
from stream_downloads.domain.pace import Pace
from stream_downloads.domain.request_budget import Asker
from stream_downloads.domain.signature import NoSecret, Unauthentic, UnauthenticReason
from stream_downloads.domain.video import Unusable, Video, parse_webhook
from stream_downloads.services import intents
from stream_downloads.services.dependencies import Service
from stream_downloads.services.signing_secret import refresh_as_guest
from stream_downloads.services.steps import Verdict
from stream_downloads.services.video_events import pass_on
from stream_downloads.services.waker import wake_poller

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stream_downloads.adapters.event_bus import EventBus
    from stream_downloads.adapters.function_url import Delivery

# The answer comes within a few seconds, whatever Cloudflare's API does: after these, counted from
# the request's arrival, nothing is asked of it any more.
ASK_SECONDS: Final = 4.0
CREATE_SECONDS: Final = 2.5
OUR_FAULT: Final = (
    SecretUnavailable,
    NoSecret,
    LostRace,
    Unreadable,
    ClientError,
    BotoCoreError,
)
NONE: Final = Grant(0)
STALE: Final = (UnauthenticReason.TOO_OLD, UnauthenticReason.TOO_NEW)


def receive(
    service: Service,
    secrets: SigningSecrets,
    event: dict[str, Any],
    bus: EventBus | None = None,
) -> dict[str, Any]:
    """Answer one webhook.

    The answer is 200 once the intent is durable, whatever happens after that. With a bus, it is
    200 once the bus has taken the webhook, too.
    """
    now, ask_until = service.clock(), service.monotonic() + ASK_SECONDS
    try:
        delivery = function_url.unwrap(event)
        verify(service, delivery, secrets, now)
        video = parse_webhook(delivery.body)
        grant = permit(service, video)
        try:
            rows = record_intent(service, video, grant, now)
        finally:  # other systems get the event even if our own tables fail
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
        if grant.count:
            due_at = create_at_once(service, rows, grant, ask_until)
            wake_poller(service.waker, due_at - service.clock())
        outcome = "recorded" if rows else "already_known"
    return answer(200, outcome) if passed_on else answer(500, "not_passed_on")


def verify(service: Service, delivery: Delivery, secrets: SigningSecrets, now: float) -> None:
    """Verify the signature under each of the signing secrets until it is right.

    Raises:
        Unauthentic: it is right under none.
        SecretUnavailable: no secret can be read.
        NoSecret: there is none that could verify.
    """
    for candidates in signing_secrets(service, secrets):
        try:
            signature.verify(delivery.body, delivery.signature, candidates, now)
        except Unauthentic as refusal:
            if refusal.reason is not UnauthenticReason.MISMATCH:
                raise
        else:
            return
    raise Unauthentic(UnauthenticReason.MISMATCH)


def signing_secrets(service: Service, secrets: SigningSecrets) -> Iterator[tuple[bytes, ...]]:
    """Yield the secrets in memory, then freshly read ones, then those that the owner has now."""
    yield secrets.candidates()
    fresh = secrets.refresh()
    if fresh is None:
        return
    yield fresh
    if refresh_as_guest(service, secrets.store):
        yield secrets.reread()


def permit(service: Service, video: Video) -> Grant:
    """Reserve a request for each create, before the row is written: it is then written as sent."""
    types = video.wanted(service.download_types)
    if video.state != "ready" or not types:
        return NONE
    try:
        return service.gateway.permit(len(types), Asker.WEBHOOK)
    except Exception as error:  # noqa: BLE001 - the intent is recorded all the same
        logger.warning(
            "The create cannot be made at once; the poller will make it", extra=described(error)
        )
        return NONE


def record_intent(service: Service, video: Video, grant: Grant, now: float) -> list[Download]:
    """Write the rows of a webhook; return those that it opened."""
    downloads, types = service.downloads, video.wanted(service.download_types)
    intents.warn_of_unknown_downloads(video)
    if video.state == "ready":
        return intents.video_is_ready(downloads, video, types, now, permits=grant.count)
    intents.video_has_failed(downloads, video, types, now)
    return []


def create_at_once(
    service: Service, rows: Sequence[Download], grant: Grant, ask_until: float
) -> float:
    """Create the downloads that were requested; the poller creates those that are left.

    Args:
        service: the parts of the service.
        rows: the downloads.
        grant: the permits for them.
        ask_until: the end of the last request to Cloudflare, on the monotonic clock.

    Returns:
        When the first of them has to be polled, infinity if none was created.
    """
    steps, due_at, verdict = service.steps(), math.inf, Verdict.ANSWERED
    try:
        pace = recent_pace(service)
        for row in rows[: grant.count]:
            seconds = min(CREATE_SECONDS, ask_until - service.monotonic())
            is_sent = row.version == 1 and row.step is Step.LIST  # added as such, not changed
            if seconds <= 0 or verdict is Verdict.CREDENTIALS:
                if is_sent:
                    service.downloads.save(transitions.create_not_sent(row, service.clock()))
                continue
            if is_sent:
                outcome = steps.send_create(row, grant, pace, seconds)
            elif row.step is Step.CREATE and (row.due_at or 0.0) <= service.clock():
                outcome = steps.perform([row], grant, pace, seconds)
            else:
                continue
            verdict = outcome.verdict
            due_at = min([due_at, *(after.due_at or math.inf for _, after in outcome.changes)])
        service.gateway.settle()
    except Exception:  # noqa: BLE001 - the intent is durable: nothing here can undo the 200
        logger.exception("The create could not be made at once; the poller will make it")
    return due_at


def recent_pace(service: Service) -> Pace:
    """Return how long recent downloads took; none are known if the table cannot be read."""
    try:
        return service.pace.read()
    except (ClientError, BotoCoreError) as error:
        logger.warning("The pace of recent downloads could not be read", extra=described(error))
        return Pace.of({})


def refuse(
    service: Service, status: int, outcome: str, refusal: BadTransport | Unauthentic
) -> dict[str, Any]:
    """Answer a request that is not authentic; log one a minute for each reason."""
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
