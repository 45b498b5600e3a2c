"""Compute what DynamoDB charges, in read and write units.

Moto does not compute them: it answers every query with half a unit and every write with one. So
units are computed from the items, by DynamoDB's documented rules:
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html (write costs)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import boto3

from stream_downloads.adapters.download_item import to_item
from stream_downloads.adapters.downloads_table import WORK_INDEX, DownloadsTable, Due
from stream_downloads.adapters.shared_state import Budget, ControlTable, Record
from stream_downloads.domain.download import Download, DownloadType, Step, Work
from stream_downloads.domain.request_budget import COUNTS_FOR
from stream_downloads.domain.transitions import listed_ready
from stream_downloads.services.gateway import Gateway
from stream_downloads.services.poll import Summary
from stream_downloads.services.steps import RECHECK_AFTER
from tests.simulator import RateLimiter, download_url
from tests.support.memory import Key, MemoryControl, MemoryDownloads
from tests.support.template import table_schema
from tests.support.world import World

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

READ_BYTES = 4096
WRITE_BYTES = 1024

Item = Mapping[str, Any]


@dataclass(slots=True)
class Units:
    """Read and write units consumed so far."""

    read: float = 0.0
    write: int = 0


def size_of(item: Item) -> int:
    """Return the bytes that DynamoDB counts for an item: names and values."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "M":  # three bytes, and one for each entry
        return 3 + size_of(content) + len(content)
    if kind == "S":
        return len(content.encode())
    if kind == "N":  # a byte for two digits, one for the exponent, one for a minus
        return math.ceil(len(content.lstrip("-").replace(".", "")) / 2) + 1 + ("-" in content)
    return 1


def read_units(sizes: Iterable[int], *, consistent: bool) -> float:
    """Return the cost of a query page or a get: a block or more, half if not consistent."""
    blocks = max(1, math.ceil(sum(sizes) / READ_BYTES))
    return blocks if consistent else blocks / 2


class WritePrices:
    """The cost of a put into one table, its indexes included."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Take the schema that ``create_table`` takes."""
        key = [part["AttributeName"] for part in schema["KeySchema"]]
        self._indexes: dict[str, tuple[list[str], set[str]]] = {}
        for index in schema.get("GlobalSecondaryIndexes", ()):
            own_key = [part["AttributeName"] for part in index["KeySchema"]]
            others = index["Projection"].get("NonKeyAttributes", ())
            self._indexes[index["IndexName"]] = own_key, {*key, *own_key, *others}

    def units(self, before: Item | None, after: Item) -> int:
        """Return the cost of putting ``after`` in the place of ``before``, by the larger one."""
        units = _write_units(before, after)
        for key, projected in self._indexes.values():
            old, new = _entry(before, key, projected), _entry(after, key, projected)
            if old == new:
                continue
            moved = old and new and any(old[name] != new[name] for name in key)
            units += _write_units(old) + _write_units(new) if moved else _write_units(old, new)
        return units

    def entry_size(self, item: Item, index: str) -> int:
        """Return the bytes of an item in an index, 0 if the index does not hold it."""
        return size_of(_entry(item, *self._indexes[index]) or {})


def _entry(item: Item | None, key: list[str], projected: set[str]) -> Item | None:
    """Return an item as an index holds it; None if it does not."""
    if item is None or not all(name in item for name in key):
        return None
    return {name: value for name, value in item.items() if name in projected}


def _write_units(*items: Item | None) -> int:
    return math.ceil(max(size_of(item) for item in items if item is not None) / WRITE_BYTES)


class MeteredDownloads(MemoryDownloads):
    """The downloads table in memory, counting what DynamoDB would charge."""

    def __init__(self) -> None:
        super().__init__()
        self.units = Units()
        self._prices = WritePrices(table_schema("DownloadsTable"))
        self._sizes: dict[Key, int] = {}
        self._entry_sizes: dict[Key, int] = {}

    def get(self, video_uid: str, download_type: DownloadType) -> Download | None:
        """Count one consistent read."""
        row = super().get(video_uid, download_type)
        self._count_read([row] if row else [], consistent=True)
        return row

    def of_video(self, video_uid: str) -> list[Download]:
        """Count one consistent query."""
        rows = super().of_video(video_uid)
        self._count_read(rows, consistent=True)
        return rows

    def read(self, keys: Sequence[Key]) -> list[Download]:
        """Count one consistent read of each row."""
        rows = super().read(keys)
        for row in rows:
            self._count_read([row], consistent=True)
        return rows

    def due(self, queue: str, until: float, page: int) -> Iterator[Due]:
        """Query the index, page by page."""
        entries = super().due(queue, until, page)
        while True:
            found = list(islice(entries, page))
            sizes = (self._entry_sizes[entry.key] for entry in found)
            self.units.read += read_units(sizes, consistent=False)
            yield from found
            if len(found) < page:
                return

    def _write(self, row: Download) -> Download:
        before: Download | None = self.rows.get(row.key)
        item = to_item(row)
        self.units.write += self._prices.units(to_item(before) if before else None, item)
        self._sizes[row.key] = size_of(item)
        self._entry_sizes[row.key] = self._prices.entry_size(item, WORK_INDEX)
        return super()._write(row)

    def _count_read(self, rows: Iterable[Download], *, consistent: bool) -> None:
        sizes = (self._sizes[row.key] for row in rows)
        self.units.read += read_units(sizes, consistent=consistent)


