"""Keep the state that all functions share: control records, the request budget, leases."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from stream_downloads.adapters.observability import logger
from stream_downloads.domain.request_budget import (
    USE_WITHIN,
    Allowance,
    Asker,
    RateLimit,
    block_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_dynamodb import DynamoDBClient


_TAKE_TRIES: Final = 5
_CHANGE_TRIES: Final = 20


class Record(NamedTuple):
    """A control record as it was read.

    Attributes:
        value: what was last written, an empty object if nothing ever was.
        version: 0 if nothing was ever written; goes up by one with every write.
        now: DynamoDB's time of the read, in whole seconds since the epoch, UTC. The real time
            was up to a second later. All functions share this clock; their own may differ.
    """

    value: dict[str, Any]
    version: int
    now: float


class Control(Protocol):
    """Read and write named records; `ControlTable` does."""

    def read(self, name: str) -> Record:
        """Return the record of that name, read consistently."""

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:
        """Write the record if it still has that version; return False if it changed meanwhile."""


class ControlTable:
    """Read and write records of the control table in DynamoDB."""

    def __init__(
        self, client: DynamoDBClient, table_name: str, clock: Callable[[], float] = time.time
    ) -> None:
        """Use ``clock`` only if an answer carries no ``Date`` header."""
        self._client = client
        self._table_name = table_name
        self._clock = clock

    def read(self, name: str) -> Record:
        """Return the record of that name, read consistently."""
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
        """Write the record if it still has that version; return False if it changed meanwhile.

        If the SDK repeats a write because the first answer was lost, the result is False although
        the record was written. Then the budget counts too many permits, never too few.
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
    """The permission to send requests until ``use_by``.

    Attributes:
        count: how many requests may be sent; 0 if none.
        use_by: on the monotonic clock; a request that has not left by then must not leave.
        blocked_until: when the gate opens, epoch seconds; 0 if it is open.
        load: the part of the limit, 0 to 1, that work as urgent as this uses.
        contended: other invocations wrote first each time, so that the budget is not known.
    """

    count: int
    use_by: float = 0.0
    blocked_until: float = 0.0
    load: float = 0.0
    contended: bool = False


class Usage(NamedTuple):
    """The use of the request limit.

    Attributes:
        used: requests of the last five minutes.
        limit: the most in any rolling five minutes.
        blocked_until: when the gate opens after a 429, epoch seconds; None if it is open.
    """

    used: int
    limit: int
    blocked_until: float | None


