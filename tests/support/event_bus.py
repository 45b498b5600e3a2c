"""EventBridge in memory: the one call of boto3's client that the service makes."""

from __future__ import annotations

import json
from typing import Any

from stream_downloads.adapters.event_bus import EventBus


class Events:
    """An event bus that takes every entry that it is not told to refuse.

    Attributes:
        taken: the entries that it took, in order.
        failure: the error that every call raises, if there is one.
        code: the error code of every entry that is refused.
    """

    def __init__(self, refuse: frozenset[int] = frozenset()) -> None:
        """Refuse the entries of these numbers once, counted from 0."""
        self.taken: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.code = "ThrottlingException"
        self.refuse = refuse

    def bus(self) -> EventBus:
        """Return the bus as a function has it."""
        client: Any = self
        return EventBus(client, "bus")

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the type and the detail of every event."""
        return [(entry["DetailType"], json.loads(entry["Detail"])) for entry in self.taken]

    def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """Take entries, as boto3's client does."""
        if self.failure:
            raise self.failure
        results = []
        for entry in Entries:
            if len(self.taken) in self.refuse:
                self.refuse = self.refuse - {len(self.taken)}
                results.append({"ErrorCode": self.code})
                continue
            self.taken.append(entry)
            results.append({"EventId": "id"})
        return {"Entries": results}