class MeteredControl(MemoryControl):
    """The control table in memory, counting what DynamoDB would charge."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.units = Units()
        self._prices = WritePrices(table_schema("ControlTable"))

    def read(self, name: str) -> Record:
        """Count one consistent read."""
        self.units.read += read_units([size_of(self._item(name))], consistent=True)
        return super().read(name)

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:
        """Count one conditional write, which costs the same if it fails."""
        before = self._item(name)
        written = super().write(name, value, version)
        self.units.write += self._prices.units(before, self._item(name))
        return written

    def _item(self, name: str) -> Item:
        text, version = self._records.get(name, ("", 0))
        return {"name": {"S": name}, "value": {"S": text}, "version": {"N": str(version)}}


class MeteredWorld(World):
    """The real handlers over tables that count what DynamoDB would charge."""

    downloads_type = MeteredDownloads
    control_type = MeteredControl
    downloads: MeteredDownloads
    control: MeteredControl


class Meter:
    """Counts what DynamoDB would charge for a client's reads, from their results."""

    def __init__(self, client: DynamoDBClient) -> None:
        """Listen to the client's calls."""
        self.read = 0.0
        self._consistent = False
        for call in ("Query", "GetItem", "BatchGetItem"):
            events = client.meta.events
            events.register(f"before-parameter-build.dynamodb.{call}", self._asked)
            events.register(f"after-call.dynamodb.{call}", self._answered)

    def _asked(self, params: Mapping[str, Any], **_others: Any) -> None:
        self._consistent = params.get("ConsistentRead", False)

    def _answered(self, parsed: Mapping[str, Any], **_others: Any) -> None:
        items = parsed.get("Items") or [parsed.get("Item", {})]
        self.read += read_units(map(size_of, items), consistent=self._consistent)


def poller_run(due: int, total: int) -> tuple[Summary, float]:
    """Run the poller once over a table in moto.

    Args:
        due: rows that wait for a poll, and will be found ready.
        total: rows of the table; the others are ready, and due again in a week.

    Returns:
        What the run did, and the read units that it consumed.
    """
    world = World(limit=2 * due, arriving=True)
    world.simulator.limiter = RateLimiter(10 * due)
    for _ in range(due):
        world.simulator.upload()
    world.clock.sleep(COUNTS_FOR)
    client = boto3.client("dynamodb")
    tables = {}
    for table in ("DownloadsTable", "ControlTable"):
        tables[table] = f"{table}-of-{total}"
        client.create_table(**table_schema(table) | {"TableName": tables[table]})
    _fill(client, tables["DownloadsTable"], [*world.downloads.rows.values()], total)
    control = ControlTable(client, tables["ControlTable"])
    world.service = replace(
        world.service,
        downloads=DownloadsTable(client, tables["DownloadsTable"]),
        control=control,
        gateway=Gateway(
            Budget(control, 2 * due, world.clock), world.credentials, world.service.gateway.stream
        ),
    )
    meter = Meter(client)
    return world.poll(), meter.read


def _fill(client: DynamoDBClient, table: str, rows: list[Download], total: int) -> None:
    """Write the rows, and ready ones that make up the number."""
    others = []
    for number in range(total - len(rows)):
        row = replace(rows[0], video_uid=f"{number:032x}")
        url = download_url(row.video_uid, row.download_type)
        recheck = Work(Step.RECHECK, row.updated_at + RECHECK_AFTER)
        others.append(listed_ready(row, url, recheck, row.updated_at))
    items = [to_item(row) for row in (*rows, *others)]
    for start in range(0, len(items), 25):
        puts: list[Any] = [{"PutRequest": {"Item": item}} for item in items[start : start + 25]]
        client.batch_write_item(RequestItems={table: puts})
