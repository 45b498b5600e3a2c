"""The control table: small shared records, written on condition, dated by DynamoDB's own clock."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_dynamodb import DynamoDBClient


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
