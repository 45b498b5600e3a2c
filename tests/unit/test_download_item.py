"""Test the DynamoDB item of a row: round trips, and items of version 0.1."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_downloads.adapters.download_item import Unreadable, from_item, number, to_item
from stream_downloads.domain.download import (
    Creation,
    Download,
    DownloadType,
    Lane,
    Reason,
    Report,
    Status,
    Step,
    Trouble,
    TroubleKind,
    Work,
)
from tests.support.rows import NOW, UID, in_progress, requested

TIMES = st.integers(0, 4_000_000_000_000).map(lambda milliseconds: milliseconds / 1000)
PERCENTAGES = st.integers(0, 100_000).map(lambda thousandths: thousandths / 1000)
COUNTS = st.integers(0, 10**6)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
REASONS = st.builds(Reason, TEXTS, TEXTS)
TROUBLES = st.builds(Trouble, st.sampled_from(TroubleKind), TIMES, COUNTS, REASONS)
ROWS = st.builds(
    Download,
    video_uid=st.just(UID),
    download_type=st.sampled_from(DownloadType),
    status=st.sampled_from(Status),
    requested_at=TIMES,
    updated_at=TIMES,
    ready_at=st.none() | TIMES,
    url=st.none() | TEXTS,
    percent_complete=st.none() | TIMES,
    requires_signed_url=st.none() | st.booleans(),
    creator=st.none() | TEXTS,
    name=st.none() | TEXTS,
    duration_seconds=st.none() | TIMES,
    error_code=st.none() | TEXTS,
    error_message=st.none() | TEXTS,
    work=st.none()
    | st.builds(Work, st.sampled_from(Step), TIMES, COUNTS, trouble=st.none() | TROUBLES),
    creation=st.none()
    | st.builds(
        Creation,
        TIMES,
        st.none() | TIMES,
        st.none() | TIMES,
        st.none() | st.builds(Report, TIMES, PERCENTAGES),
    ),
    recreations=COUNTS,
    reopens=st.booleans(),
    lane=st.sampled_from(Lane),
    version=COUNTS,
)


@given(ROWS)
def test_every_row_is_read_as_it_was_written(row: Download) -> None:
    assert from_item(to_item(row)) == row


def test_a_creation_without_an_earlier_report_stores_none() -> None:
    stored = to_item(in_progress())["_creation"]["M"]
    assert stored.keys() == {"sent_at", "accepted_at"}


@given(ROWS)
def test_the_due_time_is_stored_once_where_the_index_has_it(row: Download) -> None:
    item = to_item(row)
    assert ("_due_at" in item) == (row.work is not None)
    assert "due_at" not in item.get("_work", {}).get("M", {})


@pytest.mark.parametrize(
    ("value", "stored"),
    [(0.0, "0"), (-0.0, "0"), (-0.0004, "0"), (39.5, "39.5"), (100.0, "100"), (0.0014, "0.001")],
)
def test_a_number_is_written_as_dynamodb_gives_it_back(value: float, stored: str) -> None:
    assert number(value) == {"N": stored}


def test_a_long_reason_is_cut() -> None:
    trouble = Trouble(TroubleKind.REFUSED, NOW, 1, Reason("10005", "x" * 500_000))
    row = from_item(to_item(requested(work=Work(Step.CREATE, NOW, trouble=trouble))))
    assert row.work is not None
    assert row.work.trouble is not None
    assert len(row.work.trouble.reason.message) == 300


# --- Items of version 0.1


def first_version_item(**attributes: Any) -> dict[str, Any]:
    """Return a download that was accepted at ``NOW``, in the words of version 0.1."""
    return {
        "video_uid": {"S": UID},
        "download_type": {"S": "default"},
        "status": {"S": "inprogress"},
        "percent_complete": {"N": "0"},
        "requested_at": {"S": "2027-01-15T08:00:00.000Z"},
        "updated_at": {"S": "2027-01-15T08:00:00.001Z"},
        "_lane": {"S": "live"},
        "_queue": {"S": "live-look"},
        "_step": {"S": "list"},
        "_due_at": {"N": "1800000060"},
        "_version": {"N": "4"},
        "_created_at": {"N": "1800000000"},
        "_write": {"S": "0123456789abcdef"},
        **attributes,
    }


def test_a_row_of_version_0_1_is_read() -> None:
    assert from_item(first_version_item()) == in_progress(version=4)


@pytest.mark.parametrize(
    ("old", "step"),
    [
        ("create", Step.CREATE),
        ("list", Step.LIST),
        ("confirm", Step.GET_VIDEO),
        ("delete", Step.DELETE),
        ("verify", Step.RECHECK),
    ],
)
def test_every_step_of_version_0_1_goes_on(old: str, step: Step) -> None:
    row = from_item(first_version_item(_step={"S": old}, _attempts={"N": "7"}))
    assert row.work == Work(step, NOW + 60)


@pytest.mark.parametrize(
    ("times", "creation"),
    [
        ({}, None),
        ({"_refused_since": NOW, "_missing_since": NOW, "_looked_at": NOW}, None),
        ({"_sent_at": NOW}, Creation(NOW)),
        ({"_created_at": NOW}, Creation(NOW, NOW)),
        ({"_created_at": NOW, "_looked_at": NOW + 5}, Creation(NOW, NOW, NOW + 5)),
        ({"_sent_at": NOW + 5, "_created_at": NOW}, Creation(NOW + 5, NOW)),
    ],
    ids=str,
)
def test_what_version_0_1_had_made_at_cloudflare_is_known(
    times: dict[str, float], creation: Creation | None
) -> None:
    item = first_version_item(**{name: number(time) for name, time in times.items()})
    if "_created_at" not in times:
        del item["_created_at"]
    assert from_item(item).creation == creation


def test_what_version_0_1_counted_is_kept() -> None:
    row = from_item(first_version_item(_recreations={"N": "2"}, _reopens={"BOOL": True}))
    assert row == in_progress(version=4, recreations=2, reopens=True)


@pytest.mark.parametrize("missing", ["_step", "_due_at", "_queue"])
def test_a_row_with_half_of_its_work_never_reads_as_one_without(missing: str) -> None:
    item = first_version_item()
    del item[missing]
    if missing == "_queue":  # no function needs to read it
        assert from_item(item).work == Work(Step.LIST, NOW + 60)
        return
    with pytest.raises(Unreadable):
        from_item(item)


def test_a_present_row_with_half_of_its_work_never_reads_as_one_without() -> None:
    for missing in ("_work", "_due_at"):
        item = to_item(in_progress())
        del item[missing]
        with pytest.raises(Unreadable):
            from_item(item)