class Budget:
    """Share the request budget of the whole stack through the control table."""

    NAME: Final = "budget"

    def __init__(
        self, control: Control, limit: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Take ``limit``, the most requests in any rolling five minutes."""
        self._control = control
        self._limit = limit
        self._monotonic = monotonic
        self._observed: RateLimit | None = None
        self._granted: Allowance | None = None
        self._closed_at: float | None = None
        self._closed_until = 0.0

    def take(self, wanted: int, asker: Asker, *, leave: float = 0.0) -> Grant:
        """Take up to ``wanted`` permits, without waiting; fewer or none may be available.

        Args:
            wanted: how many, at least 1.
            asker: who asks.
            leave: the part of the limit, 0 to 1, to leave to others beyond what ``asker`` leaves.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: DynamoDB could not be asked.
        """
        give_up_at = self._monotonic() + USE_WITHIN
        for _ in range(_TAKE_TRIES):
            started = self._monotonic()
            if started >= give_up_at:
                break
            allowance, version = self._read()
            allowance = self._keep_closed(allowance)
            reserved = allowance.reserved_from(asker) + math.ceil(leave * self._limit)
            count = min(wanted, allowance.available(reserved))
            if count == 0:
                blocked_until = allowance.blocked_until if allowance.is_blocked else 0.0
                return Grant(0, blocked_until=blocked_until)
            granted = allowance.grant(count, asker)
            if self._write(granted, version):
                self._granted = granted
                return Grant(count, use_by=started + USE_WITHIN, load=granted.load(asker))
        return Grant(0, contended=True)

    def is_current(self, grant: Grant) -> bool:
        """Return True if this grant may still be used: it is in time, and no 429 came since."""
        if self._closed_at is not None and grant.use_by <= self._closed_at + USE_WITHIN:
            return False
        return self._monotonic() <= grant.use_by

    def close(self, retry_after: float | None) -> None:
        """Close the gate for every function, after a 429.

        Args:
            retry_after: seconds, as Cloudflare said; None if it did not, or not in seconds.
        """
        self._closed_at = self._monotonic()
        self._closed_until = self._closed_at + block_seconds(retry_after)
        self._change(lambda allowance: allowance.block(retry_after))

    def observe(self, rate: RateLimit) -> None:
        """Remember the lowest number of requests left to the account; `settle` shares it."""
        # A thread may overwrite the number of another: the next answer has it again.
        observed = self._observed
        if observed is None or rate.remaining < observed.remaining:
            self._observed = rate

    def settle(self) -> None:
        """Lower the shared ceiling to what was observed, unless the budget is lower already."""
        rate, self._observed = self._observed, None
        granted = self._granted
        if granted is not None and rate is not None and granted.under(rate) is granted:
            return  # the budget has no more than that, as of the last permit
        if rate is not None:
            self._change(lambda allowance: allowance.under(rate))

    def usage(self) -> Usage:
        """Return what is used of the limit now."""
        allowance = self._keep_closed(self._read()[0])
        blocked_until = allowance.blocked_until if allowance.is_blocked else None
        return Usage(allowance.used, self._limit, blocked_until)

    def _change(self, change: Callable[[Allowance], Allowance]) -> None:
        """Apply a change that must not get lost, however many others write at the same time."""
        for _ in range(_CHANGE_TRIES):
            allowance, version = self._read()
            changed = change(allowance)
            if changed == allowance or self._write(changed, version):
                return
        logger.error("The request budget could not be changed: others were faster each time")

    def _read(self) -> tuple[Allowance, int]:
        record = self._control.read(self.NAME)
        return Allowance.parse(record.value, self._limit, record.now), record.version

    def _keep_closed(self, allowance: Allowance) -> Allowance:
        """Return the allowance, blocked even if this process could not write a 429 to the table."""
        closed_for = self._closed_until - self._monotonic()
        if closed_for <= 0 or allowance.is_blocked:
            return allowance
        return replace(allowance, blocked_until=allowance.now + closed_for)

    def _write(self, allowance: Allowance, version: int) -> bool:
        return self._control.write(self.NAME, allowance.as_value(), version)


# Its notes: when the last complete run ended, and when the schedule last started one.
POLLER_LEASE: Final = "poller-lease"


class Lease:
    """The right of one invocation at a time to do some work.

    Attributes:
        notes: the values that invocations keep in the lease, as last written.
    """

    def __init__(
        self, control: Control, name: str, owner: str, seconds: float, claim: str | None = None
    ) -> None:
        """Prepare a lease without taking it.

        Args:
            control: the store.
            name: the record's name, one for each kind of work.
            owner: a unique name of this invocation.
            seconds: how long the lease holds unless it is renewed.
            claim: the owner under which another function took the lease for this invocation.
        """
        self.notes: dict[str, float] = {}
        self._owners = (owner, claim)
        self._control = control
        self._name = name
        self._owner = owner
        self._seconds = seconds

    def hold(self, **notes: float) -> bool:
        """Take or renew the lease; return False if another invocation holds it.

        Args:
            notes: values to keep in the lease, also when others hold it later.
        """
        return self._write(self._seconds, notes)

    def release(self, *, completed: bool = False) -> None:
        """Release the lease, so that the next invocation need not wait until it expires.

        Args:
            completed: the work is complete; the time is kept as the note ``completed_at``.
        """
        self._write(0.0, {}, completed=completed)

    def _write(
        self, seconds: float, notes: Mapping[str, float], *, completed: bool = False
    ) -> bool:
        record = self._control.read(self._name)
        held = record.now < record.value.get("until", 0.0)
        if held and record.value.get("owner") not in self._owners:
            return False
        self.notes = record.value.get("notes", {}) | notes
        if completed:
            self.notes["completed_at"] = record.now
        value = {"owner": self._owner, "until": record.now + seconds, "notes": self.notes}
        return self._control.write(self._name, value, record.version)
