"""The shared request allowance, the 429 gate, and the lease.

Cloudflare answers everything with 429 for five minutes once a user has made 1200 requests in
five minutes (https://developers.cloudflare.com/fundamentals/api/reference/limits/). So every
request of every function first takes from one allowance, kept in the control table.

Why no rolling five minutes can hold more than the limit: a grant is entered under DynamoDB's
time of the read that it rests on, a whole second that was true or just past; it must be used
within ``USE_WITHIN`` of the start of that read, by a clock that only measures durations, and the
connection takes at most ``CONNECT_WITHIN`` more. So a request leaves between the second it is
entered under and ``SLACK`` later, whatever the functions' own clocks say. A grant is given only
if all grants of the last ``WINDOW`` + ``SLACK`` seconds, itself included, are within the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WINDOW: Final = 300
USE_WITHIN: Final = 2.0
CONNECT_WITHIN: Final = 2.0
# The fraction of a second that the Date header leaves out, and a second by which the clocks of
# DynamoDB's own machines may differ.
DATE_ERROR: Final = 2.0
SLACK: Final = math.ceil(USE_WITHIN + CONNECT_WITHIN + DATE_ERROR)
BLOCK_WITHOUT_RETRY_AFTER: Final = 300.0
BLOCK_AT_LEAST: Final = 1.0
BLOCK_AT_MOST: Final = 900.0
# Of what others leave of the account's allowance, the last tenth is not ours to take.
TAKEN_OF_WHAT_REMAINS: Final = 0.9
# Once a ceiling has run out nobody knows what is left: one request finds out, and until its
# answer is there, or this long, there is no other.
PROBE_SECONDS: Final = 10.0
# An answer may raise the ceiling for this long; an older one can only lower it.
NEWS_HOLDS: Final = 2.0


class RateLimit(NamedTuple):
    """What the ``Ratelimit`` header of an answer says: requests left, seconds until the reset."""

    remaining: int
    reset_seconds: float


class Asker(Enum):
    """Who asks for an allowance, and so what of it is left to others."""

    PERSON = auto()  # somebody waits for the answer: takes whatever there is
    WEBHOOK = auto()
    POLLER = auto()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What was granted lately, and what holds it back.

    Attributes:
        webhooks: requests granted to webhooks, by the second they are entered under.
        others: requests granted to everything else, likewise.
        blocked_until: no request before this time (the 429 gate).
        ceiling: how many more requests the rest of the account leaves us; None: more than enough.
        ceiling_until: until when that is known.
    """

    webhooks: Mapping[int, int] = field(default_factory=dict)
    others: Mapping[int, int] = field(default_factory=dict)
    blocked_until: float = 0.0
    ceiling: int | None = None
    ceiling_until: float = 0.0

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Allowance:
        """From the control record's value."""
        return cls(
            webhooks=_unpacked(value.get("webhooks", ())),
            others=_unpacked(value.get("others", ())),
            blocked_until=value.get("blocked_until", 0.0),
            ceiling=value.get("ceiling"),
            ceiling_until=value.get("ceiling_until", 0.0),
        )

    def as_value(self) -> dict[str, Any]:
        """For the control record."""
        return {
            "webhooks": _packed(self.webhooks),
            "others": _packed(self.others),
            "blocked_until": self.blocked_until,
            "ceiling": self.ceiling,
            "ceiling_until": self.ceiling_until,
        }

    def used(self) -> int:
        """Requests granted within the window, if what is older has been forgotten."""
        return sum(self.webhooks.values()) + sum(self.others.values())

    def at(self, now: float) -> Allowance:
        """The allowance at a time: what has left the window is forgotten."""
        oldest = self._second(now) - (WINDOW + SLACK)
        return replace(
            self,
            webhooks={second: n for second, n in self.webhooks.items() if second > oldest},
            others={second: n for second, n in self.others.items() if second > oldest},
        )

    def free(self, limit: int, now: float, *, kept: int = 0) -> int:
        """How many requests may be granted now, to those who must leave ``kept`` of the limit.

        Of what the rest of the account leaves us, they must leave the same part.
        """
        if now < self.blocked_until:
            return 0
        free = limit - self.at(now).used() - kept
        if self.ceiling is not None:
            ceiling = self.ceiling if now < self.ceiling_until else 1
            free = min(free, ceiling - ceiling * kept // limit)
        return max(0, free)

    def kept_from(self, asker: Asker, limit: int, now: float) -> int:
        """What this asker must leave to others."""
        match asker:
            case Asker.PERSON:
                return 0
            case Asker.WEBHOOK:
                return self._kept_from_webhooks(limit, now)
            case Asker.POLLER:
                return self._kept_for_webhooks(limit, now)

    def _kept_for_webhooks(self, limit: int, now: float) -> int:
        """What others must leave: a minute of webhooks at their present pace.

        So an unused share is not wasted: it shrinks to a fiftieth of the limit when no webhook
        comes, and grows to a quarter when many do, or to what is left of the webhooks' half.
        """
        used = sum(self.at(now).webhooks.values())
        pace = used * 60 / WINDOW
        kept = math.ceil(min(limit / 4, max(limit / 50, pace)))
        return max(0, min(kept, limit - limit // 2 - used))

    def _kept_from_webhooks(self, limit: int, now: float) -> int:
        """What webhooks must leave: what others have not used yet of half the limit.

        Else more webhooks than the limit allows would take all of it for creates, and nothing
        that was created would ever be looked at. The poller makes the creates that they leave.
        """
        return max(0, limit // 2 - sum(self.at(now).others.values()))

    def grant(self, count: int, now: float, asker: Asker) -> Allowance:
        """With that many requests entered under this second."""
        current = self.at(now)
        second = self._second(now)
        granted = current.webhooks if asker is Asker.WEBHOOK else current.others
        granted = {**granted, second: granted.get(second, 0) + count}
        if self.ceiling is not None:
            known = now < self.ceiling_until
            until = self.ceiling_until if known else now + PROBE_SECONDS
            left = max(0, self.ceiling - count) if known else 0
            current = replace(current, ceiling=left, ceiling_until=until)
        if asker is Asker.WEBHOOK:
            return replace(current, webhooks=granted)
        return replace(current, others=granted)

    def block(self, retry_after: float | None, now: float) -> Allowance:
        """With the gate closed, for what Cloudflare said within reason."""
        seconds = BLOCK_WITHOUT_RETRY_AFTER if retry_after is None else retry_after
        seconds = min(BLOCK_AT_MOST, max(BLOCK_AT_LEAST, seconds))
        until = now + seconds + DATE_ERROR
        return replace(self, blocked_until=max(self.blocked_until, until))

    def heard(self, rate: RateLimit, limit: int, now: float, *, is_new: bool) -> Allowance:
        """With the ceiling that Cloudflare's own count of the account asks for, if it does."""
        ceiling = math.floor(rate.remaining * TAKEN_OF_WHAT_REMAINS)
        if self.ceiling is not None and now < self.ceiling_until and not is_new:
            ceiling = min(ceiling, self.ceiling)
        if ceiling >= limit - self.at(now).used():
            return replace(self, ceiling=None, ceiling_until=0.0)
        seconds = min(rate.reset_seconds, float(WINDOW))
        return replace(self, ceiling=ceiling, ceiling_until=now + seconds + DATE_ERROR)

    def _second(self, now: float) -> int:
        # Time never goes back here, whichever of DynamoDB's machines answered.
        return max([math.floor(now), *self.webhooks, *self.others])


def _packed(granted: Mapping[int, int]) -> list[int]:
    """Seconds and counts in turn, each second as the distance from the one before.

    DynamoDB charges for each KiB that a write carries: in full, five minutes of seconds are nine.
    """
    packed, before = [], 0
    for second, count in sorted(granted.items()):
        packed += [second - before, count]
        before = second
    return packed


def _unpacked(packed: Sequence[int]) -> dict[int, int]:
    """What ``_packed`` packed."""
    return dict(zip(accumulate(packed[::2]), packed[1::2], strict=True))
