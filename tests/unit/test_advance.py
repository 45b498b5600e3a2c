"""One row, one step, one request: what every answer of Cloudflare makes of the row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import Grant
from stream_downloads.adapters.stream_api import RefusalKind, Refused
from stream_downloads.domain import download, transitions
from stream_downloads.domain.download import Download, ErrorCode, Status, Step
from stream_downloads.domain.polling import Pace
from stream_downloads.domain.request_budget import USE_WITHIN, Asker
from stream_downloads.domain.transitions import CREATE_SETTLES_AFTER, DAY, GONE_GRACE
from stream_downloads.services.steps import (
    LONGEST_RECORDING_SECONDS,
    VERIFY_AFTER,
    Outcome,
    Verdict,
)
from tests.rows import AUDIO, DEFAULT, NOW, in_progress, ready, requested, url_of
from tests.simulator import Fault
from tests.world import World

PACE = Pace.of({})
SECONDS = 10.0
CALLS = {
    Step.CREATE: "create download",
    Step.LIST: "list downloads",
    Step.VERIFY: "list downloads",
    Step.CONFIRM: "get video",
    Step.DELETE: "delete downloads",
}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def uid(world: World) -> str:
    """A ready video of which nobody was told, and whose downloads take a minute."""
    return world.simulator.upload(webhook_delays=(), generation_seconds=60.0)


def kept(world: World, row: Download) -> Download:
    """Put a row into the table as it is; with its version."""
    world.downloads.add(row)
    there = world.downloads.get(*row.key)
    assert there is not None
    return there


def advance(world: World, *rows: Download, grant: Grant | None = None) -> Outcome:
    grant = grant or world.service.budget.take(1, Asker.OPERATOR)
    return world.service.advancer().advance(rows, grant, PACE, SECONDS)


def advanced(world: World, row: Download) -> Download:
    """The row after its next step, as it is in the table then."""
    advance(world, kept(world, row))
    after = world.downloads.get(*row.key)
    assert after is not None
    return after


def created(world: World, uid: str, kind: download.DownloadType = DEFAULT) -> Download:
    """A row whose download was really created, and looked at when it is due."""
    advance(world, kept(world, requested(uid, kind)))
    row = world.downloads.get(uid, kind)
    assert row is not None
    return row


# --- Create


def test_a_create_is_one_request_and_puts_the_row_in_progress(world: World, uid: str) -> None:
    outcome = advance(world, kept(world, requested(uid)))
    [row] = outcome.rows
    assert (outcome.verdict, row.status, row.step) == (
        Verdict.ANSWERED,
        Status.INPROGRESS,
        Step.LIST,
    )
    assert (row.created_at, row.url) == (NOW, None)
    assert NOW < (row.due_at or 0) <= NOW + 240
    assert world.simulator.counts() == {"create download": 1}


@pytest.mark.parametrize("shape", ["keyed", "flat"])
def test_a_create_never_publishes_although_its_answer_says_ready(
    world: World, uid: str, shape: Any
) -> None:
    world.simulator.settings.answer_shape = shape
    row = created(world, uid)
    world.clock.sleep(60)
    [row] = advance(world, replace(row, step=Step.CREATE)).rows
    assert (row.status, row.url, row.percent_complete) == (Status.INPROGRESS, None, 100.0)
    assert row.due_at == world.clock()  # a list may publish it, now
    [row] = advance(world, row).rows
    assert (row.status, row.url) == (Status.READY, url_of(uid))


def test_a_download_that_was_there_already_teaches_no_pace(world: World, uid: str) -> None:
    row = created(world, uid)
    world.clock.sleep(30)
    [row] = advance(world, replace(row, step=Step.CREATE)).rows
    assert advance(world, row).samples == ()


def test_a_create_is_written_down_before_it_is_sent(world: World, uid: str) -> None:
    row = kept(world, requested(uid))
    seen: list[Download | None] = []
    send = world.service.stream.create_download

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append(world.downloads.get(uid, DEFAULT))
        return send(*arguments, **options)

    world.service.stream.create_download = spy  # type: ignore[method-assign]
    advance(world, row)
    [before] = seen
    assert before is not None
    assert (before.step, before.sent_at) == (Step.LIST, NOW)
    assert before.due_at == NOW + CREATE_SETTLES_AFTER


def test_a_stale_row_is_not_created_again(world: World, uid: str) -> None:
    stale = kept(world, requested(uid))
    advance(world, stale)
    assert advance(world, stale) == Outcome(Verdict.LOST_RACE)
    assert world.simulator.counts() == {"create download": 1}


def interrupted(world: World, row: Download, error: Exception | None = None) -> Outcome:
    """Advance by a create during which somebody deletes the row."""

    def create(*_: Any, **__: Any) -> Any:
        there = world.downloads.get(*row.key)
        assert there is not None
        world.downloads.save(transitions.delete(there, NOW))
        if error:
            raise error
        return {}

    world.service.stream.create_download = create  # type: ignore[method-assign]
    return advance(world, row)


def test_what_somebody_else_wrote_during_the_request_stands(world: World, uid: str) -> None:
    assert interrupted(world, kept(world, requested(uid))) == Outcome(Verdict.LOST_RACE)
    row = world.downloads.get(uid, DEFAULT)
    assert row is not None
    # The create has just been sent: the delete waits until it is over.
    assert (row.status, row.due_at) == (Status.DELETING, NOW + CREATE_SETTLES_AFTER)


def test_a_429_ends_the_run_even_if_its_row_is_somebody_elses_by_then(
    world: World, uid: str
) -> None:
    throttled = Refused("create download", 429, RefusalKind.THROTTLED)
    outcome = interrupted(world, kept(world, requested(uid)), throttled)
    assert outcome == Outcome(Verdict.THROTTLED)


def test_a_refusal_without_a_reason_gets_our_own(world: World, uid: str) -> None:
    def create(*_: Any, **__: Any) -> Any:
        raise Refused("create download", 422, RefusalKind.REJECTED)

    world.service.stream.create_download = create  # type: ignore[method-assign]
    many = transitions.REFUSALS_AT_LEAST
    row = kept(world, requested(uid, refused_since=NOW - DAY, attempts=many))
    [row] = advance(world, row).rows
    assert (row.error_code, row.error_message) == (ErrorCode.REFUSED, "Cloudflare answered 422.")


# --- Every fault

ODD = {
    Fault.STATUS_UNKNOWN,
    Fault.PERCENT_NULL,
    Fault.PERCENT_OVER_100,
    Fault.PERCENT_NEGATIVE,
    Fault.PERCENT_TEXT,
    Fault.PERCENT_NAN,
    Fault.URL_MISSING,
    Fault.URL_FOREIGN,
    Fault.URL_LOOKALIKE,
    Fault.URL_HTTP,
    Fault.URL_PORT,
    Fault.URL_USERINFO,
    Fault.URL_OTHER_UID,
}
CREDENTIALS = {Fault.UNAUTHORIZED, Fault.FORBIDDEN, Fault.MALFORMED_CREDENTIALS}
THROTTLED = {fault for fault in Fault if fault.name.startswith("THROTTLED")}
REFUSALS = {Fault.NOT_FOUND, Fault.CONFLICT, Fault.EXISTS, Fault.NOT_READY}
NOT_SENT = {Fault.CANNOT_CONNECT}
AMBIGUOUS = set(Fault) - ODD - CREDENTIALS - THROTTLED - REFUSALS - NOT_SENT


def faulty(world: World, row: Download, fault: Fault) -> tuple[Verdict, Download]:
    """The verdict, and the row afterwards, if that goes wrong with its next request."""
    assert row.step is not None
    world.simulator.faults.script(fault, calls=[CALLS[row.step]])
    outcome = advance(world, kept(world, row))
    after = world.downloads.get(*row.key)
    assert after is not None
    return outcome.verdict, after


@pytest.mark.parametrize("fault", sorted(AMBIGUOUS))
def test_an_ambiguous_create_is_followed_by_a_list_once_it_is_settled(
    world: World, uid: str, fault: Fault
) -> None:
    verdict, row = faulty(world, requested(uid), fault)
    assert (verdict, row.status, row.step, row.attempts) == (
        Verdict.FAILED,
        Status.REQUESTED,
        Step.LIST,
        1,
    )
    assert (row.due_at or 0) >= NOW + CREATE_SETTLES_AFTER
    was_done = bool(world.simulator.downloads_made)
    world.clock.now = row.due_at or 0
    [row] = advance(world, row).rows
    assert row.step is (Step.LIST if was_done else Step.CREATE)
    assert row.status is (Status.REQUESTED if not was_done else Status.INPROGRESS)
    assert world.simulator.counts() == {"create download": 1, "list downloads": 1}


@pytest.mark.parametrize("fault", sorted(ODD))
def test_oddities_in_the_answer_to_a_create_do_not_matter(
    world: World, uid: str, fault: Fault
) -> None:
    verdict, row = faulty(world, requested(uid), fault)
    assert (verdict, row.status, row.step, row.url) == (
        Verdict.ANSWERED,
        Status.INPROGRESS,
        Step.LIST,
        None,
    )


def test_a_create_that_never_left_is_tried_again(world: World, uid: str) -> None:
    verdict, row = faulty(world, requested(uid), Fault.CANNOT_CONNECT)
    assert (verdict, row.step, row.attempts, row.sent_at) == (
        Verdict.FAILED,
        Step.CREATE,
        1,
        None,
    )
    assert NOW <= (row.due_at or 0) <= NOW + 30


@pytest.mark.parametrize("fault", [Fault.CONFLICT, Fault.EXISTS])
def test_a_create_of_what_exists_is_followed_by_a_list(
    world: World, uid: str, fault: Fault
) -> None:
    _, row = faulty(world, requested(uid), fault)
    assert (row.status, row.step, row.due_at) == (Status.INPROGRESS, Step.LIST, NOW)


def test_a_create_of_an_unknown_video_asks_for_the_video(world: World, uid: str) -> None:
    _, row = faulty(world, requested(uid), Fault.NOT_FOUND)
    assert (row.status, row.step, row.due_at) == (Status.REQUESTED, Step.CONFIRM, NOW)


def test_a_create_that_comes_too_early_is_tried_again_for_a_day(world: World, uid: str) -> None:
    _, row = faulty(world, requested(uid), Fault.NOT_READY)
    assert (row.status, row.step, row.refused_since) == (Status.REQUESTED, Step.CREATE, NOW)
    while row.status is Status.REQUESTED:
        world.clock.now = row.due_at or 0.0
        world.simulator.faults.script(Fault.NOT_READY, calls=["create download"])
        [row] = advance(world, row).rows
        world.simulator.faults.clear()
    assert DAY <= world.clock() - NOW < DAY + 3600
    assert (row.status, row.error_code) == (Status.ERROR, "10005")
    assert row.error_message == "Bad Request: The video is not ready to view"


STEPS = {
    Step.CREATE: requested(),
    Step.LIST: in_progress(),
    Step.VERIFY: ready(step=Step.VERIFY, due_at=NOW),
    Step.CONFIRM: transitions.list_not_found(in_progress(), NOW),
    Step.DELETE: transitions.delete(in_progress(), NOW),
}


@pytest.fixture(params=STEPS)
def row(request: pytest.FixtureRequest, uid: str) -> Download:
    """A row before each of the steps."""
    return replace(STEPS[request.param], video_uid=uid)


@pytest.mark.parametrize("fault", sorted(CREDENTIALS))
def test_refused_credentials_leave_the_row_as_it_was(
    world: World, row: Download, fault: Fault
) -> None:
    verdict, after = faulty(world, row, fault)
    assert verdict is Verdict.CREDENTIALS
    assert replace(after, version=0) == row


@pytest.mark.parametrize("fault", sorted(THROTTLED))
def test_a_429_closes_the_gate_and_leaves_the_row_as_it_was(
    world: World, row: Download, fault: Fault
) -> None:
    verdict, after = faulty(world, row, fault)
    assert verdict is Verdict.THROTTLED
    assert replace(after, version=0) == row
    blocked_until = world.service.budget.state()["blocked_until"]
    seconds = {Fault.THROTTLED: 60, Fault.THROTTLED_HUGE: 900}.get(fault, 300)
    assert seconds <= blocked_until - NOW <= seconds + 3


@pytest.mark.parametrize("fault", sorted((AMBIGUOUS | NOT_SENT) - {Fault.RESULT_NULL}))
@pytest.mark.parametrize("step", [Step.LIST, Step.VERIFY, Step.CONFIRM])
def test_a_read_that_fails_is_tried_again(world: World, uid: str, step: Step, fault: Fault) -> None:
    before = replace(STEPS[step], video_uid=uid)
    verdict, after = faulty(world, before, fault)
    assert (verdict, after.status, after.step, after.attempts) == (
        Verdict.FAILED,
        before.status,
        step,
        1,
    )
    assert after.url == before.url
    assert NOW <= (after.due_at or 0) <= NOW + 30 + SECONDS


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.RESET_AFTER, Fault.CONFLICT])
def test_a_delete_that_fails_is_tried_again(world: World, uid: str, fault: Fault) -> None:
    verdict, after = faulty(world, replace(STEPS[Step.DELETE], video_uid=uid), fault)
    assert (verdict, after.status, after.step) == (Verdict.FAILED, Status.DELETING, Step.DELETE)


@pytest.mark.parametrize("step", [Step.LIST, Step.VERIFY])
def test_a_list_that_knows_nothing_asks_for_the_video(world: World, uid: str, step: Step) -> None:
    before = replace(STEPS[step], video_uid=uid)
    _, after = faulty(world, before, Fault.NOT_FOUND)
    assert (after.status, after.step, after.url) == (before.status, Step.CONFIRM, before.url)


# --- List


def test_a_list_follows_the_progress_and_publishes_the_url(world: World, uid: str) -> None:
    row = created(world, uid)
    world.clock.sleep(30)
    outcome = advance(world, row)
    [row] = outcome.rows
    assert (row.status, row.percent_complete, row.url) == (Status.INPROGRESS, 50.0, None)
    assert [kind for kind, _ in outcome.samples] == [DEFAULT]
    world.clock.sleep(30)
    outcome = advance(world, row)
    [row] = outcome.rows
    assert (row.status, row.percent_complete, row.url) == (Status.READY, 100.0, url_of(uid))
    assert outcome.samples == ()  # it has taught already
    assert (row.step, row.due_at) == (Step.VERIFY, world.clock() + VERIFY_AFTER)


@pytest.mark.parametrize("fault", sorted(ODD))
def test_oddities_in_a_list_neither_publish_nor_end_anything(
    world: World, uid: str, fault: Fault
) -> None:
    row = created(world, uid)
    world.clock.sleep(60 if fault.name.startswith("URL") else 30)
    world.simulator.faults.script(fault)
    [row] = advance(world, row).rows
    assert (row.status, row.step, row.url) == (Status.INPROGRESS, Step.LIST, None)
    assert (row.due_at or 0) >= world.clock()


def test_a_url_that_is_refused_for_a_day_is_an_error(world: World, uid: str) -> None:
    row = created(world, uid)
    world.clock.sleep(60)
    world.simulator.faults.at_random(1.0, seed=0, among=[Fault.URL_LOOKALIKE])
    began = world.clock()
    while row.status is Status.INPROGRESS:
        [row] = advance(world, row).rows
        assert row.url is None
        world.clock.now = row.due_at or world.clock()
    assert DAY <= world.clock() - began < DAY + 3600
    assert (row.status, row.error_code, row.url) == (Status.ERROR, ErrorCode.URL_REFUSED, None)


def test_one_list_serves_all_types_of_a_video(world: World, uid: str) -> None:
    rows = [created(world, uid), created(world, uid, AUDIO)]
    world.clock.sleep(60)
    saved = advance(world, *rows).rows
    assert {row.key: row.url for row in saved} == {
        (uid, DEFAULT): url_of(uid),
        (uid, AUDIO): url_of(uid, AUDIO),
    }
    assert world.simulator.counts()["list downloads"] == 1


def test_one_list_serves_also_the_type_that_was_not_due(world: World, uid: str) -> None:
    row = created(world, uid)
    created(world, uid, AUDIO)
    world.clock.sleep(60)
    assert {saved.download_type for saved in advance(world, row).rows} == {DEFAULT, AUDIO}


def test_a_create_that_may_still_be_under_way_is_not_judged_by_a_list(
    world: World, uid: str
) -> None:
    row = kept(world, replace(transitions.create_sent(requested(uid), NOW), due_at=NOW))
    assert advance(world, row) == Outcome(Verdict.ANSWERED)
    assert world.downloads.get(uid, DEFAULT) == row


def test_a_ready_download_that_is_being_made_again_is_looked_into(world: World, uid: str) -> None:
    created(world, uid)
    row = kept(world, ready(uid, AUDIO, step=Step.VERIFY, due_at=NOW))
    world.simulator.videos[uid].create("audio", NOW)
    [row] = advance(world, row).rows
    assert (row.status, row.step, row.missing_since) == (Status.READY, Step.VERIFY, NOW)


def test_a_ready_row_is_not_written_by_every_look_at_the_other_type(world: World, uid: str) -> None:
    first = created(world, uid)
    world.clock.sleep(60)
    [first] = advance(world, first).rows
    audio = created(world, uid, AUDIO)
    world.clock.sleep(30)
    assert [row.key for row in advance(world, audio).rows] == [(uid, AUDIO)]
    assert world.downloads.get(uid, DEFAULT) == first


def test_a_race_that_is_lost_for_one_type_is_not_lost_for_the_other(world: World, uid: str) -> None:
    stale, audio = created(world, uid), created(world, uid, AUDIO)
    world.downloads.save(replace(stale, percent_complete=1.0))
    world.clock.sleep(60)
    outcome = advance(world, stale, audio)
    assert outcome.verdict is Verdict.ANSWERED
    assert [row.download_type for row in outcome.rows] == [AUDIO]


def test_a_list_that_loses_its_race_leaves_the_row_to_the_other(world: World, uid: str) -> None:
    stale = created(world, uid)
    world.downloads.save(transitions.delete(stale, NOW))
    world.clock.sleep(60)
    assert advance(world, stale) == Outcome(Verdict.LOST_RACE)
    there = world.downloads.get(uid, DEFAULT)
    assert there is not None
    assert there.status is Status.DELETING


def test_a_download_that_cloudflare_reports_as_failed_is_to_be_made_anew(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=(), failing_creates={"default": 1})
    row = created(world, uid)
    world.clock.sleep(60)
    [row] = advance(world, row).rows
    assert (row.status, row.step, row.recreations) == (Status.INPROGRESS, Step.DELETE, 1)
    world.clock.now = row.due_at or 0
    [row] = advance(world, row).rows
    assert (row.step, world.simulator.videos[uid].downloads) == (Step.CREATE, {})


@pytest.mark.parametrize(
    ("retention", "step", "after"),
    [
        (0.0, Step.VERIFY, VERIFY_AFTER),
        (DAY, Step.DELETE, DAY),
        (30 * DAY, Step.VERIFY, VERIFY_AFTER),
    ],
)
def test_a_ready_download_is_verified_or_deleted_one_day(
    retention: float, step: Step, after: float
) -> None:
    world = World(retention=retention)
    row = created(world, world.simulator.upload(webhook_delays=()))
    world.clock.sleep(60)
    [row] = advance(world, row).rows
    assert (row.step, row.due_at) == (step, world.clock() + after)


def test_what_was_verified_is_verified_again_until_its_retention_is_over() -> None:
    world = World(retention=10 * DAY)
    row = created(world, world.simulator.upload(webhook_delays=()))
    world.clock.sleep(60)
    [row] = advance(world, row).rows
    ready_at = world.clock()
    world.clock.now = row.due_at or 0
    [row] = advance(world, row).rows
    assert (row.status, row.ready_at) == (Status.READY, ready_at)
    assert (row.step, row.due_at) == (Step.DELETE, ready_at + 10 * DAY)
    world.clock.now = row.due_at or 0
    [row] = advance(world, row).rows
    assert (row.status, row.url) == (Status.DELETED, None)


@pytest.mark.parametrize(
    ("retention", "step", "after"),
    [(0.0, Step.VERIFY, VERIFY_AFTER), (8 * DAY, Step.DELETE, 3 * DAY)],
)
def test_a_longer_retention_saves_what_was_to_be_deleted(
    retention: float, step: Step, after: float
) -> None:
    world = World(retention=5 * DAY)
    row = created(world, world.simulator.upload(webhook_delays=()))
    world.clock.sleep(60)
    [row] = advance(world, row).rows
    world.clock.now = row.due_at or 0
    world.service = replace(world.service, retention=retention)
    requests = len(world.simulator.calls)
    [row] = advance(world, row).rows
    assert (row.status, row.step, row.due_at) == (Status.READY, step, world.clock() + after)
    assert row.url
    assert len(world.simulator.calls) == requests


# --- Confirm


def asked(uid: str) -> Download:
    return transitions.not_found(requested(uid), NOW)


def test_a_video_that_is_there_gets_its_create_and_its_facts(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=(), name="clip.mp4", private=True, creator="me")
    row = advanced(world, asked(uid))
    assert (row.step, row.due_at) == (Step.CREATE, NOW)
    assert (row.name, row.requires_signed_url, row.creator, row.duration_seconds) == (
        "clip.mp4",
        True,
        "me",
        30.0,
    )


def test_a_video_that_failed_ends_in_error_with_cloudflares_reason(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=(), error_code="ERR_NON_VIDEO")
    row = advanced(world, asked(uid))
    assert (row.status, row.error_code, row.reopens) == (Status.ERROR, "ERR_NON_VIDEO", True)
    assert row.error_message == "The file was not recognized as a valid video file"


def test_a_video_that_is_gone_ends_in_error_after_a_grace(world: World, uid: str) -> None:
    world.simulator.drop_video(uid)
    row = advanced(world, asked(uid))
    assert (row.status, row.step, row.due_at) == (
        Status.REQUESTED,
        Step.CONFIRM,
        NOW + GONE_GRACE,
    )
    world.clock.now = row.due_at or 0
    [row] = advance(world, row).rows
    assert (row.status, row.error_code) == (Status.ERROR, ErrorCode.VIDEO_GONE)


@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        (LONGEST_RECORDING_SECONDS, Status.REQUESTED),
        (LONGEST_RECORDING_SECONDS + 1, Status.ERROR),
    ],
)
def test_a_live_recording_over_four_hours_gets_no_download(
    world: World, seconds: float, status: Status
) -> None:
    uid = world.simulator.upload(webhook_delays=(), live_input="a", duration_seconds=seconds)
    row = advanced(world, asked(uid))
    assert row.status is status
    if status is Status.ERROR:
        assert row.error_code == ErrorCode.RECORDING_TOO_LONG


def test_a_confirm_serves_all_types_of_a_video(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=(), error_code="ERR_NON_VIDEO")
    rows = [
        kept(world, transitions.not_found(requested(uid, kind), NOW)) for kind in (DEFAULT, AUDIO)
    ]
    assert {row.status for row in advance(world, *rows).rows} == {Status.ERROR}
    assert world.simulator.counts() == {"get video": 1}


# --- Delete


@pytest.mark.parametrize("answer", ["empty", "not found"])
def test_what_is_not_there_counts_as_deleted(world: World, uid: str, answer: Any) -> None:
    world.simulator.settings.nothing_created = answer
    row = advanced(world, transitions.delete(in_progress(uid), NOW))
    assert (row.status, row.step) == (Status.DELETED, None)


def test_a_delete_takes_its_own_type_alone(world: World, uid: str) -> None:
    row = created(world, uid)
    created(world, uid, AUDIO)
    [row] = advance(world, world.downloads.save(transitions.delete(row, NOW))).rows
    assert row.status is Status.DELETED
    assert list(world.simulator.videos[uid].downloads) == ["audio"]


def test_the_url_goes_before_the_download_does(world: World, uid: str) -> None:
    world.simulator.faults.script(Fault.SERVER_ERROR, calls=["delete downloads"])
    world.service = replace(world.service, retention=DAY)
    row = advanced(world, ready(uid, step=Step.DELETE, due_at=NOW, ready_at=NOW - DAY))
    assert (row.status, row.url, row.step) == (Status.DELETING, None, Step.DELETE)


def test_a_delete_that_cloudflare_refuses_ends_in_error_after_a_day(world: World, uid: str) -> None:
    row = kept(world, transitions.delete(in_progress(uid), NOW))
    world.simulator.faults.at_random(1.0, seed=0, among=[Fault.NOT_READY])
    while row.status is Status.DELETING:
        [row] = advance(world, row).rows
        world.clock.now = row.due_at or world.clock()
    assert DAY <= world.clock() - NOW < DAY + 3600
    assert (row.status, row.error_code) == (Status.ERROR, download.ErrorCode.DELETE_REFUSED)


# --- What holds for every step


def test_a_grant_that_has_run_out_sends_nothing(world: World, row: Download) -> None:
    grant = world.service.budget.take(1, Asker.OPERATOR)
    world.clock.sleep(USE_WITHIN + 0.1)
    outcome = advance(world, kept(world, row), grant=grant)
    assert outcome.verdict is Verdict.NOT_SENT
    assert world.simulator.calls == []
    after = world.downloads.get(*row.key)
    assert after is not None
    assert (after.step, after.due_at) == (row.step, row.due_at)


def test_reading_the_secret_does_not_outlast_a_grant_unnoticed(world: World, row: Download) -> None:
    headers = world.service.credentials.headers

    def slowly() -> Any:
        world.clock.sleep(USE_WITHIN + 0.1)
        return headers()

    world.service.credentials.headers = slowly  # type: ignore[method-assign]
    assert advance(world, kept(world, row)).verdict is Verdict.NOT_SENT
    assert world.simulator.calls == []


def test_credentials_that_cannot_be_read_leave_the_row_as_it_was(
    world: World, row: Download
) -> None:
    def unavailable() -> Iterator[Any]:
        raise SecretUnavailable("secret arn: it cannot be read")

    world.service.credentials.headers = unavailable  # type: ignore[method-assign, assignment]
    before = kept(world, row)
    assert advance(world, before) == Outcome(Verdict.CREDENTIALS)
    assert world.downloads.get(*row.key) == before


def test_a_row_with_nothing_to_do_stays_as_it_is(world: World, uid: str) -> None:
    row = kept(world, ready(uid))
    assert advance(world, row) == Outcome(Verdict.ANSWERED, (row,))
    assert world.simulator.calls == []
