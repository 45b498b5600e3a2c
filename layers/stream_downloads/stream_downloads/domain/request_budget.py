"""Compute the request budget that all functions share.

Cloudflare answers every request with 429 for five minutes once a user has made 1200 requests in
five minutes (https://developers.cloudflare.com/fundamentals/api/reference/limits/). So every
request of every function first takes a permit from one budget, kept in the control table.

No rolling five minutes hold more requests than the limit, even if the functions' clocks differ:

1. The date of a permit is DynamoDB's time when the budget was read. The permit must be used within
   ``USE_WITHIN`` seconds of the start of that read, on a monotonic clock. The connection takes at
   most ``CONNECT_WITHIN`` more. So a request leaves at most ``SLACK`` seconds after its date.
2. Permits are counted in slots of ``SLOT`` seconds. A slot counts until the request of its last
   second has left the window, however late that request left.
3. A permit is granted only if all slots that count, the permit included, are within the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOW: Final = 300
USE_WITHIN: Final = 2.0
CONNECT_WITHIN: Final = 2.0
# The Date header omits the fraction of a second, and the clocks of DynamoDB's own machines may
# differ by a second.
DATE_ERROR: Final = 2.0
SLACK: Final = math.ceil(USE_WITHIN + CONNECT_WITHIN + DATE_ERROR)
# Ten seconds keep the record below 1 KiB, which is one write unit. They cost 1.5 % of the limit:
# a permit counts 4.5 seconds longer than it must, on average.
SLOT: Final = 10
# The seconds from the start of a slot until its permits are available again.
COUNTS_FOR: Final = SLOT - 1 + WINDOW + SLACK
BLOCK_WITHOUT_RETRY_AFTER: Final = 300.0
BLOCK_AT_LEAST: Final = 1.0
BLOCK_AT_MOST: Final = 900.0
# A tenth of the requests that the account has left is kept for its other users.
USABLE_OF_REMAINING: Final = 0.9


class RateLimit(NamedTuple):
    """A parsed ``Ratelimit`` header: requests left to the account, seconds until the reset."""

    remaining: int
    reset_seconds: float


class Asker(Enum):
    """The kind of work that asks for permits: it decides how many are reserved for others."""

    OPERATOR = auto()  # a caller waits for the answer: nothing is reserved
    WEBHOOK = auto()
    POLLER = auto()  # for live downloads
    BACKGROUND = auto()  # for a backfill, and to recheck ready downloads


class Permits(NamedTuple):
    """The permits of one slot."""

    webhooks: int = 0
    live: int = 0
    background: int = 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """The budget at one time.

    Attributes:
        limit: the most requests in any rolling five minutes.
        now: DynamoDB's time, epoch seconds.
        granted: the permits that still count, by the start of their slot.
        blocked_until: no request before this time (the 429 gate).
        ceiling: how many requests the account has left for this stack, until ``ceiling_until``.
        ceiling_until: when the rate limit of the account resets; the ceiling ends then.
    """

    limit: int
    now: float
    granted: Mapping[int, Permits] = field(default_factory=dict)
    blocked_until: float = 0.0
    ceiling: int = 0
    ceiling_until: float = 0.0

    @classmethod
    def parse(cls, value: Mapping[str, Any], limit: int, now: float) -> Allowance:
        """Return the allowance that a control record holds, without the slots that have expired."""
        blocked_until = value.get("blocked_until", 0.0)
        if "others" in value:
            # An earlier version stored the permits by second. They are not converted: the gate
            # stays closed until the last of them has expired.
            newest = max(sum(value["webhooks"][::2]), sum(value["others"][::2]))
            return cls(limit, now, blocked_until=max(blocked_until, newest + WINDOW + SLACK))
        return cls(
            limit,
            now,
            granted={
                start: Permits(*permits)
                for start, *permits in value.get("granted", ())
                if now < start + COUNTS_FOR
            },
            blocked_until=blocked_until,
            ceiling=value.get("ceiling", 0),
            ceiling_until=value.get("ceiling_until", 0.0),
        )

    def as_value(self) -> dict[str, Any]:
        """Return the control record's value."""
        return {
            "granted": [[start, *permits] for start, permits in self.granted.items()],
            "blocked_until": self.blocked_until,
            "ceiling": self.ceiling,
            "ceiling_until": self.ceiling_until,
        }

    @property
    def used(self) -> int:
        """Return how many permits count against the limit."""
        return sum(sum(permits) for permits in self.granted.values())

    @property
    def is_blocked(self) -> bool:
        """Return true while the gate is closed after a 429."""
        return self.now < self.blocked_until

    def available(self, reserved: int) -> int:
        """Return how many permits may be granted now while ``reserved`` of the limit stay free.

        Under a ceiling, the same part of the ceiling stays free.
        """
        if self.is_blocked:
            return 0
        available = self.limit - self.used - reserved
        if self.now < self.ceiling_until:
            available = min(available, self.ceiling - self.ceiling * reserved // self.limit)
        return max(0, available)

    def load(self, asker: Asker) -> float:
        """Return the part of the limit, 0 to 1, that is used by work as urgent as the asker's.

        Only the asker ``BACKGROUND`` counts what background work uses.
        """
        background = sum(permits.background for permits in self.granted.values())
        return (self.used if asker is Asker.BACKGROUND else self.used - background) / self.limit

    def reserved_from(self, asker: Asker) -> int:
        """Return how many permits this asker must not take, because others need them.

        Webhooks leave half of the limit to others, less what others have used: if creates took the
        whole limit, no download would be polled. The poller makes the remaining creates.

        The poller leaves what webhooks need in a minute at their present rate: at least a fiftieth
        of the limit, at most the rest of their half.
        """
        webhooks = sum(permits.webhooks for permits in self.granted.values())
        match asker:
            case Asker.OPERATOR:
                return 0
            case Asker.WEBHOOK:
                return max(0, self.limit // 2 - (self.used - webhooks))
            case Asker.POLLER | Asker.BACKGROUND:
                a_minute = webhooks * 60 / WINDOW
                reserved = math.ceil(max(self.limit / 50, a_minute))
                return max(0, min(reserved, self.limit - self.limit // 2 - webhooks))

    def grant(self, count: int, asker: Asker) -> Allowance:
        """Return the allowance after ``count`` permits for this asker."""
        start = math.floor(self.now) // SLOT * SLOT
        slot = self.granted.get(start, Permits())
        match asker:
            case Asker.WEBHOOK:
                slot = slot._replace(webhooks=slot.webhooks + count)
            case Asker.BACKGROUND:
                slot = slot._replace(background=slot.background + count)
            case _:
                slot = slot._replace(live=slot.live + count)
        return replace(
            self,
            granted={**self.granted, start: slot},
            ceiling=max(0, self.ceiling - count),
        )

    def block(self, retry_after: float | None) -> Allowance:
        """Return the allowance with the gate closed for ``retry_after`` seconds, within bounds."""
        until = self.now + block_seconds(retry_after)
        return replace(self, blocked_until=max(self.blocked_until, until))

    def under(self, rate: RateLimit) -> Allowance:
        """Return the allowance with the ceiling that a ``Ratelimit`` header sets.

        Until the reset, a header can only lower the ceiling: answers arrive in any order.
        """
        ceiling = math.floor(rate.remaining * USABLE_OF_REMAINING)
        known = self.ceiling if self.now < self.ceiling_until else self.limit
        if ceiling >= min(known, self.limit - self.used):
            return self
        seconds = min(rate.reset_seconds, float(WINDOW))
        return replace(self, ceiling=ceiling, ceiling_until=self.now + seconds + DATE_ERROR)


def block_seconds(retry_after: float | None) -> float:
    """Return for how many seconds a 429 closes the gate: what Cloudflare said, within bounds."""
    seconds = BLOCK_WITHOUT_RETRY_AFTER if retry_after is None else retry_after
    return min(BLOCK_AT_MOST, max(BLOCK_AT_LEAST, seconds)) + DATE_ERROR
