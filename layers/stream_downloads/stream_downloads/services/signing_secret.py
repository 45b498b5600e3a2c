"""Keeps the stored signing secret the one that Cloudflare signs with, once it is registered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.observability import described, logger
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.stream_api import CloudflareError
from stream_downloads.services.gateway import CALL_SECONDS, NotNow
from stream_downloads.services.record import WEBHOOK_TAKES_AT_MOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_downloads.adapters.stream_api import WebhookSubscription
    from stream_downloads.services.dependencies import Service

# The record of the control table that remembers how webhooks come: {"position": "owner"} or
# "guest", "since". There is none until the first registration. Of a guest also "asked_at", when
# a webhook's signature last made it ask for the secret.
REGISTRATION: Final = "registration"
OWNER: Final = "owner"
GUEST: Final = "guest"

# A flood of forged requests then costs five requests in five minutes, of 600.
GUEST_ASKS_EVERY: Final = 60.0
# The webhook is answered after that, whatever Cloudflare does.
GUEST_ASKS_FOR: Final = 2.0
# By then another process that has just asked has stored the answer.
ANOTHER_STORES_WITHIN: Final = 2.5
FAILURES: Final = (CloudflareError, NotNow, SecretUnavailable, ClientError, BotoCoreError)


def refresh(
    service: Service, webhook_url: str, store_secret: Callable[[str], bool], period: float
) -> dict[str, Any]:
    """Store the signing secret again if it has changed at Cloudflare; the schedule invokes this.

    Without an earlier registration this asks nothing. What fails is logged, and tried again by
    the next run of the schedule.
    """
    try:
        position = service.control.read(REGISTRATION).value.get("position")
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
    except FAILURES as error:
        logger.warning("The signing secret could not be refreshed", extra=described(error))
        return {"result": "failed"}
    if answer["secret_stored"]:
        logger.info("The signing secret had changed at Cloudflare, and was stored")
    return answer


def refresh_as_guest(service: Service, store_secret: Callable[[str], bool]) -> bool:
    """Store the owner's signing secret again, because a signature was wrong under the stored one.

    The owner may just have changed it. All processes together ask Cloudflare at most once in
    ``GUEST_ASKS_EVERY`` seconds; one that is not first waits for the other's answer. What fails is
    logged, and tried again by the next run of the schedule.

    Args:
        service: the parts of the service.
        store_secret: stores the signing secret, and returns False if it is stored already.

    Returns:
        False if the stored secret is as it was, as always without a registration as guest.
    """
    try:
        kept = service.control.read(REGISTRATION)
        if kept.value.get("position") != GUEST:
            return False
        asked_before = kept.now - kept.value.get("asked_at", -math.inf)
        if ANOTHER_STORES_WITHIN < asked_before < GUEST_ASKS_EVERY:
            return False
        value = kept.value | {"asked_at": kept.now}
        is_first = asked_before >= GUEST_ASKS_EVERY
        if is_first and service.control.write(REGISTRATION, value, kept.version):
            get_webhook = service.gateway.stream.get_webhook
            found = service.gateway.ask(get_webhook, seconds=GUEST_ASKS_FOR)
            return found is not None and store_secret(found.secret)
    except FAILURES as error:
        logger.warning("The owner's signing secret could not be read", extra=described(error))
        return False
    service.sleep(ANOTHER_STORES_WITHIN)
    return True


def is_same_url(subscription: WebhookSubscription, webhook_url: str) -> bool:
    """Tell whether Cloudflare sends to us; the last slash of a URL's root means nothing."""
    return subscription.notification_url.rstrip("/") == webhook_url.rstrip("/")
