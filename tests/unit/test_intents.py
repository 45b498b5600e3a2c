"""Test the intents that webhooks, reconciliation and operators write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.domain import transitions
from stream_downloads.domain.download import Download, Lane, Status, Step
from stream_downloads.domain.video import Video
from stream_downloads.services import intents
from tests.support import rows
from tests.support.memory import MemoryDownloads
from tests.support.rows import AUDIO, DEFAULT, NOW, UID

BOTH = (DEFAULT, AUDIO)
READY = Video(UID, state="ready", name="clip.mp4", duration_seconds=5.5)
FAILED = Video(UID, state="error", error_code="ERR_NON_VIDEO", error_message="not a video")


class Contested(MemoryDownloads):
    """A table in which another function writes the row first, ``lose`` times."""

    lose = 0
    change: Callable[[Download], Download | None] = staticmethod(lambda row: row)

    def save(self, row: Download) -> Download:
        if self.lose > 0:
            self.lose -= 1
            changed = self.change(self.rows[row.key])
            if changed is None:
                del self.rows[row.key]
            else:
                self._write(replace(changed, version=changed.version + 1))
        return super().save(row)


@pytest.fixture
def table() -> Contested:
    return Contested()


def is_ready(table: MemoryDownloads, lane: Lane = Lane.LIVE) -> list[Download]:
    return intents.video_is_ready(table, READY, BOTH, NOW + 60, lane=lane)


def has_failed(table: MemoryDownloads) -> list[Download]:
    return intents.video_has_failed(table, FAILED, BOTH, NOW + 60)


def test_a_ready_video_gets_a_row_for_each_wanted_type(table: Contested) -> None:
    written = is_ready(table)
    assert written == [
        replace(transitions.request(READY, kind, NOW + 60), version=1) for kind in BOTH
    ]
    assert written == [table.get(UID, kind) for kind in BOTH]


def test_a_backfilled_video_waits_in_its_own_lane(table: Contested) -> None:
    assert {row.lane for row in is_ready(table, Lane.BACKFILL)} == {Lane.BACKFILL}


@pytest.mark.parametrize(
    "there", [rows.requested(), rows.in_progress(), rows.ready(), rows.failed(), rows.deleted()]
)
def test_a_row_that_is_there_stays_as_it_is(table: Contested, there: Download) -> None:
    table.add(there)
    before = table.get(*there.key)
    assert [row.download_type for row in is_ready(table)] == [AUDIO]
    assert table.get(*there.key) == before


def test_a_webhook_brings_forward_what_a_backfill_found_before_it(table: Contested) -> None:
    is_ready(table, Lane.BACKFILL)
    assert {row.lane for row in is_ready(table)} == {Lane.LIVE}
    assert {row.lane for row in table.of_video(UID)} == {Lane.LIVE}
    assert is_ready(table) == []


def test_a_row_that_ended_because_of_the_video_is_opened_again(table: Contested) -> None:
    has_failed(table)
    opened = is_ready(table)
    assert [row.download_type for row in opened] == list(BOTH)
    assert {row.status for row in opened} == {Status.REQUESTED}
    assert {row.step for row in opened} == {Step.CREATE}


def test_a_failed_video_without_rows_gets_them_in_error(table: Contested) -> None:
    written = has_failed(table)
    assert [row.key for row in written] == [(UID, DEFAULT), (UID, AUDIO)]
    assert {row.error_code for row in written} == {FAILED.error_code}
    assert {row.error_message for row in written} == {FAILED.error_message}
    assert {row.reopens for row in written} == {True}
    assert has_failed(table) == []


def test_a_failed_video_with_rows_is_checked_first(table: Contested) -> None:
    table.add(rows.in_progress())
    table.add(rows.ready(UID, AUDIO))
    [row] = has_failed(table)
    assert row.key == (UID, DEFAULT)
    assert row.status is Status.INPROGRESS
    assert row.step is Step.GET_VIDEO


@pytest.fixture
def contested(table: Contested) -> Contested:
    """Return a table with a download in progress."""
    table.add(rows.in_progress())
    return table


def delete(table: Contested) -> Download | None:
    """Delete the download, from the row as it is read now."""
    row = table.get(UID, DEFAULT)
    assert row is not None
    return intents.change(table, row, lambda row: transitions.delete(row, NOW))


def test_after_a_lost_race_the_row_is_read_and_changed_again(contested: Contested) -> None:
    contested.lose = 2
    changed = delete(contested)
    assert changed is not None
    assert changed.status is Status.DELETING
    assert changed.version == 4


def test_a_change_that_another_function_has_made_is_not_made_twice(contested: Contested) -> None:
    contested.lose = 1
    contested.change = lambda row: transitions.delete(row, NOW)
    assert delete(contested) is None


def test_a_row_that_an_operator_has_deleted_stays_deleted(contested: Contested) -> None:
    contested.lose = 1
    contested.change = lambda _: None
    assert delete(contested) is None
    assert contested.get(UID, DEFAULT) is None


def test_a_row_that_changes_all_the_time_is_given_up(contested: Contested) -> None:
    contested.lose = 1000
    with pytest.raises(LostRace, match=f"{UID}/default changes all the time"):
        delete(contested)
