"""What webhooks, reconciliation and people want, written into the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.domain import transitions
from stream_downloads.domain.download import Download, Lane, Status, Step, VideoFacts
from stream_downloads.services import intents
from tests.memory import MemoryDownloads
from tests.rows import AUDIO, DEFAULT, NOW, UID, deleted, failed, in_progress, ready, requested

BOTH = (DEFAULT, AUDIO)
FACTS = VideoFacts(name="clip.mp4", duration_seconds=5.5)
REASON = ("ERR_NON_VIDEO", "not a video")


class Contested(MemoryDownloads):
    """A table in which somebody else writes the row first, so many times."""

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
    return intents.video_is_ready(table, UID, BOTH, FACTS, NOW + 60, lane=lane)


def has_failed(table: MemoryDownloads) -> list[Download]:
    return intents.video_has_failed(table, UID, BOTH, FACTS, *REASON, NOW + 60)


def test_a_ready_video_gets_a_row_for_each_wanted_type(table: Contested) -> None:
    opened = is_ready(table)
    assert opened == table.of_video(UID)[::-1]
    assert {row.key for row in opened} == {(UID, DEFAULT), (UID, AUDIO)}
    assert {(row.step, row.name, row.lane) for row in opened} == {
        (Step.CREATE, "clip.mp4", Lane.LIVE)
    }


def test_a_backfilled_video_waits_in_its_own_lane(table: Contested) -> None:
    assert {row.lane for row in is_ready(table, Lane.BACKFILL)} == {Lane.BACKFILL}


@pytest.mark.parametrize("there", [requested(), in_progress(), ready(), failed(), deleted()])
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


def test_a_row_that_ended_for_the_videos_sake_is_opened_again(table: Contested) -> None:
    has_failed(table)
    opened = is_ready(table)
    assert {(row.status, row.step, row.version) for row in opened} == {
        (Status.REQUESTED, Step.CREATE, 2)
    }


def test_a_failed_video_without_rows_gets_them_in_error(table: Contested) -> None:
    written = has_failed(table)
    assert {(row.status, row.error_code, row.error_message) for row in written} == {
        (Status.ERROR, *REASON)
    }
    assert has_failed(table) == []


def test_a_failed_video_with_rows_is_asked_for_first(table: Contested) -> None:
    table.add(in_progress())
    table.add(ready(UID, AUDIO))
    [row] = has_failed(table)
    assert (row.key, row.status, row.step) == ((UID, DEFAULT), Status.INPROGRESS, Step.CONFIRM)


def test_a_lost_race_is_read_again_and_judged_anew(table: Contested) -> None:
    table.add(in_progress())
    table.lose = 2
    row = table.get(UID, DEFAULT)
    assert row is not None
    changed = intents.change(table, row, lambda row: transitions.delete(row, NOW))
    assert changed is not None
    assert (changed.status, changed.version) == (Status.DELETING, 4)


def test_a_change_that_somebody_else_has_made_is_not_made_twice(table: Contested) -> None:
    table.add(in_progress())
    table.lose = 1
    table.change = lambda row: transitions.delete(row, NOW)
    row = table.get(UID, DEFAULT)
    assert row is not None
    assert intents.change(table, row, lambda row: transitions.delete(row, NOW)) is None


def test_a_row_that_a_person_has_deleted_stays_deleted(table: Contested) -> None:
    table.add(in_progress())
    table.lose = 1
    table.change = lambda _: None
    row = table.get(UID, DEFAULT)
    assert row is not None
    assert intents.change(table, row, lambda row: transitions.delete(row, NOW)) is None
    assert table.get(UID, DEFAULT) is None


def test_a_row_that_changes_all_the_time_is_given_up(table: Contested) -> None:
    table.add(in_progress())
    table.lose = 1000
    row = table.get(UID, DEFAULT)
    assert row is not None
    with pytest.raises(LostRace, match=f"{UID}/default changes all the time"):
        intents.change(table, row, lambda row: transitions.delete(row, NOW))
