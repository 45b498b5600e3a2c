"""Keeps the stored signing secret equal to Cloudflare's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.observability import described, logger
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.stream_api import CloudflareError
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services.gateway import CALL_SECONDS, NotNow, SendAgain
from stream_downloads.services.record import WEBHOOK_TAKES_AT_MOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_downloads.adapters.shared_state import Control
    from stream_downloads.adapters.stream_api import WebhookSubscription
    from stream_downloads.services.dependencies import Service

# The record of the control table that remembers how webhooks come: {"position": "owner"} or
# "guest", "since". There is none until the first registration.
REGISTRATION: Final = "registration"
OWNER: Final = "owner"
GUEST: Final = "guest"

# The record of when a wrong signature last made a guest ask for the secret: {"asked_at"}.
QUESTION: Final = "signing-secret"
# A flood of forged requests then costs five requests in five minutes.
GUEST_ASKS_EVERY: Final = 60.0
GUEST_ASKS_FOR: Final = 2.0
# By then another process that asks at this moment has stored the answer.
ANOTHER_STORES_WITHIN: Final = 2.5
# The control table's time is in whole seconds.
ASKED_JUST_NOW: Final = ANOTHER_STORES_WITHIN + 1


def refresh(
    service: Service, webhook_url: str, store_secret: Callable[[str], bool], period: float
) -> dict[str, Any]:
    """Store the signing secret again if it has changed at Cloudflare; the schedule invokes this.

    Without an earlier registration this asks nothing. What fails is logged, and tried again by
    the next run of the schedule.
    """
    try:
        position = position_of(service.control)
        if position is None:
            return {"result": "not registered"}
        found = service.gateway.ask(service.gateway.stream.get_webhook, seconds=CALL_SECONDS)
        if found is None or (position == OWNER and not is_same_url(found, webhook_url)):
            details = {"position": position, "notification_url": found and found.notification_url}
            # A stack that reconciles this often needs no webhook: it may be gone on purpose.
            log = logger.info if period <= WEBHOOK_TAKES_AT_MOST else logger.warning
            log("The webhook subscription is not as it was registered", extra=details)
            return {"result": "changed"}
        answer = {"result": "refreshed", "secret_stored": store_secret(found.secret)}
    except (CloudflareError, NotNow, SecretUnavailable, ClientError, BotoCoreError) as error:
        logger.warning("The signing secret could not be refreshed", extra=described(error))
        return {"result": "failed"}
    if answer["secret_stored"]:
        logger.info("The signing secret had changed at Cloudflare, and was stored")
    return answer


def refresh_as_guest(service: Service, store_secret: Callable[[str], bool]) -> bool:
    """Store the owner's signing secret again, after a signature that is wrong under the stored one.

    The owner may just have changed it. All processes together ask Cloudflare once a minute at
    most. One that meets a question of another process waits until that has stored the answer.

    Args:
        service: the parts of the service.
        store_secret: stores the signing secret, and returns False if it is stored already.

    Returns:
        True if the stored secret has to be read again. Always False in a stack that is no guest.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: AWS could not be asked.
    """
    if position_of(service.control) != GUEST:
        return False
    question = service.control.read(QUESTION)
    seconds = question.now - question.value.get("asked_at", -math.inf)
    if ASKED_JUST_NOW < seconds < GUEST_ASKS_EVERY:
        return False
    value, is_first = {"asked_at": question.now}, seconds >= GUEST_ASKS_EVERY
    if is_first and service.control.write(QUESTION, value, question.version):
        return store_owners_secret(service, store_secret)
    service.sleep(ANOTHER_STORES_WITHIN)
    return True


def store_owners_secret(service: Service, store_secret: Callable[[str], bool]) -> bool:
    """Store the secret of the subscription; return False if it cannot be had from Cloudflare."""
    try:
        grant = service.gateway.permit(1, Asker.WEBHOOK)
        if not grant.count:
            raise NotNow("the request limit leaves no request")
        get_webhook = service.gateway.stream.get_webhook
        found = service.gateway.send(grant, get_webhook, seconds=GUEST_ASKS_FOR)
        if found and store_secret(found.secret):
            logger.info("The owner's signing secret had changed, and was stored")
    except (CloudflareError, NotNow, SendAgain, SecretUnavailable) as error:
        logger.warning(
            "The owner's signing secret could not be had from Cloudflare: RegisterWebhook asks"
            " within five minutes",
            extra=described(error),
        )
        return False
    finally:
        service.gateway.settle()
    return found is not None


def position_of(control: Control) -> str | None:
    """Return the registered position, `OWNER` or `GUEST`; None without a registration."""
    position: str | None = control.read(REGISTRATION).value.get("position")
    return position


def is_same_url(subscription: WebhookSubscription, webhook_url: str) -> bool:
    """Return True if Cloudflare sends to us; the last slash of a URL's root means nothing."""
    return subscription.notification_url.rstrip("/") == webhook_url.rstrip("/")
