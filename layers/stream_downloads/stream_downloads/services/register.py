"""Subscribes the webhook at Cloudflare and stores its signing secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_downloads.services.gateway import CALL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_downloads.adapters.stream_api import WebhookSubscription
    from stream_downloads.services.dependencies import Service


class ForeignSubscription(Exception):
    """The account's one subscription belongs to another system, and was left as it is."""


def register(
    service: Service, webhook_url: str, store_secret: Callable[[str], bool], *, force: bool
) -> dict[str, Any]:
    """Subscribe our URL unless it is, and store the signing secret unless it is.

    Safe to repeat: what an earlier run left half done (subscribed, but the answer lost or the
    secret not stored), or a secret that Cloudflare has changed since, is fixed.

    Raises:
        ForeignSubscription: another URL is subscribed, and ``force`` is not set.
        NotNow: the shared allowance is used up, or the gate is closed.
        CloudflareError: Cloudflare was not reached, or refused.
        SecretUnavailable: the credentials for Cloudflare cannot be used.
    """
    # A secret that was corrected a minute ago has to work now.
    service.gateway.refresh_credentials()
    # An empty answer could be a fault: ask twice before replacing another system's subscription.
    ask, stream = service.gateway.ask, service.gateway.stream
    found = ask(stream.get_webhook, seconds=CALL_SECONDS) or ask(
        stream.get_webhook, seconds=CALL_SECONDS
    )
    if found and is_same_url(found, webhook_url):
        result, subscription = "kept", found
    elif found and not force:
        raise ForeignSubscription(
            f"Cloudflare sends this account's webhooks to {found.notification_url}, and an account"
            ' has only one subscription. Nothing was changed; {"force": true} takes it over.'
        )
    else:
        result = "replaced" if found else "subscribed"
        subscription = ask(stream.put_webhook, webhook_url, seconds=CALL_SECONDS)
    answer = {
        "result": result,
        "notification_url": subscription.notification_url,
        "modified": subscription.modified,
        "secret_stored": store_secret(subscription.secret),
    }
    if found and result == "replaced":
        answer["replaced_url"] = found.notification_url
    return answer


def is_same_url(subscription: WebhookSubscription, webhook_url: str) -> bool:
    """Tell whether Cloudflare sends to us; the last slash of a URL's root means nothing."""
    return subscription.notification_url.rstrip("/") == webhook_url.rstrip("/")
