"""The control table: small shared records, written on condition, dated by DynamoDB's own clock."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from stream_downloads.domain.request_budget import (
    NEWS_HOLDS,
    USE_WITHIN,
    Allowance,
    Asker,
    RateLimit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_dynamodb import DynamoDBClient


# A closed gate must be written down, however many others write at the same time.
_TRIES: Final = 20


class Record(NamedTuple):
    """A control record as it was read.

    Attributes:
        value: what was last written, an empty object if nothing ever was.
        version: 0 if nothing was ever written; goes up by one with every write.
        now: DynamoDB's time of the read, in whole seconds since the epoch, UTC. The real time
            was up to a second later. Functions whose own clocks differ agree on this one.
    """

    value: dict[str, Any]
    version: int
    now: float


class Control(Protocol):
    """What the budget, the lease and the cursor need of a store."""

    def read(self, name: str) -> Record:
        """The record of that name, read consistently."""

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:
        """Write the record if it still has that version; False if somebody else was first."""


class ControlTable:
    """The control table in DynamoDB."""

    def __init__(
        self, client: DynamoDBClient, table_name: str, clock: Callable[[], float] = time.time
    ) -> None:
        """``clock`` is used only where an answer carries no ``Date`` header."""
        self._client = client
        self._table_name = table_name
        self._clock = clock

    def read(self, name: str) -> Record:
        """The record of that name, read consistently."""
        answer = self._client.get_item(
            TableName=self._table_name, Key={"name": {"S": name}}, ConsistentRead=True
        )
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(date).timestamp() if date else self._clock()
        item = answer.get("Item")
        if item is None:
            return Record({}, 0, now)
        return Record(json.loads(item["value"]["S"]), int(item["version"]["N"]), now)

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:
        """Write the record if it still has that version; False if somebody else was first.

        A write that the SDK repeated, because the answer to the first was lost, counts as lost
        too: whoever asks reads again, and takes less than it could, never more.
        """
        item = {
            "name": {"S": name},
            "value": {"S": json.dumps(value, separators=(",", ":"))},
            "version": {"N": str(version + 1)},
        }
        try:
            self._client.put_item(
                TableName=self._table_name,
                Item=item,
                ConditionExpression="attribute_not_exists(#name) OR #version = :version",
                ExpressionAttributeNames={"#name": "name", "#version": "version"},
                ExpressionAttributeValues={":version": {"N": str(version)}},
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to send that many requests, soon.

    Attributes:
        count: how many; 0 if there is no allowance, the gate is closed, or a race was lost.
        use_by: on the monotonic clock; a request that has not left by then must not leave.
        left: how many more could have been granted after this one.
        blocked_until: until when the gate is closed, epoch seconds; 0 if it is open.
    """

    count: int
    use_by: float = 0.0
    left: int = 0
    blocked_until: float = 0.0


class Budget:
    """The allowance of the whole stack, shared through the control table."""

    NAME: Final = "budget"

    def __init__(
        self, control: Control, limit: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``limit``: the most requests in any rolling five minutes."""
        self._control = control
        self._limit = limit
        self._monotonic = monotonic
        self._heard: tuple[RateLimit, float] | None = None
        self._closed_at: float | None = None

    def take(self, wanted: int, asker: Asker, *, leave: float = 0.0) -> Grant:
        """Ask for leave to send up to ``wanted`` requests; nothing waits, and less may come.

        Args:
            wanted: how many, at least 1.
            asker: who asks.
            leave: the part of the limit, 0 to 1, that this kind of work leaves to others beside.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: DynamoDB could not be asked.
        """
        started = self._monotonic()
        record = self._control.read(self.NAME)
        allowance = Allowance.parse(record.value)
        kept = allowance.kept_from(asker, self._limit, record.now) + math.ceil(leave * self._limit)
        free = allowance.free(self._limit, record.now, kept=kept)
        count = min(wanted, free)
        blocked_until = allowance.blocked_until if record.now < allowance.blocked_until else 0.0
        if count == 0:
            return Grant(0, left=free, blocked_until=blocked_until)
        granted = allowance.grant(count, record.now, asker)
        if not self._control.write(self.NAME, granted.as_value(), record.version):
            return Grant(0, left=free)
        return Grant(count, use_by=started + USE_WITHIN, left=free - count)

    def is_current(self, grant: Grant) -> bool:
        """Whether a request under this grant may still leave: in time, and no 429 since."""
        if self._closed_at is not None and grant.use_by <= self._closed_at + USE_WITHIN:
            return False
        return self._monotonic() <= grant.use_by

    def close(self, retry_after: float | None) -> None:
        """Cloudflare answered 429: close the gate for every function.

        Args:
            retry_after: seconds, as Cloudflare said; None if it did not, or not in seconds.
        """
        self._closed_at = self._monotonic()
        self._change(lambda allowance, now: allowance.block(retry_after, now))

    def observe(self, rate: RateLimit) -> None:
        """Remember the least that Cloudflare said remains; ``settle`` writes it down."""
        # Several threads may come here at once. One that overwrites another's figure loses a
        # reading, not the guarantee: the next answer carries it again.
        if self._heard is None or rate.remaining < self._heard[0].remaining:
            self._heard = rate, self._monotonic()

    def settle(self) -> None:
        """Set the shared ceiling by what was observed, if that asks for one; mostly it does not."""
        heard, self._heard = self._heard, None
        if heard is None:
            return
        rate, at = heard
        is_new = self._monotonic() - at <= NEWS_HOLDS
        self._change(lambda allowance, now: allowance.heard(rate, self._limit, now, is_new=is_new))

    def state(self) -> dict[str, Any]:
        """For a person: the limit, what of it is used, and until when the gate is closed."""
        record = self._control.read(self.NAME)
        allowance = Allowance.parse(record.value).at(record.now)
        blocked = record.now < allowance.blocked_until
        return {
            "limit": self._limit,
            "used": allowance.used(),
            "blocked_until": allowance.blocked_until if blocked else None,
        }

    def _change(self, change: Callable[[Allowance, float], Allowance]) -> None:
        for _ in range(_TRIES):
            record = self._control.read(self.NAME)
            allowance = Allowance.parse(record.value)
            changed = change(allowance, record.now)
            if changed == allowance:
                return
            if self._control.write(self.NAME, changed.as_value(), record.version):
                return


class Lease:
    """Leave to be the one who does something, for a while."""

    def __init__(self, control: Control, name: str, owner: str, seconds: float) -> None:
        """``owner`` names the one who asks; ``seconds`` is how long the lease holds unrenewed."""
        self._control = control
        self._name = name
        self._owner = owner
        self._seconds = seconds

    def hold(self) -> bool:
        """Take the lease or renew it; False if another holds it."""
        return self._write(self._seconds)

    def release(self) -> None:
        """Give it back, so that the next one need not wait for its end."""
        self._write(0.0)

    def _write(self, seconds: float) -> bool:
        record = self._control.read(self._name)
        held = record.now < record.value.get("until", 0.0)
        if held and record.value.get("owner") != self._owner:
            return False
        value = {"owner": self._owner, "until": record.now + seconds}
        return self._control.write(self._name, value, record.version)
