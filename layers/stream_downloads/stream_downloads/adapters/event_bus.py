"""Puts events about videos and downloads on an EventBridge bus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

SOURCE: Final = "stream-downloads"
# The most entries of one call
# (https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html).
ENTRIES_AT_ONCE: Final = 10
# An entry has to be smaller than this
# (https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html#eb-putevent-size).
ENTRY_BYTES: Final = 256 * 1024
# EventBridge's error code for a detail that is not valid JSON: a retry does not help.
MALFORMED: Final = "MalformedDetail"


class Event(NamedTuple):
    """An event: its type, and its detail as the text of a JSON object."""

    detail_type: str
    detail: str

    @property
    def size(self) -> int:
        """Return the bytes that count for EventBridge's limit.

        Raises:
            UnicodeEncodeError: the detail has half of a surrogate pair.
        """
        return sum(len(text.encode()) for text in (SOURCE, self.detail_type, self.detail))


class EventBus:
    """One bus of EventBridge."""

    def __init__(self, client: EventBridgeClient, name: str) -> None:
        self._client = client
        self._name = name

    def put(self, events: Sequence[Event]) -> list[str | None]:
        """Put up to ten events on the bus.

        Returns:
            For each event None, or the error code if the bus did not take it.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: the bus was not reached, or refused
                all of them.
        """
        answer = self._client.put_events(
            Entries=[
                {
                    "Source": SOURCE,
                    "DetailType": event.detail_type,
                    "Detail": event.detail,
                    "EventBusName": self._name,
                }
                for event in events
            ]
        )
        return [result.get("ErrorCode") for result in answer["Entries"]]
