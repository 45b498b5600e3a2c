"""Sign and schedule webhooks for the subscriber."""

from __future__ import annotations

import hashlib
import heapq
import hmac
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.simulator.videos import timestamp

Habit = Callable[[], Sequence[float]]


def punctual() -> Sequence[float]:
    """Return one delay: every webhook is sent once, as soon as it is due."""
    return (0.0,)


def unreliable(seed: int, *, lost: float, twice: float, late_seconds: float) -> Habit:
    """Return a habit that loses a share (0 to 1) and repeats a share, each up to some seconds late.

    Because the delays differ, webhooks also come out of order.
    """
    chance = random.Random(seed)  # noqa: S311

    def habit() -> Sequence[float]:
        draw = chance.random()
        times = 0 if draw < lost else 2 if draw < lost + twice else 1
        return [chance.uniform(0, late_seconds) for _ in range(times)]

    return habit


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook, ready to be sent."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    video_uid: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """The subscriber's URL and its secret."""

    url: str
    secret: str
    modified_at: float

    def described(self) -> dict[str, object]:
        """Do as the API says it."""
        return {
            "notificationUrl": self.url,
            "modified": timestamp(self.modified_at),
            "secret": self.secret,
        }


class Outbox:
    """The one subscription of an account, and the webhooks that wait for their time."""

    def __init__(self, seed: int = 0) -> None:
        self.subscription: Subscription | None = None
        self.sent: list[Webhook] = []
        self._chance = random.Random(f"webhook secrets {seed}")  # noqa: S311
        self._waiting: list[tuple[float, int, str]] = []
        self._order = itertools.count()

    def subscribe(self, url: str, now: float) -> Subscription:
        """Replace the subscription. Only a new URL gets a new secret."""
        if self.subscription is None or self.subscription.url != url:
            secret = f"{self._chance.getrandbits(128):032x}"
            self.subscription = Subscription(url, secret, now)
        return self.subscription

    def rotate_secret(self, now: float) -> Subscription:
        """Give the present subscription another secret."""
        assert self.subscription
        url, self.subscription = self.subscription.url, None
        return self.subscribe(url, now)

    def add(self, video_uid: str, due_at: float) -> None:
        """Have a video's webhook sent at that time."""
        heapq.heappush(self._waiting, (due_at, next(self._order), video_uid))

    @property
    def next_at(self) -> float | None:
        """Return the time when the next webhook is due."""
        return self._waiting[0][0] if self._waiting else None

    def due(
        self, now: float, describe: Callable[[str], Mapping[str, object] | None]
    ) -> list[Webhook]:
        """Take out all webhooks that are due, in order. Without a subscription they are lost."""
        webhooks = []
        while self._waiting and self._waiting[0][0] <= now:
            _, _, video_uid = heapq.heappop(self._waiting)
            event = describe(video_uid)
            if self.subscription and event:
                body = json.dumps(event, separators=(",", ":")).encode()
                headers = {
                    "Content-Type": "application/json",
                    "Webhook-Signature": signature(body, self.subscription.secret, int(now)),
                }
                webhooks.append(Webhook(self.subscription.url, headers, body, video_uid))
        self.sent.extend(webhooks)
        return webhooks


def signature(body: bytes, secret: str, at: int) -> str:
    """Return the header's value for a body sent at a Unix time.

    https://developers.cloudflare.com/stream/manage-video-library/using-webhooks/
    """
    source = str(at).encode() + b"." + body
    return f"time={at},sig1={hmac.new(secret.encode(), source, hashlib.sha256).hexdigest()}"
