"""Reads and writes the downloads table. Every write is conditional."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from stream_downloads.adapters.download_item import Unreadable, from_item, number, to_item
from stream_downloads.adapters.observability import logger
from stream_downloads.domain.download import Download, DownloadType, Status

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

WORK_INDEX: Final = "work-index"
STATUS_INDEX: Final = "status-index"


Key = tuple[str, DownloadType]


class LostRace(Exception):
    """The row changed since it was read: nothing was written."""


class Due(NamedTuple):
    """An entry of the index of due rows.

    Attributes:
        key: of the row: video and type.
        due_at: not later than the row's own ``due_at``.
    """

    key: Key
    due_at: float


class Downloads(Protocol):
    """The table of downloads, as the service needs it."""

    def add(self, row: Download) -> Download | None:
        """Write a new row; return the existing row instead, if there is one."""

    def save(self, row: Download) -> Download:
        """Write a row over the version that it was read with; return it as written."""

    def get(self, video_uid: str, download_type: DownloadType) -> Download | None:
        """Return one row, read consistently."""

    def of_video(self, video_uid: str) -> list[Download]:
        """Return all rows of a video, read consistently."""

    def read(self, keys: Sequence[Key]) -> list[Download]:
        """Return the rows of at most 100 keys that exist, read consistently."""

    def due(self, queue: str, until: float, page: int) -> Iterator[Due]:
        """Yield the entries of a queue that are due by then, the oldest first."""

    def with_status(self, status: Status) -> Iterator[Key]:
        """Yield the keys of all rows with that status, the oldest ``updated_at`` first."""

    def count(self, status: Status) -> Iterator[int]:
        """Yield how many rows have that status, in parts that add up."""

    def settled(self, keys: Sequence[Key]) -> set[Key]:
        """Return those of at most 100 keys whose row a ready video would not change."""


class DownloadsTable:
    """The downloads table in DynamoDB."""

    def __init__(self, client: DynamoDBClient, table_name: str) -> None:
        """Take a low-level client, with its own limits on time and retries."""
        self._client = client
        self._table_name = table_name

    def add(self, row: Download) -> Download | None:
        """Write a new row.

        Returns:
            None if it was written, else the existing row, which stays as it is.

        Raises:
            LostRace: a row existed, and was deleted meanwhile.
        """
        item = to_item(replace(row, version=1))
        existing = self._put(
            item, "attribute_not_exists(#video_uid)", {"#video_uid": "video_uid"}, {}
        )
        if existing is None:
            return None
        if existing:
            return from_item(existing)
        found = self.get(*row.key)  # the answer did not contain the row
        if found is None:
            raise LostRace(f"{row.video_uid}/{row.download_type} was there, and is gone again")
        return found

    def save(self, row: Download) -> Download:
        """Write a row over the version that it was read with.

        Raises:
            LostRace: another invocation wrote it first.
        """
        saved = replace(row, version=row.version + 1)
        existing = self._put(
            to_item(saved),
            "#version = :version",
            {"#version": "_version"},
            {":version": {"N": str(row.version)}},
        )
        if existing is not None:
            raise LostRace(f"{row.video_uid}/{row.download_type} changed since it was read")
        return saved

    def get(self, video_uid: str, download_type: DownloadType) -> Download | None:
        """Return one row, read consistently."""
        answer = self._client.get_item(
            TableName=self._table_name,
            Key={"video_uid": {"S": video_uid}, "download_type": {"S": download_type}},
            ConsistentRead=True,
        )
        return from_item(answer["Item"]) if "Item" in answer else None

    def of_video(self, video_uid: str) -> list[Download]:
        """Return all rows of a video, read consistently."""
        answer = self._client.query(
            TableName=self._table_name,
            ConsistentRead=True,
            KeyConditionExpression="#video_uid = :video_uid",
            ExpressionAttributeNames={"#video_uid": "video_uid"},
            ExpressionAttributeValues={":video_uid": {"S": video_uid}},
        )
        return list(_readable(answer["Items"]))

    def read(self, keys: Sequence[Key]) -> list[Download]:
        """Return the rows of at most 100 keys that exist, read consistently.

        Rows that DynamoDB leaves unprocessed twice, or that cannot be read, are left out.
        """
        found: list[dict[str, Any]] = []
        wanted = _items(keys)
        for _ in range(2):
            if not wanted:
                break
            answer = self._client.batch_get_item(
                RequestItems={self._table_name: {"Keys": wanted, "ConsistentRead": True}}
            )
            found += answer["Responses"].get(self._table_name, [])
            left: Mapping[str, Any] = answer.get("UnprocessedKeys", {})
            wanted = left.get(self._table_name, {}).get("Keys", [])
        return list(_readable(found))

    def due(self, queue: str, until: float, page: int) -> Iterator[Due]:
        """Yield the entries of a queue that are due by then, the oldest first.

        The index holds keys only, and is eventually consistent.

        Args:
            queue: the partition of the index.
            until: seconds since the epoch.
            page: how many entries to read at a time.
        """
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table_name,
            IndexName=WORK_INDEX,
            KeyConditionExpression="#queue = :queue AND #due_at <= :until",
            ExpressionAttributeNames={"#queue": "_queue", "#due_at": "_due_at"},
            ExpressionAttributeValues={":queue": {"S": queue}, ":until": number(until)},
            PaginationConfig={"PageSize": page},
        )
        for found in pages:
            for item in found["Items"]:
                if key := _key(item):
                    yield Due(key, float(item["_due_at"]["N"]))

    def with_status(self, status: Status) -> Iterator[Key]:
        """Yield the keys of all rows with that status, the oldest ``updated_at`` first."""
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
                if key := _key(item):
                    yield key

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

    def settled(self, keys: Sequence[Key]) -> set[Key]:
        """Return those of at most 100 keys whose row a ready video would not change.

        Keys that DynamoDB leaves unprocessed count as not settled: then the condition of ``add``
        finds the row, at the price of a write.
        """
        answer = self._client.batch_get_item(
            RequestItems={
                self._table_name: {
                    "Keys": _items(keys),
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
        """Put the item and return None, or return the existing item if the condition fails."""
        # A unique mark tells this write from another invocation's write of the same values.
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
            existing = cast("Mapping[str, Any]", error.response.get("Item", {}))
            # The SDK retries a write whose answer was lost: then the existing item is this one.
            return None if existing == item else existing
        return None


def _items(keys: Sequence[Key]) -> list[dict[str, Any]]:
    return [{"video_uid": {"S": uid}, "download_type": {"S": kind}} for uid, kind in keys]


def _key(item: Mapping[str, Any]) -> Key | None:
    """Return the key of an item, or None if its download type is unknown."""
    kind = item["download_type"]["S"]
    return (item["video_uid"]["S"], DownloadType(kind)) if kind in tuple(DownloadType) else None


def _readable(items: list[dict[str, Any]]) -> Iterator[Download]:
    # One bad row blocks no other.
    for item in items:
        try:
            yield from_item(item)
        except Unreadable as error:
            details = {"video_uid": item.get("video_uid", {}).get("S"), "reason": str(error)}
            logger.error("A row cannot be read", extra=details)
