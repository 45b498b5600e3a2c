"""Test the downloads table on DynamoDB, as the template has it, and in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from stream_downloads.adapters.download_item import Unreadable, from_item, to_item
from stream_downloads.adapters.downloads_table import Downloads, DownloadsTable, LostRace
from stream_downloads.domain import transitions
from stream_downloads.domain.download import (
    Creation,
    Download,
    Lane,
    Reason,
    Status,
    Step,
    Trouble,
    TroubleKind,
    Work,
)
from tests.support import rows
from tests.support.documents import named, section
from tests.support.memory import MemoryDownloads
from tests.support.rows import AUDIO, DEFAULT, NOW, UID
from tests.support.template import REFERENCES

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TABLE = REFERENCES["DownloadsTable"]
EVERYTHING = Download(
    video_uid=UID,
    download_type=AUDIO,
    status=Status.ERROR,
    requested_at=NOW + 0.125,
    updated_at=NOW + 1.5,
    ready_at=NOW + 2.999,
    url=rows.url_of(UID, AUDIO),
    percent_complete=39.5,
    requires_signed_url=False,
    creator="me",
    name="café 🎬",
    duration_seconds=5.5,
    error_code="10005",
    error_message="Bad Request",
    work=Work(
        Step.LIST,
        due_at=NOW + 0.001,
        attempts=1,
        trouble=Trouble(TroubleKind.UNLISTED, NOW + 1000, 4, Reason("10005", "not listed")),
    ),
    creation=Creation(sent_at=NOW + 0.5, accepted_at=NOW, polled_at=NOW + 10),
    recreations=2,
    reopens=True,
    lane=Lane.BACKFILL,
    version=3,
)


def uid(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def table(dynamodb: DynamoDBClient) -> DownloadsTable:
    return DownloadsTable(dynamodb, TABLE)


@pytest.fixture(params=["DynamoDB", "memory"])
def downloads(request: pytest.FixtureRequest, table: DownloadsTable) -> Downloads:
    return table if request.param == "DynamoDB" else MemoryDownloads()


def put(dynamodb: DynamoDBClient, row: Download, **attributes: Any) -> None:
    """Write an item past the service, as an operator in the console would."""
    dynamodb.put_item(TableName=TABLE, Item=to_item(row) | attributes)


# --- On both


def test_a_row_is_read_as_it_was_written(downloads: Downloads) -> None:
    assert downloads.add(EVERYTHING) is None
    assert downloads.get(UID, AUDIO) == replace(EVERYTHING, version=1)
    assert downloads.get(UID, DEFAULT) is None


def test_a_row_that_is_there_stays_as_it_is(downloads: Downloads) -> None:
    downloads.add(rows.requested(name="first"))
    there = downloads.add(rows.requested(name="second"))
    assert there == rows.requested(name="first", version=1)
    assert downloads.get(*rows.requested().key) == there


def test_each_write_counts_the_version_up(downloads: Downloads) -> None:
    downloads.add(rows.requested())
    saved = downloads.save(rows.in_progress(version=1))
    assert saved == rows.in_progress(version=2)
    assert downloads.save(replace(saved, percent_complete=50.0)).version == 3


def test_a_row_that_changed_since_it_was_read_is_not_overwritten(downloads: Downloads) -> None:
    downloads.add(rows.requested())
    downloads.save(rows.in_progress(version=1))
    with pytest.raises(LostRace, match=f"{UID}/default changed since it was read"):
        downloads.save(rows.deleting(version=1))
    assert downloads.get(*rows.requested().key) == rows.in_progress(version=2)


def test_a_row_that_is_not_there_cannot_be_saved(downloads: Downloads) -> None:
    with pytest.raises(LostRace):
        downloads.save(rows.requested())
    assert downloads.get(*rows.requested().key) is None


def test_all_rows_of_a_video_are_found(downloads: Downloads) -> None:
    for row in (rows.requested(), rows.requested(UID, AUDIO), rows.requested(uid(7))):
        downloads.add(row)
    assert [row.key for row in downloads.of_video(UID)] == [(UID, AUDIO), (UID, DEFAULT)]
    assert downloads.of_video(uid(8)) == []


def test_due_rows_come_oldest_first_page_by_page(downloads: Downloads) -> None:
    for number, late in enumerate((30, 10, 20, 40, 0.5)):
        downloads.add(rows.due(rows.requested(uid(number)), NOW + late))

    def due_by(until: float, page: int) -> list[str]:
        return [entry.key[0] for entry in downloads.due("live-create", until, page)]

    for page in (2, 10):
        assert due_by(NOW + 30, page) == [uid(4), uid(1), uid(2), uid(0)]
    assert due_by(NOW + 0.499, 10) == []
    assert due_by(NOW + 0.5, 10) == [uid(4)]


def test_each_queue_holds_its_own_rows_and_only_those_with_something_to_do(
    downloads: Downloads,
) -> None:
    by_queue = {
        "live-create": [rows.requested(uid(1))],
        "live-look": [rows.in_progress(uid(2)), rows.deleting(video_uid=uid(3))],
        "backfill-create": [rows.requested(uid(4), lane=Lane.BACKFILL)],
        "backfill-look": [rows.in_progress(uid(5), lane=Lane.BACKFILL)],
        "upkeep": [rows.ready(uid(6))],
        "": [rows.failed(video_uid=uid(8)), rows.deleted(video_uid=uid(9))],
    }
    for row in (row for found in by_queue.values() for row in found):
        downloads.add(row)
    for queue in filter(None, by_queue):
        found = downloads.due(queue, NOW + 1e6, 100)
        assert sorted(uid for (uid, _), _ in found) == [row.video_uid for row in by_queue[queue]]


def test_a_row_leaves_the_queue_with_its_step(downloads: Downloads) -> None:
    downloads.add(rows.in_progress())
    downloads.save(rows.ready(version=1))
    assert list(downloads.due("live-look", NOW + 1e6, 10)) == []


def test_the_keys_of_a_status_come_in_the_order_of_the_change(downloads: Downloads) -> None:
    for number, late in enumerate((3, 1, 2)):
        downloads.add(rows.failed(video_uid=uid(number), updated_at=NOW + late))
    downloads.add(rows.requested(uid(9)))
    assert list(downloads.with_status(Status.ERROR)) == [
        (uid(1), DEFAULT),
        (uid(2), DEFAULT),
        (uid(0), DEFAULT),
    ]
    assert list(downloads.with_status(Status.DELETED)) == []


def test_the_rows_of_a_status_are_counted(downloads: Downloads) -> None:
    for number in range(3):
        downloads.add(rows.requested(uid(number)))
    assert sum(downloads.count(Status.REQUESTED)) == 3
    assert sum(downloads.count(Status.READY)) == 0


def test_what_a_ready_video_would_change_nothing_about_is_settled(downloads: Downloads) -> None:
    downloads.add(rows.ready(uid(1)))
    downloads.add(rows.failed(video_uid=uid(2), reopens=True))
    downloads.add(rows.deleted(video_uid=uid(3)))
    asked = [(uid(number), DEFAULT) for number in (1, 2, 3, 4)]
    assert downloads.settled(asked) == {(uid(1), DEFAULT), (uid(3), DEFAULT)}


def test_text_that_a_table_cannot_hold_is_cut_and_fixed(downloads: Downloads) -> None:
    downloads.add(rows.requested(name="x" * 500_000, creator="half a \ud800 surrogate"))
    row = downloads.get(*rows.requested().key)
    assert row is not None
    assert row.name is not None
    assert len(row.name) == 1024
    assert row.creator == "half a ? surrogate"


# --- On DynamoDB alone


@pytest.fixture
def forgetful(dynamodb: DynamoDBClient, monkeypatch: pytest.MonkeyPatch) -> DynamoDBClient:
    """Return a client whose refusals do not bring the old item along."""
    put_item: Any = dynamodb.put_item

    def put_and_forget(ReturnValuesOnConditionCheckFailure: str, **arguments: Any) -> Any:  # noqa: ARG001, N803
        return put_item(**arguments)

    monkeypatch.setattr(dynamodb, "put_item", put_and_forget)
    return dynamodb


@pytest.mark.usefixtures("forgetful")
def test_a_row_that_stood_in_the_way_is_read_if_the_refusal_does_not_tell_it(
    table: DownloadsTable,
) -> None:
    table.add(rows.requested(name="first"))
    assert table.add(rows.requested(name="second")) == rows.requested(name="first", version=1)


def test_a_row_that_stood_in_the_way_and_is_gone_is_a_lost_race(
    forgetful: DynamoDBClient, table: DownloadsTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetful, "get_item", lambda **_: {})
    table.add(rows.requested())
    with pytest.raises(LostRace, match="gone again"):
        table.add(rows.requested())


def test_a_repeated_write_that_meets_its_own_success_has_succeeded(
    dynamodb: DynamoDBClient, table: DownloadsTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_item: Any = dynamodb.put_item

    def put_twice(**arguments: Any) -> Any:  # the first answer is lost, and the SDK repeats
        put_item(**arguments)
        return put_item(**arguments)

    monkeypatch.setattr(dynamodb, "put_item", put_twice)
    # Fractions of a second, whole numbers and text all compare as they were written.
    assert table.add(EVERYTHING) is None
    assert table.save(replace(EVERYTHING, version=1, percent_complete=100.0)).version == 2
    row = table.get(*EVERYTHING.key)
    assert row == replace(EVERYTHING, version=2, percent_complete=100.0)


def test_two_who_write_the_same_in_the_same_instant_are_still_two(table: DownloadsTable) -> None:
    assert table.add(rows.requested()) is None
    assert table.add(rows.requested()) == rows.requested(version=1)
    sent = transitions.create_sent(rows.requested(version=1), NOW)
    table.save(sent)
    with pytest.raises(LostRace):
        table.save(sent)


def test_rows_are_read_consistently_and_entries_by_the_page(
    dynamodb: DynamoDBClient, table: DownloadsTable
) -> None:
    asked: list[dict[str, Any]] = []
    event = "provide-client-params.dynamodb"
    dynamodb.meta.events.register(event, lambda params, **_: asked.append(params))
    table.get(UID, DEFAULT)
    table.of_video(UID)
    table.read([(UID, DEFAULT)])
    list(table.due("live-look", NOW, 7))
    one, all_of_video, batch, entries = asked
    assert one["ConsistentRead"]
    assert all_of_video["ConsistentRead"]
    assert batch["RequestItems"][TABLE]["ConsistentRead"]
    assert entries["Limit"] == 7


@pytest.mark.parametrize(("times", "found"), [(1, 1), (2, 0)])
def test_rows_that_are_left_unprocessed_are_asked_for_once_more(
    dynamodb: DynamoDBClient,
    table: DownloadsTable,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    found: int,
) -> None:
    table.add(rows.requested())
    real, asked = dynamodb.batch_get_item, list[Any]()

    def leave(**request: Any) -> Any:
        asked.append(request["RequestItems"])
        if len(asked) > times:
            return real(**request)
        return {"Responses": {}, "UnprocessedKeys": asked[-1]}

    monkeypatch.setattr(dynamodb, "batch_get_item", leave)
    assert len(table.read([(UID, DEFAULT)])) == found
    assert len(asked) == 2


def test_a_refusal_of_another_kind_is_raised_as_it_is(dynamodb: DynamoDBClient) -> None:
    with pytest.raises(ClientError, match="ResourceNotFound"):
        DownloadsTable(dynamodb, "no-such-table").add(rows.requested())


POISON: list[dict[str, Any]] = [
    {"status": {"S": "lost"}},
    {"_lane": {"NULL": True}},
    {"_work": {"M": {"step": {"S": "dance"}}}},
    {"_work": {"M": {}}},
    {"_work": {"NULL": True}},
    {"_step": {"S": "dance"}},
    {"_creation": {"M": {"accepted_at": {"N": "1"}}}},
    {"_creation": {"M": {"seen_at": {"N": "1"}}}},
    {"_version": {"S": "many"}},
    {"_version": {"N": "1.5"}},
    {"requested_at": {"S": "yesterday"}},
    {"requested_at": {"BOOL": True}},
    {"requires_signed_url": {"S": "yes"}},
    {"name": {"L": [{"S": "a"}]}},
    {"percent_complete": {"S": "39"}},
]


@pytest.mark.parametrize("poison", POISON, ids=str)
def test_a_row_that_cannot_be_read_blocks_no_other(
    dynamodb: DynamoDBClient, table: DownloadsTable, poison: dict[str, Any]
) -> None:
    put(dynamodb, rows.requested(), **poison)
    table.add(rows.requested(UID, AUDIO))
    assert [row.key for row in table.of_video(UID)] == [(UID, AUDIO)]
    assert [row.key for row in table.read([(UID, DEFAULT), (UID, AUDIO)])] == [(UID, AUDIO)]
    with pytest.raises(Unreadable, match="not a download"):
        table.get(UID, DEFAULT)
    with pytest.raises(Unreadable, match="not a download"):
        table.add(rows.requested())


def test_a_row_without_what_every_row_has_cannot_be_read() -> None:
    item = to_item(rows.requested())
    del item["requested_at"]
    with pytest.raises(Unreadable, match="requested_at"):
        from_item(item)


def test_a_foreign_download_type_is_left_out(
    dynamodb: DynamoDBClient, table: DownloadsTable
) -> None:
    put(dynamodb, rows.failed(), download_type={"S": "hologram"})
    table.add(rows.failed())
    assert list(table.with_status(Status.ERROR)) == [(UID, DEFAULT)]
    assert [row.key for row in table.of_video(UID)] == [(UID, DEFAULT)]


def test_what_others_add_to_an_item_does_not_disturb(
    dynamodb: DynamoDBClient, table: DownloadsTable
) -> None:
    put(dynamodb, rows.requested(), note={"S": "a consumer's own"}, _of_the_future={"BOOL": True})
    assert table.get(UID, DEFAULT) == rows.requested()


def item_of(dynamodb: DynamoDBClient, row: Download) -> dict[str, Any]:
    uid, kind = row.key
    key: Any = {"video_uid": {"S": uid}, "download_type": {"S": kind}}
    return dict(dynamodb.get_item(TableName=TABLE, Key=key)["Item"])


def public(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if not name.startswith("_")}


def test_an_item_is_as_the_reference_says(dynamodb: DynamoDBClient, table: DownloadsTable) -> None:
    row = rows.ready(name="clip.mp4", requires_signed_url=True, duration_seconds=5.5, creator="me")
    table.add(row)
    assert public(item_of(dynamodb, row)) == {
        "video_uid": {"S": UID},
        "download_type": {"S": "default"},
        "status": {"S": "ready"},
        "url": {"S": rows.url_of()},
        "percent_complete": {"N": "100"},
        "requires_signed_url": {"BOOL": True},
        "creator": {"S": "me"},
        "name": {"S": "clip.mp4"},
        "duration_seconds": {"N": "5.5"},
        "requested_at": {"S": "2027-01-15T08:00:00.000Z"},
        "updated_at": {"S": "2027-01-15T08:00:00.002Z"},
        "ready_at": {"S": "2027-01-15T08:00:00.002Z"},
    }


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (rows.requested(), set()),
        (rows.in_progress(), {"percent_complete"}),
        (rows.ready(), {"percent_complete", "url", "ready_at"}),
        (rows.failed(), {"percent_complete", "error_code", "error_message"}),
        (rows.deleting(), {"percent_complete"}),
        (rows.deleted(), set()),
    ],
)
def test_an_item_holds_only_what_goes_with_its_status(row: Download, names: set[str]) -> None:
    always = {"video_uid", "download_type", "status", "requested_at", "updated_at"}
    assert public(to_item(row)).keys() == always | names
    # It is in the index of due rows only if there is something to do.
    for attribute in ("_queue", "_due_at", "_work"):
        assert (attribute in to_item(row)) == (row.work is not None)


def test_every_attribute_that_is_not_in_the_reference_begins_with_an_underscore() -> None:
    attributes = section("docs/reference.md", "## The item").partition("| status |")[0]
    assert public(to_item(EVERYTHING)).keys() == named(attributes)


def test_a_consumer_finds_what_became_ready_since_a_time(
    dynamodb: DynamoDBClient, table: DownloadsTable
) -> None:
    for number in range(3):
        at = NOW + number
        table.add(rows.ready(uid(number), name=f"clip {number}", updated_at=at, ready_at=at))
    table.add(rows.failed(video_uid=uid(9), updated_at=NOW + 9))
    found = dynamodb.query(
        TableName=TABLE,
        IndexName="status-index",
        KeyConditionExpression="#status = :ready AND updated_at >= :since",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={
            ":ready": {"S": "ready"},
            ":since": {"S": "2027-01-15T08:00:01.000Z"},
        },
    )["Items"]
    assert [item["name"]["S"] for item in found] == ["clip 1", "clip 2"]
    # The index repeats the public row without its percentage, and nothing of the bookkeeping.
    repeated = public(to_item(rows.ready(name="a"))).keys() - {"percent_complete"}
    assert {name for item in found for name in item} == repeated
