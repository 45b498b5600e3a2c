"""Subscribes the webhook at Cloudflare, or leaves that to its owner, and stores its secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_downloads.domain.commands import Registration
from stream_downloads.domain.download import iso_time
from stream_downloads.services.gateway import CALL_SECONDS
from stream_downloads.services.signing_secret import (
    GUEST,
    OWNER,
    REGISTRATION,
    is_same_url,
    refresh,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_downloads.adapters.stream_api import WebhookSubscription
    from stream_downloads.services.dependencies import Service


class ForeignSubscription(Exception):
    """The account's one subscription belongs to another system, and was left as it is."""


class NoSubscription(Exception):
    """The account has no subscription whose requests its owner could pass on."""


def register(
    service: Service,
    webhook_url: str,
    store_secret: Callable[[str], bool],
    registration: Registration,
    *,
    period: float = 3600.0,
) -> dict[str, Any]:
    """Set up the webhook as the operator wants, or refresh the present setup.

    Safe to repeat: what an earlier run left half done (subscribed, but the answer lost or the
    secret not stored), or a secret that Cloudflare has changed since, is fixed.

    Args:
        service: the parts of the service.
        webhook_url: where Cloudflare has to send the webhooks.
        store_secret: stores the signing secret, and returns False if it is stored already.
        registration: how RegisterWebhook was invoked.
        period: ReconcileMinutes, in seconds.

    Raises:
        ForeignSubscription: another URL is subscribed, and is not to be replaced.
        NoSubscription: a guest's secret is wanted, and nothing is subscribed.
        NotNow: the shared allowance is used up, or the gate is closed.
        CloudflareError: Cloudflare was not reached, or refused.
        SecretUnavailable: the credentials for Cloudflare cannot be used.
    """
    if registration is Registration.REFRESH:
        return refresh(service, webhook_url, store_secret, period)
    # A secret that was corrected a minute ago has to work now.
    service.gateway.refresh_credentials()
    if registration is Registration.GUEST:
        return be_guest(service, webhook_url, store_secret)
    return subscribe(
        service, webhook_url, store_secret, force=registration is Registration.TAKE_OVER
    )


def subscribe(
    service: Service, webhook_url: str, store_secret: Callable[[str], bool], *, force: bool
) -> dict[str, Any]:
    """Subscribe our URL and store its signing secret, each unless that is done already."""
    # An empty answer could be a fault: ask twice before replacing another system's subscription.
    found = ask_for_subscription(service)
    if found and is_same_url(found, webhook_url):
        result, subscription = "kept", found
    elif found and not force:
        raise ForeignSubscription(
            f"Cloudflare sends this account's webhooks to {found.notification_url}, and an account"
            ' has only one subscription. Nothing was changed; {"force": true} takes it over,'
            ' {"subscribe": false} leaves it to its owner, who passes the requests on.'
        )
    else:
        result = "replaced" if found else "subscribed"
        put_webhook = service.gateway.stream.put_webhook
        subscription = service.gateway.ask(put_webhook, webhook_url, seconds=CALL_SECONDS)
    answer = stored(service, result, OWNER, subscription, store_secret)
    if found and result == "replaced":
        answer["replaced_url"] = found.notification_url
    return answer


def be_guest(
    service: Service, webhook_url: str, store_secret: Callable[[str], bool]
) -> dict[str, Any]:
    """Store the signing secret of the subscription, and leave the subscription alone.

    If Cloudflare sends to us, we are the owner and stay it.
    """
    found = ask_for_subscription(service)
    if found is None:
        raise NoSubscription(
            "Cloudflare has no webhook subscription for this account, so that there is no owner to"
            " pass requests on. Nothing was changed; {} subscribes this stack."
        )
    if is_same_url(found, webhook_url):
        return stored(service, "kept", OWNER, found, store_secret)
    return stored(service, "guest", GUEST, found, store_secret)


def stored(
    service: Service,
    result: str,
    position: str,
    subscription: WebhookSubscription,
    store_secret: Callable[[str], bool],
) -> dict[str, Any]:
    """Store the signing secret and remember the position; return the answer."""
    secret_stored = store_secret(subscription.secret)
    kept = service.control.read(REGISTRATION)
    if kept.value.get("position") != position:
        value = {"position": position, "since": iso_time(service.clock())}
        service.control.write(REGISTRATION, value, kept.version)
    return {
        "result": result,
        "notification_url": subscription.notification_url,
        "modified": subscription.modified,
        "secret_stored": secret_stored,
    }


def ask_for_subscription(service: Service) -> WebhookSubscription | None:
    """Return the account's subscription; None after two answers without one."""
    get_webhook = service.gateway.stream.get_webhook
    for _ in range(2):
        if found := service.gateway.ask(get_webhook, seconds=CALL_SECONDS):
            return found
    return None
