"""Rows that a run follows in memory: what is written, what a crash costs, what others change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stream_downloads.adapters.download_item import from_item, to_item
from stream_downloads.adapters.downloads_table import Due
from stream_downloads.adapters.shared_state import Lease
from stream_downloads.domain import transitions
from stream_downloads.domain.download import Download, Lane, Reason, Status, Step, Work
from stream_downloads.domain.pace import PACE
from stream_downloads.services import working_set
from stream_downloads.services.manage import oldest_due
from stream_downloads.services.steps import Change, Outcome, Verdict
from tests.support.memory import MemoryDownloads
from tests.support.rows import (
    AUDIO,
    DEFAULT,
    NOW,
    RECHECK,
    UID,
    due,
    in_progress,
    ready,
    requested,
    url_of,
)
from tests.support.world import SCHEDULED, World

MINUTE = 60.0
# A working set, and the one row that it follows.
Followed = tuple[working_set.WorkingSet, Download]


@pytest.fixture
def world() -> World:
    return World()


def polled(row: Download, percent: float = 40.0, poll_at: float = NOW + 90) -> Download:
    """Return the row after a list that shows progress, a minute after the create."""
    return transitions.listed_in_progress(row, percent, poll_at, NOW + 60)


def followed(world: World, **upload: Any) -> str:
    """Return a video whose download is being made, in a stack in which no run was started."""
    uid = world.simulator.upload(**upload)
    world.deliver_webhooks()
    return uid


def writes(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Download]:
    """Collect the rows that are written from now on."""
    saved: list[Download] = []
    save = MemoryDownloads.save

    def noted(table: MemoryDownloads, row: Download) -> Download:
        saved.append(row)
        return save(table, row)

    monkeypatch.setattr(type(world.downloads), "save", noted)
    return saved


def kept(row: Download, percent: float = 40.0, poll_at: float = NOW + 90) -> Download:
    """Return the row that is kept in memory after a list that shows progress."""
    found = transitions.followed(row, polled(row, percent, poll_at))
    assert found is not None
    return found


def test_progress_alone_is_kept_in_memory_and_the_index_keeps_its_time() -> None:
    row = kept(in_progress())
    work = Work(Step.LIST, NOW + 90, indexed_at=NOW + 60)
    assert row == replace(row, percent_complete=40.0, work=work)
    again = kept(row, 50.0, NOW + 200)
    assert again.work == replace(work, due_at=NOW + 200)


FAILING = transitions.try_again(in_progress(), NOW, Reason("x", "y"), NOW)
ROW = in_progress()
NOT_PROGRESS: dict[str, tuple[Download, Callable[[Download], Download]]] = {
    "it is ready": (ROW, lambda row: transitions.listed_ready(row, url_of(), RECHECK, NOW + 60)),
    "it failed": (ROW, lambda row: transitions.listed_failed(row, NOW + 60)),
    "it is not listed": (ROW, lambda row: transitions.unlisted(row, NOW + 60)),
    "it took a day": (
        ROW,
        lambda row: transitions.listed_in_progress(row, 4.0, NOW + 90_000, NOW + 90_000),
    ),
    "a failure is over": (FAILING, polled),
    "the create is confirmed": (in_progress(creation=None), polled),
    "the index would come too late": (ROW, lambda row: polled(row, poll_at=NOW + 59)),
    "it is checked": (ready(), lambda _: ready(work=Work(Step.RECHECK, NOW + 1))),
}


@pytest.mark.parametrize("case", NOT_PROGRESS)
def test_anything_but_progress_is_written_at_once(case: str) -> None:
    before, step = NOT_PROGRESS[case]
    assert transitions.followed(before, step(before)) is None


def test_a_poll_at_the_time_in_the_index_is_kept_in_memory() -> None:
    assert kept(in_progress(), poll_at=NOW + 60).due_at == NOW + 60


def test_a_row_keeps_its_time_beside_that_of_the_index() -> None:
    row = kept(in_progress())
    assert from_item(to_item(row)) == row
    assert to_item(row)["_due_at"] == to_item(in_progress())["_due_at"]


def test_a_run_writes_the_progress_once_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    uid = followed(world, generation_seconds=600.0)
    saved = writes(world, monkeypatch)
    world.poll(55.0)
    assert world.simulator.counts()["list downloads"] >= 2
    assert len(saved) == 1
    row = world.downloads.rows[uid, DEFAULT]
    assert (row.percent_complete or 0) > 3
    assert row.indexed_at
    assert row.indexed_at < world.clock()
    assert row.due_at
    assert row.due_at > world.clock()


def test_a_run_goes_on_where_the_one_before_has_stopped() -> None:
    world = World()
    followed(world, generation_seconds=600.0)
    for _ in range(3):
        world.poll(55.0, command=SCHEDULED)
        [row] = world.downloads.rows.values()
        polls = world.simulator.counts()["list downloads"]
        # Nothing is due yet, whatever the index says.
        world.poll(0.0)
        assert world.simulator.counts()["list downloads"] == polls
        world.clock.now = max(world.clock.now, row.due_at or 0.0)


def test_a_function_that_dies_costs_one_more_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    followed(world, generation_seconds=600.0)
    write = working_set.WorkingSet.write
    monkeypatch.setattr(working_set.WorkingSet, "write", die)
    with pytest.raises(Died):
        world.poll(55.0)
    monkeypatch.setattr(working_set.WorkingSet, "write", write)
    learned = world.service.pace.read().samples[DEFAULT]
    assert not learned, "what was lost with the memory is learned later"
    polls = world.simulator.counts()["list downloads"]
    world.clock.sleep(MINUTE)
    world.poll(0.0)
    assert world.simulator.counts()["list downloads"] == polls + 1
    world.clock.sleep(MINUTE)
    assert len(world.control.read(PACE).value["default"]["samples"]) == 1


class Died(BaseException):
    """The function was killed."""


def die(*_: Any) -> None:
    raise Died


def test_what_an_operator_wants_meanwhile_is_noticed_in_seconds() -> None:
    world = World()
    uid = followed(world, generation_seconds=600.0)
    wanted_at = world.clock() + 20.0

    def delete() -> None:
        world.clock.next_event = lambda: None
        row = world.downloads.rows[uid, DEFAULT]
        world.downloads.save(transitions.delete(row, world.clock()))

    world.clock.next_event, world.clock.happen = lambda: wanted_at, delete
    world.poll(55.0)
    assert world.downloads.rows[uid, DEFAULT].status is Status.DELETED
    deleted_at = [call.at for call in world.simulator.calls if call.name == "delete downloads"]
    assert deleted_at[0] - wanted_at < 6


def read_the_one_row(world: World) -> Followed:
    """Return the one row that is due within five minutes, and the working set that has read it."""
    rows = working_set.WorkingSet(world.downloads)
    rows.read("live-look", NOW + 300, NOW + 300)
    [row] = rows.due(["live-look"], NOW + 300)
    return rows, row


def test_a_run_reads_64_due_rows_of_a_queue_and_follows_80() -> None:
    table = MemoryDownloads()
    rows = working_set.WorkingSet(table)
    polls = [in_progress(f"{number:032x}") for number in range(65)]
    for read, has_more in [(63, False), (64, True), (65, True)]:
        for row in polls[:read]:
            table.add(row)
        assert rows.read("live-look", NOW + 60, NOW + 60) is has_more
        assert len(rows.due(["live-look"], NOW + 60)) == min(64, read)
    for number in range(20):
        table.add(requested(f"{number:032x}", AUDIO))
    rows.read("live-create", NOW, NOW)
    for number in range(80):
        assert rows.can_follow
        row = in_progress(f"{number:032x}")
        rows.take([row], Outcome(Verdict.ANSWERED, followed=(kept(row),)))
    assert not rows.can_follow


def test_polls_that_fall_due_within_a_second_of_another_are_sent_with_it() -> None:
    table = MemoryDownloads()
    rows = working_set.WorkingSet(table)
    queues = ["live-look", "live-create"]
    for number, (row, seconds) in enumerate(
        [
            *((in_progress(), 0.0), (in_progress(), 0.5), (in_progress(), 1.0)),
            *((in_progress(), 1.1), (requested(), 0.5), (FAILING, 0.5)),
            (transitions.create_sent(requested(), NOW), 0.5),
            (in_progress(work=Work(Step.CREATE, NOW)), 0.5),
            (in_progress(UID, AUDIO), 2.5),
        ]
    ):
        table.add(replace(due(row, NOW + seconds), video_uid=f"{number % 8:032x}"))
    for queue in queues:
        rows.read(queue, NOW + 9, NOW + 9)
    assert rows.due(queues, NOW - 1) == []
    sent = [row.due_at - NOW for row in rows.due(queues, NOW) if row.due_at]
    assert sent == [0.0, 0.5, 1.0, 2.5], "the last one is of the first one's video"


@pytest.fixture
def followed_row(world: World) -> Followed:
    """Return the one row, polled and not written, and the working set that holds it."""
    followed(world, generation_seconds=600.0)
    rows, row = read_the_one_row(world)
    rows.take([row], Outcome(Verdict.ANSWERED, followed=(kept(row),)))
    return rows, kept(row)


def again(rows: working_set.WorkingSet) -> list[Download]:
    """Read again, and return what is due within five minutes."""
    rows.read("live-look", NOW + 300, NOW + 300)
    return rows.due(["live-look"], NOW + 300)


@pytest.mark.parametrize("verdict", [Verdict.NOT_SENT, Verdict.FAILED, Verdict.LOST_RACE])
def test_what_others_wrote_meanwhile_stands(
    verdict: Verdict, world: World, followed_row: Followed
) -> None:
    rows, row = followed_row
    rows.take([row], Outcome(verdict))
    changed = world.downloads.save(replace(row, name="another"))
    assert rows.write(map) == (set() if verdict is Verdict.LOST_RACE else {row.key})
    assert world.downloads.rows[row.key] == changed
    assert again(rows) == [changed]


def test_what_others_wrote_is_read_and_not_written_again(
    world: World, followed_row: Followed
) -> None:
    rows, row = followed_row
    changed = world.downloads.save(transitions.delete(row, NOW + 200))
    assert again(rows) == [changed]
    assert rows.write(map) == set()
    assert world.downloads.rows[row.key] == changed


def test_an_index_that_shows_an_older_time_takes_no_progress_back(
    world: World, followed_row: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, row = followed_row
    monkeypatch.setattr(world.downloads, "due", lambda *_: [Due(row.key, NOW)])
    assert again(rows) == [row]
    for _ in range(2):
        assert rows.write(map) == set()
        assert world.downloads.rows[row.key] == replace(row, version=row.version + 1)


def test_rows_in_memory_are_not_read_again(
    world: World, followed_row: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, row = followed_row
    monkeypatch.setattr(world.downloads, "read", die)
    assert again(rows) == [row]
    rows.take([row], Outcome(Verdict.FAILED))
    assert again(rows) == []


def test_of_two_downloads_of_a_job_the_one_that_did_not_change_waits_for_the_next_run() -> None:
    table = MemoryDownloads()
    table.add(in_progress())
    table.add(in_progress(UID, AUDIO))
    rows = working_set.WorkingSet(table)
    audio, default = again(rows)
    changed = replace(audio, name="another")
    rows.take([audio, default], Outcome(Verdict.ANSWERED, changes=(Change(audio, changed),)))
    assert again(rows) == [changed]


def test_the_number_of_rows_not_yet_written_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_set, "FOLLOWED_AT_MOST", 3)
    world = World()
    for _ in range(40):
        followed(world, generation_seconds=900.0)
    world.poll(55.0)
    behind = [row for row in world.downloads.rows.values() if row.work and row.work.indexed_at]
    # A batch of 16 begins while there is room.
    assert 3 <= len(behind) <= 3 + 16


@pytest.mark.parametrize("window", [0.0, 55.0])
@pytest.mark.parametrize("lane", Lane)
def test_rows_that_are_followed_hide_no_others(
    lane: Lane, window: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working_set, "DUE_AT_MOST", 2)
    world = World()
    slow = [in_progress(f"{number:032x}", lane=lane) for number in range(5)]
    for row in slow:
        world.downloads.add(kept(due(row, NOW + 1), poll_at=NOW + 3000))
    uid = world.simulator.upload(generation_seconds=1.0, webhook_delays=())
    world.downloads.add(due(requested(uid, lane=lane), NOW + 2))
    world.clock.sleep(5.0)
    world.poll(window)
    assert world.simulator.counts()["create download"] == 1
    assert {world.downloads.rows[row.key].version for row in slow} == {1}


def test_both_downloads_of_a_video_share_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(download_types=(DEFAULT, AUDIO))
    uid = followed(world, generation_seconds={"default": 300.0, "audio": 200.0})
    of_video = MemoryDownloads.of_video
    monkeypatch.setattr(MemoryDownloads, "of_video", die)  # it would read what is older
    world.poll(55.0)
    monkeypatch.setattr(MemoryDownloads, "of_video", of_video)
    rows = world.downloads.of_video(uid)
    assert [row.percent_complete for row in rows if (row.percent_complete or 0) < 5] == []
    assert [row.version for row in rows] == [3, 3]


def test_a_row_that_could_not_be_read_or_changed_is_noticed_when_others_write_it() -> None:
    world = World()
    followed(world, generation_seconds=600.0)
    rows, row = read_the_one_row(world)
    rows.take([row], Outcome(Verdict.FAILED))
    assert rows.due(["live-look"], NOW + 300) == []
    assert again(rows) == [], "it waits for the next run"
    changed = world.downloads.save(transitions.delete(row, NOW + 200))
    assert again(rows) == [changed]


def test_an_entry_that_comes_twice_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    followed(world, generation_seconds=600.0)
    due_once = MemoryDownloads.due

    def twice(table: MemoryDownloads, *arguments: Any) -> Any:
        return (entry for found in due_once(table, *arguments) for entry in (found, found))

    monkeypatch.setattr(MemoryDownloads, "due", twice)
    world.clock.sleep(MINUTE)
    assert world.poll(0.0).requests == 1
    assert oldest_due(world.service, ["live-look"]) is None


def test_what_was_learned_is_written_before_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    followed(world, generation_seconds=600.0)
    world.clock.sleep(MINUTE)
    seen: list[int] = []
    release = Lease.release

    def look(lease: Lease, *, completed: bool) -> None:
        seen.append(world.control.read(PACE).version)
        release(lease, completed=completed)

    monkeypatch.setattr(Lease, "release", look)
    world.poll(0.0)
    assert seen == [1]


def test_the_status_of_the_stack_counts_no_row_that_waits_for_its_poll() -> None:
    world = World()
    followed(world, generation_seconds=600.0)
    world.poll(55.0)
    assert list(world.downloads.due("live-look", world.clock(), 10)), "the index has it due"
    assert oldest_due(world.service, ["live-look"]) is None
    [row] = world.downloads.rows.values()
    world.clock.sleep(3600.0)
    assert oldest_due(world.service, ["live-look"]) == row.due_at
