"""On demand: subscribe the webhook at Cloudflare, keep the signing secret."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from stream_downloads import aws, payload
from stream_downloads.ask import ask
from stream_downloads.credentials import store_signing_secret
from stream_downloads.observability import logger, observed
from stream_downloads.service import Service

if TYPE_CHECKING:
    from stream_downloads.cloudflare import WebhookSubscription

SERVICE = Service.from_environment()
SECRETS = aws.client("secretsmanager")
WEBHOOK_URL = os.environ["WEBHOOK_URL"]
WEBHOOK_SECRET_ARN = os.environ["WEBHOOK_SECRET_ARN"]


class ForeignSubscription(Exception):
    """The account's one subscription belongs to somebody else; it was left as it is."""


@observed
def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Subscribe, or make sure that it is done."""
    answer = register(SERVICE, force=payload.force(event))
    logger.info("Webhook registration", extra=answer)
    return answer


def register(service: Service, *, force: bool) -> dict[str, Any]:
    """Subscribe our URL unless it is, and store the signing secret unless it is.

    Safe to repeat: what an earlier run left half done (subscribed, but the answer lost or the
    secret not stored), or a secret that Cloudflare has changed since, is mended.

    Raises:
        ForeignSubscription: another URL is subscribed, and ``force`` is not set.
        NotNow: the shared allowance is used up, or the gate is closed.
        CloudflareError: Cloudflare was not reached, or refused.
        SecretUnavailable: the credentials for Cloudflare cannot be used.
    """
    # Nothing to be seen could be a fault: look twice before taking what may be somebody's.
    get = service.stream.get_webhook
    found = ask(service, get, "get_webhook") or ask(service, get, "get_webhook")
    if found and is_ours(found):
        result, subscription = "kept", found
    elif found and not force:
        raise ForeignSubscription(
            f"Cloudflare sends this account's webhooks to {found.notification_url}, and an account"
            ' has only one subscription. Nothing was changed; {"force": true} takes it over.'
        )
    else:
        result = "replaced" if found else "subscribed"
        subscribe = partial(service.stream.put_webhook, WEBHOOK_URL)
        subscription = ask(service, subscribe, "put_webhook")
    answer = {
        "result": result,
        "notification_url": subscription.notification_url,
        "modified": subscription.modified,
        "secret_stored": store_signing_secret(SECRETS, WEBHOOK_SECRET_ARN, subscription.secret),
    }
    if found and result == "replaced":
        answer["replaced_url"] = found.notification_url
    return answer


def is_ours(subscription: WebhookSubscription) -> bool:
    """Tell whether Cloudflare sends to us; the last slash of a URL's root means nothing."""
    return subscription.notification_url.rstrip("/") == WEBHOOK_URL.rstrip("/")
