"""Test how changes of the table become events on the bus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stream_downloads.adapters.download_item import to_item
from stream_downloads.domain.download import Download, Status, Step, Work
from stream_downloads.services.announce import announce
from tests.support.event_bus import Events
from tests.support.rows import UID, deleted, deleting, failed, ready, requested, url_of


def change(before: Download | None, after: Download, number: int = 1) -> dict[str, Any]:
    record = {
        "Keys": {"video_uid": {"S": after.video_uid}},
        "NewImage": to_item(after),
        "SequenceNumber": str(number),
    }
    if before:
        record["OldImage"] = to_item(before)
    return {"eventName": "MODIFY" if before else "INSERT", "dynamodb": record}


def announced(*records: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    bus = Events()
    assert announce(bus.bus(), records) == {"batchItemFailures": []}
    assert {entry["Source"] for entry in bus.taken} <= {"stream-downloads"}
    assert {entry["EventBusName"] for entry in bus.taken} <= {"bus"}
    return bus.told()


def test_a_download_that_becomes_ready_is_announced_as_its_consumers_know_it() -> None:
    detail = {
        "video_uid": UID,
        "download_type": "default",
        "status": "ready",
        "url": url_of(),
        "percent_complete": 100,
        "requested_at": "2027-01-15T08:00:00.000Z",
        "updated_at": "2027-01-15T08:00:00.002Z",
        "ready_at": "2027-01-15T08:00:00.002Z",
    }
    assert announced(change(requested(), ready())) == [("Download Ready", detail)]


def test_a_failure_and_a_deletion_are_announced() -> None:
    changes = change(None, failed()), change(deleting(), deleted())
    kinds = [kind for kind, _ in announced(*changes)]
    assert kinds == ["Download Failed", "Download Deleted"]


@pytest.mark.parametrize("status", [Status.REQUESTED, Status.INPROGRESS, Status.DELETING])
def test_what_ends_nothing_is_not_announced(status: Status) -> None:
    row = ready()
    assert announced(change(row, replace(row, status=status, url=None))) == []


def test_bookkeeping_on_a_ready_row_is_not_announced_again() -> None:
    row = ready()
    assert announced(change(row, replace(row, work=Work(Step.DELETE, 900.0)))) == []


def test_a_ready_download_whose_url_changes_is_announced_again() -> None:
    row = ready()
    moved = url_of().replace("customer-", "customer-2")
    ((kind, detail),) = announced(change(row, replace(row, url=moved)))
    assert kind == "Download Ready"
    assert detail["url"] == moved


def test_a_removed_item_is_not_announced() -> None:
    record = {"eventName": "REMOVE", "dynamodb": {"OldImage": to_item(ready())}}
    assert announced(record) == []


def test_after_an_event_that_the_bus_refused_the_stream_goes_on_from_there() -> None:
    records = [change(requested(), ready(), number) for number in range(25)]
    bus = Events(refuse=frozenset({13}))
    answer = announce(bus.bus(), records)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "13"}]}
    # Of the batch with the refused event the others went out: they come twice, never not at all.
    assert len(bus.taken) == 19
