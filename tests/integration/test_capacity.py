"""Check that a poller run costs by the due rows, not by the size of the table."""

from __future__ import annotations

import pytest

from tests.bench.capacity import WritePrices, poller_run, read_units, size_of
from tests.bench.run import quiet
from tests.support.template import table_schema

ROW = {
    "video_uid": {"S": "a" * 32},
    "download_type": {"S": "default"},
    "status": {"S": "inprogress"},
    "updated_at": {"S": "2027-01-15T08:00:00.000Z"},
    "percent_complete": {"N": "41.5"},
    "_queue": {"S": "live-look"},
    "_due_at": {"N": "1800000000.125"},
}


DONE = {name: value for name, value in ROW.items() if name not in ("_queue", "_due_at")}


@pytest.mark.no_cover
def test_a_run_reads_the_same_in_a_table_twenty_times_the_size() -> None:
    with quiet():
        small, units_of_small = poller_run(due=50, total=50)
        large, units_of_large = poller_run(due=50, total=1000)
    assert small.ready == large.ready == 50
    assert units_of_large == units_of_small <= 0.25 * 50


def test_reads_are_charged_by_blocks_of_4_kilobytes_and_half_if_they_may_be_stale() -> None:
    assert read_units([4000, 97], consistent=True) == 2
    assert read_units([4000, 97], consistent=False) == 1
    assert read_units([], consistent=False) == 0.5


def test_the_size_of_an_item_counts_names_and_values() -> None:
    assert size_of({"name": {"S": "é"}, "n": {"N": "-12.5"}, "yes": {"BOOL": True}}) == 6 + 5 + 4


def test_a_new_row_is_written_into_the_table_and_both_indexes() -> None:
    assert WritePrices(table_schema("DownloadsTable")).units(None, ROW) == 3


def test_a_row_whose_due_time_moves_is_written_twice_into_its_index() -> None:
    later = ROW | {"_due_at": {"N": "1800000060"}}
    assert WritePrices(table_schema("DownloadsTable")).units(ROW, later) == 3


def test_a_row_that_is_due_no_more_leaves_its_index() -> None:
    assert WritePrices(table_schema("DownloadsTable")).units(ROW, DONE) == 2


def test_what_an_index_does_not_hold_costs_nothing_there() -> None:
    looked_at = DONE | {"_looked_at": {"N": "1800000000"}}
    assert WritePrices(table_schema("DownloadsTable")).units(DONE, looked_at) == 1
