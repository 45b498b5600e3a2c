"""Every read and write of the downloads table, and the translation between row and item."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from stream_downloads.adapters.observability import logger
from stream_downloads.domain.download import Download, DownloadType, Lane, Status, Step, iso_time

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DUE_INDEX: Final = "due-index"
STATUS_INDEX: Final = "status-index"

# Instants that consumers read, as text; the service's own are numbers, in seconds.
_TIMES: Final = ("requested_at", "updated_at", "ready_at")
_ENUMS: Final[Mapping[str, type[DownloadType | Status | Lane | Step]]] = {
    "download_type": DownloadType,
    "status": Status,
    "lane": Lane,
    "step": Step,
}
# What only this service reads has a leading underscore in the item.
_OWN: Final = frozenset(
    {
        "lane",
        "step",
        "due_at",
        "version",
        "attempts",
        "recreations",
        "created_at",
        "sent_at",
        "looked_at",
        "refused_since",
        "missing_since",
        "reopens",
    }
)
_NAMES: Final = tuple(field.name for field in fields(Download))
_FLAGS: Final = frozenset({"requires_signed_url", "reopens"})
_INTEGERS: Final = frozenset({"version", "attempts", "recreations"})
_NUMBERS: Final = _INTEGERS | {
    "percent_complete",
    "duration_seconds",
    "due_at",
    "created_at",
    "sent_at",
    "looked_at",
    "refused_since",
    "missing_since",
}
# Longer text than this is cut: an item has its limit, and a title does not need it.
_TEXT_AT_MOST: Final = 1024
# Not in the item while they are as they begin.
_BEGINS_AS: Final[Mapping[str, Any]] = {"attempts": 0, "recreations": 0, "reopens": False}


class LostRace(Exception):
    """The row changed since it was read: nothing was written."""


class Unreadable(ValueError):
    """An item of the table is not one that this service wrote."""


class Downloads(Protocol):
    """What the service needs of a table of downloads."""

    def add(self, row: Download) -> Download | None:
        """Write a row that is not there yet; the row that is there already, if one is."""

    def save(self, row: Download) -> Download:
        """Write a row over the version that it was read with, and give it as written."""

    def get(self, video_uid: str, download_type: DownloadType) -> Download | None:
        """One row, read consistently."""

    def of_video(self, video_uid: str) -> list[Download]:
        """All rows of a video, read consistently."""

    def due(self, queue: str, until: float, limit: int) -> list[Download]:
        """The rows of a queue that are due by then, the oldest first."""

    def with_status(self, status: Status) -> Iterator[tuple[str, DownloadType]]:
        """The keys of all rows with that status, those that have had it longest first."""

    def count(self, status: Status) -> Iterator[int]:
        """Yield how many rows have that status, in parts that add up."""

    def settled(self, keys: Sequence[tuple[str, DownloadType]]) -> set[tuple[str, DownloadType]]:
        """Those of at most 100 keys that have a row which a ready video would leave as it is."""


class DownloadsTable:
    """The downloads table in DynamoDB."""

    def __init__(self, client: DynamoDBClient, table_name: str) -> None:
        """The client is a low-level one, with its own limits on time and retries."""
        self._client = client
        self._table_name = table_name

    def add(self, row: Download) -> Download | None:
        """Write a row that is not there yet.

        Returns:
            None if it was written, or the row that is there already, which stays as it is.
        """
        item = to_item(replace(row, version=1))
        there = self._put(item, "attribute_not_exists(#video_uid)", {"#video_uid": "video_uid"}, {})
        return None if there is None else from_item(there)

    def save(self, row: Download) -> Download:
        """Write a row over the version that it was read with.

        Raises:
            LostRace: somebody else wrote it first.
        """
        saved = replace(row, version=row.version + 1)
        there = self._put(
            to_item(saved),
            "#version = :version",
            {"#version": "_version"},
            {":version": {"N": str(row.version)}},
        )
        if there is not None:
            raise LostRace(f"{row.video_uid}/{row.download_type} changed since it was read")
        return saved

    def get(self, video_uid: str, download_type: DownloadType) -> Download | None:
        """One row, read consistently."""
        answer = self._client.get_item(
            TableName=self._table_name,
            Key={"video_uid": {"S": video_uid}, "download_type": {"S": download_type}},
            ConsistentRead=True,
        )
        return from_item(answer["Item"]) if "Item" in answer else None

    def of_video(self, video_uid: str) -> list[Download]:
        """All rows of a video, read consistently."""
        answer = self._client.query(
            TableName=self._table_name,
            ConsistentRead=True,
            KeyConditionExpression="#video_uid = :video_uid",
            ExpressionAttributeNames={"#video_uid": "video_uid"},
            ExpressionAttributeValues={":video_uid": {"S": video_uid}},
        )
        return list(_readable(answer["Items"]))

    def due(self, queue: str, until: float, limit: int) -> list[Download]:
        """The rows of a queue that are due by then, the oldest first, at most ``limit``.

        The index follows the table within a moment: a row can be older than the table's. The
        condition of ``save`` finds out.
        """
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table_name,
            IndexName=DUE_INDEX,
            KeyConditionExpression="#queue = :queue AND #due_at <= :until",
            ExpressionAttributeNames={"#queue": "_queue", "#due_at": "_due_at"},
            ExpressionAttributeValues={":queue": {"S": queue}, ":until": {"N": _number(until)}},
            PaginationConfig={"PageSize": limit},
        )
        rows: list[Download] = []
        for page in pages:  # one, unless rows cannot be read
            rows.extend(_readable(page["Items"]))
            if len(rows) >= limit:
                break
        return rows[:limit]

    def with_status(self, status: Status) -> Iterator[tuple[str, DownloadType]]:
        """The keys of all rows with that status, those that have had it longest first."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table_name,
            IndexName=STATUS_INDEX,
            KeyConditionExpression="#status = :status",
            ProjectionExpression="#video_uid, #download_type",
            ExpressionAttributeNames={
                "#status": "status",
                "#video_uid": "video_uid",
                "#download_type": "download_type",
            },
            ExpressionAttributeValues={":status": {"S": status}},
        )
        for page in pages:
            for item in page["Items"]:
                if item["download_type"]["S"] in tuple(DownloadType):  # else it cannot be read
                    yield item["video_uid"]["S"], DownloadType(item["download_type"]["S"])

    def count(self, status: Status) -> Iterator[int]:
        """Yield how many rows have that status, page by page of the index.

        DynamoDB reads all of them to count them: a million rows take half a minute.
        """
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table_name,
            IndexName=STATUS_INDEX,
            Select="COUNT",
            KeyConditionExpression="#status = :status",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={":status": {"S": status}},
        )
        for page in pages:
            yield page["Count"]

    def settled(self, keys: Sequence[tuple[str, DownloadType]]) -> set[tuple[str, DownloadType]]:
        """Those of at most 100 keys that have a row which a ready video would leave as it is.

        What DynamoDB does not get around to counts as not settled: it is then found out, at the
        price of a write, by the condition of ``add``.
        """
        answer = self._client.batch_get_item(
            RequestItems={
                self._table_name: {
                    "Keys": [
                        {"video_uid": {"S": uid}, "download_type": {"S": kind}}
                        for uid, kind in keys
                    ],
                    "ProjectionExpression": "#video_uid, #download_type, #reopens",
                    "ExpressionAttributeNames": {
                        "#video_uid": "video_uid",
                        "#download_type": "download_type",
                        "#reopens": "_reopens",
                    },
                }
            }
        )
        return {
            (item["video_uid"]["S"], DownloadType(item["download_type"]["S"]))
            for item in answer["Responses"].get(self._table_name, [])
            if not item.get("_reopens", {}).get("BOOL", False)
        }

    def _put(
        self,
        item: dict[str, Any],
        condition: str,
        names: dict[str, str],
        values: dict[str, Any],
    ) -> Mapping[str, Any] | None:
        """Put the item on condition; the item that stood in the way, if one did."""
        # A mark of its own: another's write of the same row in the same instant is not ours.
        item["_write"] = {"S": os.urandom(8).hex()}
        more: dict[str, Any] = {"ExpressionAttributeValues": values} if values else {}
        try:
            self._client.put_item(
                TableName=self._table_name,
                Item=item,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **more,
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            there = cast("Mapping[str, Any]", error.response.get("Item", {}))
            # The SDK repeats a write whose answer was lost, and meets its own success.
            return None if there == item else there
        return None


def to_item(row: Download) -> dict[str, Any]:
    """The row as a DynamoDB item; what it does not have is not in the item."""
    item = {}
    for name in _NAMES:
        value = getattr(row, name)
        if value is not None and value != _BEGINS_AS.get(name):
            item[_attribute(name)] = _encoded(name, value)
    if row.queue is not None:
        item["_queue"] = {"S": row.queue}
    return item


def from_item(item: Mapping[str, Any]) -> Download:
    """The row of a DynamoDB item; attributes that it does not know are left out.

    Raises:
        Unreadable: the item is not one that this service wrote.
    """
    try:
        return Download(
            **{
                name: _decoded(name, item[_attribute(name)])
                for name in _NAMES
                if _attribute(name) in item
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"not a download: {error!r}") from error


def consumers_view(row: Download) -> dict[str, Any]:
    """The row as the table's consumers see it: without what is the service's own."""
    values = {name: getattr(row, name) for name in _NAMES if name not in _OWN}
    return {
        name: iso_time(value) if name in _TIMES else value
        for name, value in values.items()
        if value is not None
    }


def _readable(items: list[dict[str, Any]]) -> Iterator[Download]:
    # One bad row blocks no other.
    for item in items:
        try:
            yield from_item(item)
        except Unreadable as error:
            uid = item.get("video_uid", {}).get("S")
            logger.error("A row cannot be read", extra={"video_uid": uid, "reason": str(error)})


def _attribute(name: str) -> str:
    return f"_{name}" if name in _OWN else name


def _encoded(name: str, value: Any) -> dict[str, Any]:
    if name in _TIMES:
        return {"S": iso_time(value)}
    if name in _FLAGS:
        return {"BOOL": value}
    if name in _NUMBERS:
        return {"N": _number(value)}
    # Half a surrogate, which JSON can hold and DynamoDB cannot, becomes a question mark.
    return {"S": value[:_TEXT_AT_MOST].encode(errors="replace").decode()}


def _decoded(name: str, encoded: Mapping[str, Any]) -> Any:
    if name in _FLAGS:
        return encoded["BOOL"]
    if name in _NUMBERS:
        return int(encoded["N"]) if name in _INTEGERS else float(encoded["N"])
    if name in _TIMES:
        return datetime.fromisoformat(encoded["S"]).timestamp()
    return _ENUMS[name](encoded["S"]) if name in _ENUMS else encoded["S"]


def _number(value: float) -> str:
    # DynamoDB gives numbers back without trailing zeros: write them so, to compare equal.
    return f"{value:.3f}".rstrip("0").rstrip(".")
