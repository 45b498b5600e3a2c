"""Publishes the end of each download to the event bus, from the stream of the table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from stream_downloads.adapters.event_bus import ENTRIES_AT_ONCE, Event
from stream_downloads.adapters.observability import logger
from stream_downloads.domain.download import Status

if TYPE_CHECKING:
    from stream_downloads.adapters.event_bus import EventBus

DETAIL_TYPES: Final = {
    Status.READY: "Download Ready",
    Status.ERROR: "Download Failed",
    Status.DELETED: "Download Deleted",
}
# A change of one of these attributes is announced.
ANNOUNCED: Final = ("status", "url")


def announce(bus: EventBus, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put an event on the bus for each download that ended, or has another URL.

    Returns:
        The first record whose event the bus did not take, if there is one. Lambda retries from
        there: the events of a download stay in order, and some may come twice.

    Raises:
        botocore.exceptions.ClientError, BotoCoreError: the bus was not reached; Lambda retries the
            whole batch.
    """
    ends = [(record, event) for record in records if (event := event_of(record))]
    for first in range(0, len(ends), ENTRIES_AT_ONCE):
        some = ends[first : first + ENTRIES_AT_ONCE]
        codes = bus.put([event for _, event in some])
        for (record, _), code in zip(some, codes, strict=True):
            if code is not None:
                uid = record["dynamodb"]["Keys"]["video_uid"]["S"]
                details = {"video_uid": uid, "code": code}
                logger.error("The event bus did not take an event", extra=details)
                sequence_number = record["dynamodb"]["SequenceNumber"]
                return {"batchItemFailures": [{"itemIdentifier": sequence_number}]}
    return {"batchItemFailures": []}


def event_of(record: Mapping[str, Any]) -> Event | None:
    """Return the event of a change: a download has ended, or a ready one has another URL.

    Returns:
        None for any other change.
    """
    after = record["dynamodb"].get("NewImage", {})
    before = record["dynamodb"].get("OldImage", {})
    detail_type = DETAIL_TYPES.get(after.get("status", {}).get("S"))
    if detail_type is None or all(before.get(name) == after.get(name) for name in ANNOUNCED):
        return None
    return Event(detail_type, json.dumps(detail_of(after)))


def detail_of(item: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the public attributes of an item, as its consumers know them."""
    return {name: value_of(typed) for name, typed in item.items() if not name.startswith("_")}


def value_of(typed: Mapping[str, Any]) -> Any:
    """Return a value out of DynamoDB's ``{"type": value}``: a text, a number or a boolean."""
    ((kind, value),) = typed.items()
    if kind != "N":
        return value
    number = float(value)
    return int(number) if number.is_integer() else number
