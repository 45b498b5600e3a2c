"""Test each step of a row: one request, and the row after each answer of Cloudflare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stream_downloads.adapters.observability import Metric
from stream_downloads.adapters.shared_state import Grant
from stream_downloads.adapters.stream_api import DownloadState, RefusalKind, Refused
from stream_downloads.domain import transitions
from stream_downloads.domain.download import (
    Creation,
    Download,
    DownloadType,
    ErrorCode,
    Reason,
    Status,
    Step,
    Trouble,
    TroubleKind,
    Work,
    iso_time,
)
from stream_downloads.domain.pace import Pace
from stream_downloads.domain.request_budget import USE_WITHIN, Asker
from stream_downloads.domain.transitions import (
    CREATE_SETTLES_AFTER,
    DAY,
    REFUSALS_AT_LEAST,
    UNLISTED_GRACE,
)
from stream_downloads.services import steps
from stream_downloads.services.steps import (
    LONGEST_RECORDING_SECONDS,
    RECHECK_AFTER,
    Outcome,
    Verdict,
)
from tests.simulator import Fault
from tests.support.rows import (
    AUDIO,
    DEFAULT,
    NOW,
    UID,
    in_progress,
    ready,
    requested,
    trouble_of,
    url_of,
)
from tests.support.world import World

SECONDS = 10.0
CALLS = {
    Step.CREATE: "create download",
    Step.LIST: "list downloads",
    Step.RECHECK: "list downloads",
    Step.GET_VIDEO: "get video",
    Step.DELETE: "delete downloads",
}
NOT_FOUND = Reason("10003", "Not Found: The requested resource was not found")
# A row before each of the steps.
BEFORE = {
    Step.CREATE: requested(),
    Step.LIST: in_progress(),
    Step.RECHECK: ready(),
    Step.GET_VIDEO: transitions.video_has_failed(in_progress(), NOW),
    Step.DELETE: transitions.delete(in_progress(), NOW),
}

ODD = {fault for fault in Fault if fault.name.startswith(("STATUS_", "PERCENT_", "URL_"))}
BAD_URLS = {fault for fault in ODD if fault.name.startswith("URL_")}
CREDENTIALS = {Fault.UNAUTHORIZED, Fault.FORBIDDEN, Fault.MALFORMED_CREDENTIALS}
THROTTLED = {fault for fault in Fault if fault.name.startswith("THROTTLED")}
REFUSALS = {Fault.NOT_FOUND, Fault.CONFLICT, Fault.EXISTS, Fault.NOT_READY}
NEVER_ARRIVED = {Fault.CANNOT_CONNECT}
AMBIGUOUS = set(Fault) - ODD - CREDENTIALS - THROTTLED - REFUSALS - NEVER_ARRIVED


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def uid(world: World) -> str:
    """Upload a video that is ready, without a webhook, and whose downloads take a minute."""
    return world.simulator.upload(webhook_delays=(), generation_seconds=60.0)


@pytest.fixture(params=BEFORE)
def row(request: pytest.FixtureRequest, uid: str) -> Download:
    """Return a row of the video before each of the steps."""
    return replace(BEFORE[request.param], video_uid=uid)


def kept(world: World, row: Download) -> Download:
    """Put a row into the table as it is; return it with its version."""
    world.downloads.add(row)
    return in_table(world, row)


def in_table(world: World, row: Download) -> Download:
    """Return the row as it is in the table."""
    found = world.downloads.get(*row.key)
    assert found is not None
    return found


def granted(world: World) -> Grant:
    return world.service.gateway.permit(1, Asker.OPERATOR)


def perform(world: World, *rows: Download, grant: Grant | None = None) -> Outcome:
    return world.service.steps().perform(rows, grant or granted(world), Pace.of({}), SECONDS)


def performed(world: World, row: Download) -> Download:
    """Return the row of the table after its next step."""
    perform(world, row)
    return in_table(world, row)


def when_due(world: World, row: Download) -> Download:
    """Return the row after its next step, at the time when that is due."""
    world.clock.now = max(world.clock.now, row.due_at or 0.0)
    return performed(world, row)


def created(world: World, uid: str, kind: DownloadType = DEFAULT) -> Download:
    """Return a row whose download was really created."""
    return performed(world, kept(world, requested(uid, kind)))


def made_ready(world: World, uid: str) -> Download:
    """Return a row whose download was really created, and found ready a minute later."""
    row = created(world, uid)
    world.clock.sleep(60)
    return performed(world, row)


def faulty(world: World, row: Download, fault: Fault) -> Verdict:
    """Perform the next step of a row, with that fault; return the verdict."""
    assert row.step is not None
    world.simulator.faults.script(fault, calls=[CALLS[row.step]])
    return perform(world, kept(world, row)).verdict


def answer_creates(world: World, answer: Callable[[], dict[str, Any]]) -> None:
    """Let this answer all creates."""

    def create_download(*_: Any, **__: Any) -> Any:
        return answer()

    world.service.gateway.stream.create_download = create_download  # type: ignore[method-assign]


# --- Create


def test_a_create_is_one_request_and_puts_the_row_in_progress(world: World, uid: str) -> None:
    outcome = perform(world, kept(world, requested(uid)))
    assert outcome.verdict is Verdict.ANSWERED
    [(before, after)] = outcome.changes
    assert before.status is Status.REQUESTED
    assert after.status is Status.INPROGRESS
    assert after.version == in_table(world, after).version
    assert after.step is Step.LIST
    assert after.creation == Creation(NOW, accepted_at=NOW)
    assert NOW < (after.due_at or 0) <= NOW + 240
    assert world.simulator.counts() == {"create download": 1}


def test_a_download_is_polled_later_while_the_limit_is_nearly_used_up(world: World) -> None:
    first = []
    for load in (0.2, 0.9):
        uid = world.simulator.upload(webhook_delays=(), generation_seconds=60.0)
        row = kept(world, requested(uid))
        perform(world, row, grant=replace(granted(world), load=load))
        first.append(in_table(world, row).due_at or 0.0)
    assert first[0] + 5 < first[1]


@pytest.mark.parametrize("shape", ["keyed", "flat"])
def test_a_create_that_answers_ready_publishes_nothing(world: World, uid: str, shape: Any) -> None:
    world.simulator.settings.answer_shape = shape
    world.simulator.videos[uid].create("default", NOW - 60)
    row = created(world, uid)
    assert row == replace(row, status=Status.INPROGRESS, url=None, percent_complete=100.0)
    assert row.due_at == world.clock(), "a list may publish it now"
    assert performed(world, row).url == url_of(uid)


def test_a_download_that_was_there_already_teaches_no_pace(world: World, uid: str) -> None:
    world.simulator.videos[uid].create("default", NOW - 30)
    assert perform(world, created(world, uid)).samples == ()


def test_a_create_is_written_down_before_it_is_sent(world: World, uid: str) -> None:
    row = kept(world, requested(uid))
    seen: list[Download] = []

    def look() -> dict[str, Any]:
        seen.append(in_table(world, row))
        return {}

    answer_creates(world, look)
    perform(world, row)
    assert seen == [replace(transitions.create_sent(row, NOW), version=2)]


def test_a_stale_row_is_not_created_again(world: World, uid: str) -> None:
    stale = kept(world, requested(uid))
    perform(world, stale)
    assert perform(world, stale) == Outcome(Verdict.LOST_RACE)
    assert world.simulator.counts() == {"create download": 1}


@pytest.mark.parametrize("verdict", [Verdict.LOST_RACE, Verdict.THROTTLED])
def test_what_another_function_wrote_meanwhile_stands(
    world: World, uid: str, verdict: Verdict
) -> None:
    row = kept(world, requested(uid))

    def delete_meanwhile() -> dict[str, Any]:
        world.downloads.save(transitions.delete(in_table(world, row), NOW))
        if verdict is Verdict.THROTTLED:
            raise Refused("create download", 429, RefusalKind.THROTTLED)
        return {}

    answer_creates(world, delete_meanwhile)
    assert perform(world, row) == Outcome(verdict)
    # The create has just been sent: the delete waits until it is settled.
    assert in_table(world, row).work == Work(Step.DELETE, NOW + CREATE_SETTLES_AFTER)


def test_a_request_that_cannot_be_sent_gets_a_reason_of_our_own(world: World, uid: str) -> None:
    faulty(world, in_progress(uid), Fault.CANNOT_CONNECT)
    row = in_table(world, in_progress(uid))
    assert row.work
    assert row.work.trouble
    assert row.work.trouble.reason.code == "not_reached"


def test_a_download_that_is_ready_without_a_percentage_teaches_that_it_is_done() -> None:
    world = World()
    claims = {"default": {"percentComplete": None}}
    world.simulator.upload(generation_seconds=1.0, claims=claims)
    world.deliver_webhooks()
    world.clock.sleep(60.0)
    assert world.poll().ready == 1
    assert world.service.pace.read().samples[DEFAULT][0].longer_than == 0.0


def test_a_refusal_without_a_reason_gets_our_own(world: World, uid: str) -> None:
    def refuse() -> dict[str, Any]:
        raise Refused("create download", 422, RefusalKind.REJECTED)

    answer_creates(world, refuse)
    before = Trouble(TroubleKind.REFUSED, NOW - DAY, 19, NOT_FOUND)
    row = performed(world, kept(world, requested(uid, work=Work(Step.CREATE, NOW, 20, before))))
    assert row == replace(
        row, error_code=ErrorCode.REFUSED, error_message="Cloudflare answered 422."
    )


@pytest.mark.parametrize("fault", sorted(AMBIGUOUS))
def test_an_ambiguous_create_leads_to_a_list(world: World, uid: str, fault: Fault) -> None:
    assert faulty(world, requested(uid), fault) is Verdict.FAILED
    row = in_table(world, requested(uid))
    assert row.status is Status.REQUESTED
    assert row.work
    assert row.work == replace(row.work, step=Step.LIST, attempts=1)
    assert row.work.due_at >= NOW + CREATE_SETTLES_AFTER
    was_done = bool(world.simulator.downloads_made)
    row = when_due(world, row)
    assert row.step is (Step.LIST if was_done else Step.CREATE)
    assert row.status is (Status.INPROGRESS if was_done else Status.REQUESTED)
    assert world.simulator.counts() == {"create download": 1, "list downloads": 1}


@pytest.mark.parametrize("fault", sorted(ODD))
def test_oddities_in_a_create_answer_do_not_matter(world: World, uid: str, fault: Fault) -> None:
    assert faulty(world, requested(uid), fault) is Verdict.ANSWERED
    row = in_table(world, requested(uid))
    assert row == replace(row, status=Status.INPROGRESS, url=None)
    assert row.step is Step.LIST


def test_a_create_that_never_arrived_is_repeated(world: World, uid: str) -> None:
    assert faulty(world, requested(uid), Fault.CANNOT_CONNECT) is Verdict.FAILED
    row = in_table(world, requested(uid))
    assert row == requested(uid, work=row.work, version=row.version)
    assert row.step is Step.CREATE
    assert trouble_of(row) is TroubleKind.FAILING
    assert NOW <= (row.due_at or 0) <= NOW + 30


@pytest.mark.parametrize("fault", [Fault.CONFLICT, Fault.EXISTS])
def test_a_create_of_what_exists_leads_to_a_list(world: World, uid: str, fault: Fault) -> None:
    faulty(world, requested(uid), fault)
    row = in_table(world, requested(uid))
    assert row == replace(row, status=Status.INPROGRESS, work=Work(Step.LIST, NOW))
    assert row.creation == Creation(NOW, accepted_at=NOW, polled_at=NOW), "its age is unknown"


def test_a_create_of_an_unknown_video_checks_the_video(world: World, uid: str) -> None:
    faulty(world, requested(uid), Fault.NOT_FOUND)
    row = in_table(world, requested(uid))
    trouble = Trouble(TroubleKind.REFUSED, NOW, 1, NOT_FOUND)
    work = Work(Step.GET_VIDEO, NOW, 1, trouble)
    assert row == requested(uid, work=work, version=row.version)


def test_a_create_that_comes_too_early_is_repeated_for_a_day(world: World, uid: str) -> None:
    world.simulator.faults.script(Fault.NOT_READY, calls=["create download"], times=10_000)
    row = kept(world, requested(uid))
    while row.status is Status.REQUESTED:
        row = when_due(world, row)
    assert DAY <= world.clock() - NOW < DAY + 3600
    assert row.error_code == "10005"
    assert row.error_message == "Bad Request: The video is not ready to view"
    # A pause is at most 15 minutes, and the video is checked between two creates.
    assert 90 < world.simulator.counts()["create download"] < 200


# --- List


def test_a_list_follows_the_progress_and_publishes_the_url(world: World, uid: str) -> None:
    row = created(world, uid)
    world.clock.sleep(30)
    outcome = perform(world, row)
    [(_, row)] = outcome.changes
    assert row == replace(row, percent_complete=50.0, url=None)
    assert [key for key, _ in outcome.samples] == [(uid, DEFAULT)]
    world.clock.sleep(30)
    outcome = perform(world, row)
    [(_, row)] = outcome.changes
    assert row == replace(row, status=Status.READY, url=url_of(uid))
    assert row.work == Work(Step.RECHECK, world.clock() + RECHECK_AFTER)
    assert outcome.samples == (), "it has taught the pace already"


@pytest.mark.parametrize("fault", sorted(ODD))
def test_oddities_in_a_list_publish_and_end_nothing(world: World, uid: str, fault: Fault) -> None:
    row = created(world, uid)
    world.clock.sleep(60 if fault in BAD_URLS else 30)
    world.simulator.faults.script(fault)
    row = performed(world, row)
    assert row == replace(row, status=Status.INPROGRESS, url=None)
    assert row.step is Step.LIST
    assert (row.due_at or 0) >= world.clock()


def test_a_url_bad_for_a_day_is_an_error_and_teaches_the_pace_once(world: World, uid: str) -> None:
    row = created(world, uid)
    world.clock.sleep(60)
    world.simulator.faults.at_random(1.0, seed=0, among=[Fault.URL_LOOKALIKE])
    began, samples = world.clock(), 0
    while row.status is Status.INPROGRESS:
        world.clock.now = max(world.clock.now, row.due_at or 0.0)
        samples += len(perform(world, row).samples)
        row = in_table(world, row)
    assert DAY <= world.clock() - began < DAY + 3600
    assert row.error_code == ErrorCode.URL_REFUSED
    assert samples == 1


@pytest.mark.parametrize("fault", sorted(BAD_URLS))
def test_a_bad_url_raises_the_alarm_and_changes_nothing_that_consumers_see(
    world: World, uid: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[Metric] = []
    monkeypatch.setattr(steps, "record", recorded.append)
    row = before = made_ready(world, uid)
    world.simulator.faults.at_random(1.0, seed=0, among=[fault])
    for _ in range(2 * REFUSALS_AT_LEAST):
        row = when_due(world, row)
    assert row == replace(before, work=row.work, creation=row.creation, version=row.version)
    assert row.step is Step.RECHECK
    assert recorded == [Metric.URLS_REFUSED] * 2 * REFUSALS_AT_LEAST


def test_a_changed_url_makes_the_row_new_and_its_retention_begins_again() -> None:
    world = World(retention=8 * DAY)
    uid = world.simulator.upload(webhook_delays=())
    created(world, uid)
    old = f"https://videodelivery.net/{uid}/downloads/default.mp4"
    row = world.downloads.save(
        replace(ready(), video_uid=uid, url=old, version=in_table(world, ready(uid)).version)
    )
    row = when_due(world, row)
    changed_at = NOW + RECHECK_AFTER
    assert row == replace(row, url=url_of(uid), ready_at=changed_at, updated_at=changed_at)
    assert row.work == Work(Step.RECHECK, changed_at + RECHECK_AFTER)
    row = when_due(world, row)
    assert row.work == Work(Step.DELETE, changed_at + 8 * DAY)


def test_one_list_serves_all_types_of_a_video(world: World, uid: str) -> None:
    rows = [created(world, uid), created(world, uid, AUDIO)]
    world.clock.sleep(60)
    urls = {change.after.key: change.after.url for change in perform(world, *rows).changes}
    assert urls == {(uid, DEFAULT): url_of(uid), (uid, AUDIO): url_of(uid, AUDIO)}
    assert world.simulator.counts()["list downloads"] == 1


def test_one_list_serves_also_the_type_that_was_not_due(world: World, uid: str) -> None:
    row = created(world, uid)
    created(world, uid, AUDIO)
    world.clock.sleep(60)
    assert len(perform(world, row).changes) == 2


def test_a_create_that_may_be_on_its_way_is_not_judged_by_a_list(world: World, uid: str) -> None:
    row = kept(world, transitions.create_sent(requested(uid), NOW))
    assert perform(world, row) == Outcome(Verdict.ANSWERED)
    assert in_table(world, row) == row


@pytest.mark.parametrize("step", [Step.LIST, Step.RECHECK])
def test_a_list_that_is_not_found_shows_no_download(world: World, uid: str, step: Step) -> None:
    row = replace(BEFORE[step], video_uid=uid)
    assert faulty(world, row, Fault.NOT_FOUND) is Verdict.ANSWERED
    after = in_table(world, row)
    assert after == replace(after, status=row.status, url=row.url)
    assert after.step is step
    assert after.due_at == NOW + UNLISTED_GRACE
    assert trouble_of(after) is TroubleKind.UNLISTED


def test_a_ready_download_that_is_made_again_counts_as_unlisted(world: World, uid: str) -> None:
    row = kept(world, ready(uid))
    world.simulator.videos[uid].create("default", NOW)
    row = performed(world, row)
    assert row.status is Status.READY
    assert row.step is Step.RECHECK
    assert trouble_of(row) is TroubleKind.UNLISTED


def test_a_ready_row_is_not_written_by_every_list_of_the_other_type(world: World, uid: str) -> None:
    first = made_ready(world, uid)
    audio = created(world, uid, AUDIO)
    world.clock.sleep(30)
    assert [change.after.key for change in perform(world, audio).changes] == [(uid, AUDIO)]
    assert in_table(world, first) == first


def test_a_race_that_is_lost_for_one_type_is_not_lost_for_the_other(world: World, uid: str) -> None:
    stale, audio = created(world, uid), created(world, uid, AUDIO)
    world.downloads.save(replace(stale, percent_complete=1.0))
    world.clock.sleep(60)
    outcome = perform(world, stale, audio)
    assert outcome.verdict is Verdict.ANSWERED
    assert [change.after.download_type for change in outcome.changes] == [AUDIO]


def test_a_list_that_loses_its_race_leaves_the_row_to_the_winner(world: World, uid: str) -> None:
    stale = created(world, uid)
    other = world.downloads.save(transitions.delete(stale, NOW))
    world.clock.sleep(60)
    assert perform(world, stale) == Outcome(Verdict.LOST_RACE)
    assert in_table(world, stale) == other


# --- Maintenance of what is ready


@pytest.mark.parametrize(
    ("retention", "step", "after"),
    [
        (0.0, Step.RECHECK, RECHECK_AFTER),
        (DAY, Step.DELETE, DAY),
        (7 * DAY, Step.DELETE, 7 * DAY),
        (30 * DAY, Step.RECHECK, RECHECK_AFTER),
    ],
)
def test_a_ready_download_is_checked_or_deleted_later(
    retention: float, step: Step, after: float
) -> None:
    world = World(retention=retention)
    row = made_ready(world, world.simulator.upload(webhook_delays=()))
    assert row.work == Work(step, world.clock() + after)


def test_a_ready_download_is_checked_until_its_retention_is_over() -> None:
    world = World(retention=10 * DAY)
    row = made_ready(world, world.simulator.upload(webhook_delays=()))
    ready_at = world.clock()
    row = when_due(world, row)
    assert row.ready_at == ready_at
    assert row.work == Work(Step.DELETE, ready_at + 10 * DAY)
    row = when_due(world, row)
    assert row.status is Status.DELETED
    assert row.url is None


@pytest.mark.parametrize(
    ("retention", "step", "after"),
    [(0.0, Step.RECHECK, RECHECK_AFTER), (8 * DAY, Step.DELETE, 3 * DAY)],
)
def test_a_longer_retention_postpones_the_delete(
    retention: float, step: Step, after: float
) -> None:
    world = World(retention=5 * DAY)
    row = made_ready(world, world.simulator.upload(webhook_delays=()))
    world.service = replace(world.service, retention=retention)
    requests = len(world.simulator.calls)
    after_ = when_due(world, row)
    assert after_ == replace(row, work=Work(step, world.clock() + after), version=row.version + 1)
    assert len(world.simulator.calls) == requests


# --- The video itself


def asked(uid: str, kind: DownloadType = DEFAULT) -> Download:
    """Return a row whose create was answered with 404."""
    return transitions.create_not_found(requested(uid, kind), NOT_FOUND, NOW)


def test_a_video_that_is_there_gets_its_create_and_its_facts(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=(), name="clip.mp4", private=True, creator="me")
    row = performed(world, kept(world, asked(uid)))
    assert row.step is Step.CREATE
    assert NOW <= (row.due_at or 0) <= NOW + 60
    assert row == replace(row, name="clip.mp4", creator="me", requires_signed_url=True)
    assert row.duration_seconds == 30.0


def test_a_video_without_trouble_of_its_own_is_created_at_once(world: World, uid: str) -> None:
    row = transitions.video_has_failed(requested(uid), NOW)
    assert performed(world, kept(world, row)).work == Work(Step.CREATE, NOW)


def test_a_video_that_failed_ends_in_error_with_cloudflares_reason(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=(), error_code="ERR_NON_VIDEO")
    row = performed(world, kept(world, asked(uid)))
    assert row == replace(row, status=Status.ERROR, error_code="ERR_NON_VIDEO", reopens=True)
    assert row.error_message == "The file was not recognized as a valid video file"


@pytest.mark.parametrize(
    ("seconds", "row", "code"),
    [
        (LONGEST_RECORDING_SECONDS, asked(UID), None),
        (LONGEST_RECORDING_SECONDS + 1, asked(UID), ErrorCode.RECORDING_TOO_LONG),
        # Cloudflare has refused nothing yet.
        (LONGEST_RECORDING_SECONDS + 1, transitions.video_has_failed(requested(), NOW), None),
    ],
)
def test_a_live_recording_over_four_hours_ends_in_error_once_it_was_refused(
    world: World, seconds: float, row: Download, code: ErrorCode | None
) -> None:
    uid = world.simulator.upload(webhook_delays=(), live_input="a", duration_seconds=seconds)
    row = performed(world, kept(world, replace(row, video_uid=uid)))
    assert row.error_code == code


def test_one_request_checks_the_video_for_all_its_types(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=(), error_code="ERR_NON_VIDEO")
    rows = [kept(world, asked(uid, kind)) for kind in (DEFAULT, AUDIO)]
    changes = perform(world, *rows).changes
    assert [change.after.status for change in changes] == [Status.ERROR, Status.ERROR]
    assert world.simulator.counts() == {"get video": 1}


# --- Delete


@pytest.mark.parametrize("answer", ["empty", "not found"])
def test_what_is_not_there_counts_as_deleted(world: World, uid: str, answer: Any) -> None:
    world.simulator.settings.nothing_created = answer
    row = performed(world, kept(world, transitions.delete(in_progress(uid), NOW)))
    assert row.status is Status.DELETED


def test_a_delete_takes_its_own_type_alone(world: World, uid: str) -> None:
    row = created(world, uid)
    created(world, uid, AUDIO)
    row = performed(world, world.downloads.save(transitions.delete(row, NOW)))
    assert row.status is Status.DELETED
    assert list(world.simulator.videos[uid].downloads) == ["audio"]


def test_the_url_goes_before_the_download_does(world: World, uid: str) -> None:
    world.service = replace(world.service, retention=DAY)
    over = ready(uid, work=Work(Step.DELETE, NOW), ready_at=NOW - DAY)
    faulty(world, over, Fault.SERVER_ERROR)
    row = in_table(world, over)
    assert row == replace(row, status=Status.DELETING, url=None)
    assert row.step is Step.DELETE


def test_a_delete_that_cloudflare_refuses_ends_in_error_after_a_day(world: World, uid: str) -> None:
    row = kept(world, transitions.delete(in_progress(uid), NOW))
    world.simulator.faults.at_random(1.0, seed=0, among=[Fault.NOT_READY])
    while row.status is Status.DELETING:
        row = when_due(world, row)
    assert DAY <= world.clock() - NOW < DAY + 3600
    assert row.error_code == ErrorCode.DELETE_REFUSED


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.RESET_AFTER, Fault.CONFLICT])
def test_a_delete_that_fails_is_repeated(world: World, uid: str, fault: Fault) -> None:
    row = replace(BEFORE[Step.DELETE], video_uid=uid)
    assert faulty(world, row, fault) is Verdict.FAILED
    after = in_table(world, row)
    assert after.status is Status.DELETING
    assert after.step is Step.DELETE
    assert trouble_of(after) is TroubleKind.FAILING


# --- What holds for every step


@pytest.mark.parametrize("fault", sorted((AMBIGUOUS | NEVER_ARRIVED) - {Fault.RESULT_NULL}))
@pytest.mark.parametrize("step", [Step.LIST, Step.RECHECK, Step.GET_VIDEO])
def test_a_read_that_fails_is_repeated(world: World, uid: str, step: Step, fault: Fault) -> None:
    row = replace(BEFORE[step], video_uid=uid)
    assert faulty(world, row, fault) is Verdict.FAILED
    after = in_table(world, row)
    assert after == replace(row, work=after.work, version=2)
    assert after.work
    assert after.work == replace(after.work, step=step, attempts=1)
    assert NOW <= after.work.due_at <= NOW + 30 + SECONDS


def is_unchanged(world: World, row: Download) -> bool:
    """Return True if the row of the table is this one, however often it was written."""
    after = in_table(world, row)
    return after == replace(row, version=after.version)


@pytest.mark.parametrize("fault", sorted(CREDENTIALS))
def test_refused_credentials_change_no_row(world: World, row: Download, fault: Fault) -> None:
    assert faulty(world, row, fault) is Verdict.CREDENTIALS
    assert is_unchanged(world, row)


@pytest.mark.parametrize("fault", sorted(THROTTLED))
def test_a_429_closes_the_gate_and_leaves_the_row(
    world: World, row: Download, fault: Fault
) -> None:
    assert faulty(world, row, fault) is Verdict.THROTTLED
    assert is_unchanged(world, row)
    _, _, blocked_until = world.service.gateway.usage()
    seconds = {Fault.THROTTLED: 60, Fault.THROTTLED_HUGE: 900}.get(fault, 300)
    assert seconds <= (blocked_until or 0.0) - NOW <= seconds + 3


def expire_the_grant(world: World) -> None:
    world.clock.sleep(USE_WITHIN + 0.1)


def expire_the_grant_while_the_secret_is_read(world: World) -> None:
    world.credentials.seconds = USE_WITHIN + 0.1


def lose_the_credentials(world: World) -> None:
    world.credentials.in_memory = ""


@pytest.mark.parametrize(
    ("obstruct", "verdict"),
    [
        (expire_the_grant, Verdict.NOT_SENT),
        (expire_the_grant_while_the_secret_is_read, Verdict.NOT_SENT),
        (lose_the_credentials, Verdict.CREDENTIALS),
    ],
)
def test_what_cannot_be_sent_changes_no_row(
    world: World, row: Download, obstruct: Callable[[World], None], verdict: Verdict
) -> None:
    row, grant = kept(world, row), granted(world)
    obstruct(world)
    assert perform(world, row, grant=grant).verdict is verdict
    assert world.simulator.calls == []
    assert is_unchanged(world, row)


def test_a_step_is_logged_with_what_it_left_to_do(
    world: World, uid: str, caplog: pytest.LogCaptureFixture
) -> None:
    perform(world, kept(world, requested(uid)))
    (line,) = [vars(record) for record in caplog.records if record.message == "Download"]
    assert "error_code" not in line
    assert line["due_at"] > iso_time(NOW)
    assert {
        "video_uid": uid,
        "download_type": "default",
        "status": "inprogress",
        "percent_complete": 0.0,
        "next_step": "list",
    }.items() <= line.items()


def test_a_create_that_answers_with_a_failure_is_listed_at_once(world: World, uid: str) -> None:
    answer_creates(world, lambda: {"default": DownloadState("error", None, None)})
    row = performed(world, kept(world, requested(uid)))
    assert row.work == Work(Step.LIST, NOW)
