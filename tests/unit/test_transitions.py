"""Test every transition of a download: the row after it, and rules that all keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from stream_downloads.adapters.download_item import consumers_view
from stream_downloads.domain import transitions
from stream_downloads.domain.download import (
    Creation,
    Download,
    ErrorCode,
    Lane,
    Reason,
    Report,
    Status,
    Step,
    Trouble,
    TroubleKind,
    Work,
    iso_time,
)
from stream_downloads.domain.transitions import (
    CREATE_SETTLES_AFTER,
    DAY,
    GONE_GRACE,
    REFUSALS_AT_LEAST,
    UNLISTED_GRACE,
)
from stream_downloads.domain.video import Video
from tests.support.rows import (
    AUDIO,
    NOW,
    RECHECK,
    UID,
    deleted,
    deleting,
    failed,
    in_progress,
    ready,
    requested,
    trouble_of,
    url_of,
)

Transition = Callable[[Download, float], Download]

HOUR = 3600.0
VIDEO = Video(uid=UID)
NOT_READY = Reason("10005", "Bad Request: The video is not ready to view")
NOT_FOUND = Reason("10003", "Not Found")
NO_ANSWER = Reason("not_reached", "list downloads: no answer")
OTHER_URL = f"https://videodelivery.net/{UID}/downloads/default.mp4"


def create_refused(row: Download, now: float) -> Download:
    return transitions.create_refused(row, NOT_READY, now + 9, now)


def create_not_found(row: Download, now: float) -> Download:
    return transitions.create_not_found(row, NOT_FOUND, now)


def create_accepted(row: Download, now: float) -> Download:
    return transitions.create_accepted(row, 3.0, now + 9, now)


def try_again(row: Download, now: float) -> Download:
    return transitions.try_again(row, now + 9, NO_ANSWER, now)


def listed_in_progress(row: Download, now: float) -> Download:
    return transitions.listed_in_progress(row, 5.0, now + 9, now)


def listed_ready(row: Download, now: float) -> Download:
    return transitions.listed_ready(row, url_of(), RECHECK, now)


def listed_elsewhere(row: Download, now: float) -> Download:
    return transitions.listed_ready(row, OTHER_URL, RECHECK, now)


def listed_with_bad_url(row: Download, now: float) -> Download:
    return transitions.listed_with_bad_url(row, now + 9, RECHECK, now)


def video_is_ready(row: Download, now: float, lane: Lane = Lane.LIVE) -> Download:
    return transitions.video_is_ready(row, VIDEO, now, lane=lane)


def video_found(row: Download, now: float) -> Download:
    return transitions.video_found(row, VIDEO, now + 9, now)


def video_renamed(row: Download, now: float) -> Download:
    return transitions.video_found(row, Video(uid=UID, name="new"), now + 9, now)


def video_not_found(row: Download, now: float) -> Download:
    return transitions.video_not_found(row, NOT_FOUND, now)


def fail_video(row: Download, now: float) -> Download:
    return transitions.fail_video(row, VIDEO, now)


def delete_refused(row: Download, now: float) -> Download:
    return transitions.delete_refused(row, NOT_READY, now + 9, now)


def sent(row: Download | None = None, now: float = NOW) -> Download:
    """Return a row whose create was sent and not answered yet."""
    return transitions.create_sent(row or requested(), now)


def vanished(row: Download, now: float = NOW) -> Download:
    """Return a ready row after two lists, a grace apart, that do not show it."""
    row = transitions.unlisted(replace(row, work=RECHECK), now - UNLISTED_GRACE)
    return transitions.unlisted(row, now)


def step_by_step(row: Download, *taken: Transition) -> Download:
    """Return the row after these transitions, a second apart."""
    for second, transition in enumerate(taken):
        row = transition(row, NOW + second)
    return row


ROWS = {
    "requested": requested(),
    "create sent": sent(),
    "create refused": step_by_step(requested(), create_refused, create_refused),
    "in progress": in_progress(),
    "unlisted": transitions.unlisted(in_progress(), NOW),
    "listed as failed": transitions.listed_failed(in_progress(), NOW),
    "requested again": transitions.request_again(deleting(), NOW),
    "ready": ready(),
    "ready, but vanished": vanished(ready()),
    "ready, its retention over": ready(work=Work(Step.DELETE, NOW)),
    "error": failed(),
    "video failed": fail_video(requested(), NOW),
    "deleting": deleting(),
    "deleted": deleted(),
}
# What webhooks and callers do, whatever the row is.
REQUESTS: tuple[Transition, ...] = (
    transitions.request_again,
    transitions.retry,
    transitions.delete,
    video_is_ready,
    transitions.video_has_failed,
)
# What the request of a step can lead to.
ANSWERS: dict[Step, tuple[Transition, ...]] = {
    Step.CREATE: (transitions.create_sent,),
    Step.LIST: (
        try_again,
        listed_in_progress,
        listed_ready,
        listed_with_bad_url,
        transitions.listed_failed,
        transitions.unlisted,
    ),
    Step.RECHECK: (
        try_again,
        listed_ready,
        listed_elsewhere,
        listed_with_bad_url,
        transitions.unlisted,
    ),
    Step.GET_VIDEO: (try_again, video_found, video_renamed, video_not_found, fail_video),
    Step.DELETE: (try_again, delete_refused, transitions.deleted),
}
CREATE_ANSWERS: tuple[Transition, ...] = (
    create_accepted,
    transitions.create_not_sent,
    create_refused,
    create_not_found,
    lambda row, now: transitions.create_failed(row, now + 9, NO_ANSWER, now),
)
ANSWERED = [
    # Once its retention is over, a row is `deleting` before its request is sent.
    *(
        (name, answer)
        for name, row in ROWS.items()
        if row.step and name != "ready, its retention over"
        for answer in ANSWERS[row.step]
    ),
    *(("create sent", answer) for answer in CREATE_ANSWERS),
]
# Clocks of two functions differ; graces and deadlines end.
CLOCKS = (-30.0, 0.0, 0.0004, 30.0, 2 * DAY)

STEPS_OF: dict[Status, set[Step | None]] = {
    Status.REQUESTED: {Step.CREATE, Step.LIST, Step.GET_VIDEO, Step.DELETE},
    Status.INPROGRESS: {Step.CREATE, Step.LIST, Step.GET_VIDEO, Step.DELETE},
    Status.READY: {Step.RECHECK, Step.GET_VIDEO, Step.DELETE},
    Status.ERROR: {None},
    Status.DELETING: {Step.DELETE},
    Status.DELETED: {None},
}
# Where an answer of Cloudflare can lead. Ready goes back only if the download has vanished.
NEXT = {
    Status.REQUESTED: {Status.REQUESTED, Status.INPROGRESS, Status.READY, Status.ERROR},
    Status.INPROGRESS: {Status.INPROGRESS, Status.READY, Status.ERROR},
    Status.READY: {Status.READY, Status.DELETED},
    Status.DELETING: {Status.DELETING, Status.DELETED, Status.ERROR},
}


def broken_rules(row: Download) -> list[str]:
    """Return the rules of every row that this one breaks."""
    rules = {
        "a ready row alone has a URL": (row.url is not None) == (row.status is Status.READY),
        "a ready row alone has ready_at": (row.ready_at is not None)
        == (row.status is Status.READY),
        "an error alone has a code": (row.error_code is not None) == (row.status is Status.ERROR),
        "an error alone has a message": (row.error_message is not None)
        == (row.status is Status.ERROR),
        "an error alone reopens": row.status is Status.ERROR or not row.reopens,
        "the step fits the status": row.step in STEPS_OF[row.status],
        "a row with work waits in a queue": (row.queue is None) == (row.work is None),
        "creates wait in a queue of their own": (row.step is Step.CREATE)
        == (row.queue or "").endswith("-create"),
        "a create comes when nothing is there": row.step is not Step.CREATE or not row.creation,
        "a list comes after a create": row.step is not Step.LIST or row.creation is not None,
        "a deleted row has nothing at Cloudflare": row.status is not Status.DELETED
        or row.creation is None,
    }
    return [rule for rule, holds in rules.items() if not holds]


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


# --- What holds for every transition


@pytest.mark.parametrize("state", ROWS)
def test_the_rows_to_start_from_keep_all_rules(state: str) -> None:
    assert broken_rules(ROWS[state]) == []


@pytest.mark.parametrize(
    ("state", "transition"), [*product(ROWS, REQUESTS), *ANSWERED], ids=name_of
)
def test_every_transition_keeps_all_rules(state: str, transition: Transition) -> None:
    row = ROWS[state]
    for later in CLOCKS:
        after = transition(row, NOW + later)
        assert broken_rules(after) == [], f"{later} s later"
        assert after.key == row.key
        assert after.version == row.version


@pytest.mark.parametrize(
    ("state", "transition"), [*product(ROWS, REQUESTS), *ANSWERED], ids=name_of
)
def test_updated_at_grows_with_every_change_that_consumers_see_but_a_percentage_alone(
    state: str, transition: Transition
) -> None:
    row = ROWS[state]
    for later in CLOCKS:
        after = transition(row, NOW + later)
        same_percent = replace(after, percent_complete=row.percent_complete)
        if consumers_view(same_percent) != consumers_view(row):
            assert iso_time(after.updated_at) > iso_time(row.updated_at), f"{later} s later"
            assert after.updated_at == round(after.updated_at, 3), "not in whole milliseconds"


@pytest.mark.parametrize(("state", "answer"), ANSWERED, ids=name_of)
def test_no_answer_of_cloudflare_takes_a_state_back(state: str, answer: Transition) -> None:
    row = ROWS[state]
    possible = NEXT[row.status]
    if state == "ready, but vanished" and answer in (video_found, video_renamed):
        possible = {Status.REQUESTED, Status.READY}  # by how old its lists are
    elif answer is fail_video:
        possible = {Status.ERROR}
    for later in CLOCKS:
        assert answer(row, NOW + later).status in possible, f"{later} s later"


# --- Requested


def test_a_request_is_due_at_once_and_repeats_what_is_known_of_the_video() -> None:
    video = Video(UID, creator="me", name="clip", duration_seconds=5.5, requires_signed_url=True)
    row = transitions.request(video, AUDIO, NOW, lane=Lane.BACKFILL)
    assert row == Download(
        video_uid=UID,
        download_type=AUDIO,
        status=Status.REQUESTED,
        requested_at=NOW,
        updated_at=NOW,
        requires_signed_url=True,
        creator="me",
        name="clip",
        duration_seconds=5.5,
        work=Work(Step.CREATE, NOW),
        lane=Lane.BACKFILL,
    )


ENDED = {"error", "video failed", "deleting", "deleted"}
READY = {"ready", "ready, but vanished", "ready, its retention over"}
NOT_TO_CHECK = {"listed as failed", "requested again"} | READY | ENDED
# What each request leaves as it is.
UNCHANGED: dict[Transition, set[str]] = {
    transitions.request_again: ROWS.keys() - ENDED,
    transitions.retry: ROWS.keys() - {"error", "video failed"},
    transitions.delete: {"deleting", "deleted"},
    video_is_ready: ROWS.keys() - {"video failed"},
    transitions.video_has_failed: NOT_TO_CHECK,
}


@pytest.mark.parametrize(
    ("ask", "state"),
    [(ask, state) for ask, states in UNCHANGED.items() for state in sorted(states)],
    ids=name_of,
)
def test_a_request_for_nothing_new_changes_nothing(ask: Transition, state: str) -> None:
    assert ask(ROWS[state], NOW + 9) is ROWS[state]


@pytest.mark.parametrize(
    ("row", "step"),
    [
        (deleted(), Step.CREATE),
        (failed(creation=None), Step.CREATE),
        # A failed download is still there, and a create would answer with the old failure.
        (failed(), Step.DELETE),
        (failed(creation=Creation(NOW - 60)), Step.DELETE),
        # The delete under way could be carried out after the create.
        (deleting(), Step.DELETE),
        (deleting(creation=None), Step.DELETE),
    ],
)
def test_a_request_opens_what_ended_and_deletes_what_is_left(row: Download, step: Step) -> None:
    again = transitions.request_again(replace(row, recreations=2), NOW + 9, lane=Lane.BACKFILL)
    new = transitions.request(VIDEO, row.download_type, NOW + 9, lane=Lane.BACKFILL)
    assert again == replace(new, work=Work(step, NOW + 9), creation=row.creation)


def test_a_request_during_a_delete_creates_only_after_the_delete() -> None:
    again = transitions.request_again(deleting(), NOW)
    row = transitions.deleted(again, NOW + 1)
    assert row == replace(again, work=Work(Step.CREATE, NOW + 1), creation=None)


@pytest.mark.parametrize("ask", [transitions.request_again, video_is_ready])
@pytest.mark.parametrize("row", [requested(lane=Lane.BACKFILL), in_progress(lane=Lane.BACKFILL)])
def test_a_live_request_does_not_wait_behind_a_backfill(ask: Transition, row: Download) -> None:
    assert ask(row, NOW + 9) == replace(row, lane=Lane.LIVE)


@pytest.mark.parametrize("ask", [transitions.request_again, video_is_ready])
@pytest.mark.parametrize("row", [requested(), in_progress(), requested(lane=Lane.BACKFILL)])
def test_a_backfill_changes_nothing_that_waits(ask: Callable[..., Download], row: Download) -> None:
    assert ask(row, NOW + 9, lane=Lane.BACKFILL) is row


@pytest.mark.parametrize("state", ["ready", "error", "deleting", "deleted"])
def test_a_webhook_leaves_the_lane_of_what_has_ended(state: str) -> None:
    row = replace(ROWS[state], lane=Lane.BACKFILL)
    assert video_is_ready(row, NOW + 9) is row


def test_a_webhook_of_a_ready_video_opens_what_ended_because_of_the_video() -> None:
    row = video_is_ready(ROWS["video failed"], NOW + 9)
    assert row == requested(
        requested_at=NOW + 9, updated_at=NOW + 9, work=Work(Step.CREATE, NOW + 9)
    )


def test_a_failed_video_ends_the_row_with_cloudflares_reason_or_our_own() -> None:
    row = fail_video(requested(), NOW)
    assert row == replace(row, error_code=ErrorCode.VIDEO_FAILED, error_message="The video failed.")
    video = Video(UID, error_code="ERR_NON_VIDEO", error_message="not a video")
    row = transitions.fail_video(requested(), video, NOW)
    assert row == replace(row, error_code="ERR_NON_VIDEO", error_message="not a video")
    assert row.reopens


@pytest.mark.parametrize("state", sorted(ROWS.keys() - NOT_TO_CHECK))
def test_a_webhook_of_a_failed_video_checks_the_video_and_keeps_the_trouble(state: str) -> None:
    before = ROWS[state]
    row = transitions.video_has_failed(before, NOW + 9)
    assert before.work
    assert row == replace(before, work=Work(Step.GET_VIDEO, NOW + 9, trouble=before.work.trouble))


def test_a_failure_that_was_overtaken_leads_to_a_list_not_to_a_second_create() -> None:
    for row in (in_progress(), sent()):
        checked = transitions.video_has_failed(row, NOW + 1)
        assert video_found(checked, NOW + 60).work == Work(Step.LIST, NOW + 60)


# --- Create


def test_a_create_that_is_sent_is_followed_by_a_list_unless_it_is_answered() -> None:
    assert sent() == requested(work=Work(Step.LIST, NOW + 30.0), creation=Creation(sent_at=NOW))


@pytest.mark.parametrize(("percent", "kept"), [(None, 0.0), (0.0, 0.0), (39.5, 39.5), (100, 100)])
def test_an_accepted_create_is_in_progress(percent: float | None, kept: float) -> None:
    row = transitions.create_accepted(sent(), percent, NOW + 30, NOW + 1)
    assert row == replace(row, status=Status.INPROGRESS, percent_complete=kept, url=None)
    assert row.creation == Creation(sent_at=NOW, accepted_at=NOW + 1)


def test_an_accepted_create_ends_all_trouble() -> None:
    row = step_by_step(sent(), create_refused, transitions.create_sent, create_accepted)
    assert row.work == Work(Step.LIST, NOW + 2 + 9)


def test_a_create_of_what_was_there_already_counts_as_polled() -> None:
    row = transitions.create_accepted(sent(), None, NOW, NOW, was_there=True)
    assert row.creation == Creation(NOW, accepted_at=NOW, polled_at=NOW)


@pytest.mark.parametrize("row", [requested(), step_by_step(sent(), create_refused)])
def test_a_create_that_was_not_sent_leaves_the_row_as_it_was(row: Download) -> None:
    assert row.due_at
    assert transitions.create_not_sent(sent(row, NOW + 5), row.due_at) == row


def test_a_refused_create_is_repeated_and_from_the_second_time_on_the_video_is_checked() -> None:
    row = create_refused(sent(), NOW)
    once = Trouble(TroubleKind.REFUSED, NOW, 1, NOT_READY)
    assert row == requested(work=Work(Step.CREATE, NOW + 9, 1, once))
    row = create_refused(sent(row, NOW + 9), NOW + 9)
    twice = replace(once, count=2)
    assert row == requested(work=Work(Step.GET_VIDEO, NOW + 18, 2, twice))
    row = video_found(row, NOW + 18)
    assert row == requested(work=Work(Step.CREATE, NOW + 27, 2, twice))


def test_a_create_that_is_not_found_checks_the_video_at_once() -> None:
    row = create_not_found(sent(), NOW + 1)
    trouble = Trouble(TroubleKind.REFUSED, NOW + 1, 1, NOT_FOUND)
    assert row == requested(work=Work(Step.GET_VIDEO, NOW + 1, 1, trouble))


def test_a_create_that_never_arrived_is_repeated_after_a_pause() -> None:
    row = transitions.create_failed(sent(), NOW + 30, NO_ANSWER, NOW)
    trouble = Trouble(TroubleKind.FAILING, NOW, 1, NO_ANSWER)
    assert row == requested(work=Work(Step.CREATE, NOW + 30, 1, trouble))


def test_a_lost_create_is_repeated_only_after_a_list_that_comes_once_it_is_settled() -> None:
    row = try_again(sent(), NOW + 9)
    assert transitions.unlisted(row, NOW + CREATE_SETTLES_AFTER - 1) is row
    again = transitions.unlisted(row, NOW + CREATE_SETTLES_AFTER)
    assert row.work
    # It keeps its one attempt: the next loss is followed by a longer pause.
    work = replace(row.work, step=Step.CREATE, due_at=NOW + CREATE_SETTLES_AFTER, attempts=1)
    assert again == requested(work=work)


def test_an_ambiguous_create_is_listed_before_another_whatever_came_between() -> None:
    row = create_refused(sent(), NOW)
    row = sent(row, NOW + 90)  # its answer is lost
    row = video_found(transitions.video_has_failed(row, NOW + 95), NOW + 100)
    assert row.step is Step.LIST
    assert row.due_at == NOW + 90 + CREATE_SETTLES_AFTER
    assert transitions.unlisted(row, NOW + 200).step is Step.CREATE


# --- Trouble


REFUSED: dict[str, tuple[Download, Transition]] = {
    "create": (sent(), create_refused),
    "create of an unknown video": (sent(), create_not_found),
    "URL": (in_progress(), listed_with_bad_url),
    "delete": (deleting(), delete_refused),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_is_refused_for_a_day_ends_in_error(refused: str) -> None:
    row, refuse = REFUSED[refused]
    for hour in range(24):
        row = refuse(row, NOW + hour * HOUR)
        assert row.status is not Status.ERROR
    # Requests that fail in between do not let it go on for ever.
    row = refuse(try_again(row, NOW + DAY - 1), NOW + DAY)
    assert row.status is Status.ERROR


@pytest.mark.parametrize("refused", REFUSED)
def test_two_refusals_with_an_outage_of_a_day_between_them_end_nothing(refused: str) -> None:
    before, refuse = REFUSED[refused]
    row = refuse(before, NOW)
    for hour in range(2 * REFUSALS_AT_LEAST):
        row = try_again(row, NOW + hour * HOUR)
    row = refuse(row, NOW + 2 * DAY)
    assert row.status is before.status
    assert row.work
    assert row.work.trouble
    assert row.work.trouble == replace(row.work.trouble, since=NOW, count=2)
    assert row.work.attempts == 2 + 2 * REFUSALS_AT_LEAST, "each failure lengthens the pause"


def test_an_outage_never_ends_in_error() -> None:
    row = in_progress()
    for day in range(30):
        row = try_again(row, NOW + day * DAY)
    trouble = Trouble(TroubleKind.FAILING, NOW, 30, NO_ANSWER)
    assert row == in_progress(work=Work(Step.LIST, NOW + 29 * DAY + 9, 30, trouble))


def test_another_kind_of_trouble_starts_now() -> None:
    row = step_by_step(in_progress(), listed_with_bad_url, transitions.unlisted)
    assert row.work
    assert row.work.trouble
    assert row.work.trouble == replace(row.work.trouble, kind=TroubleKind.UNLISTED, since=NOW + 1)


@pytest.mark.parametrize(
    ("row", "seen"),
    [
        (sent(create_refused(sent(), NOW)), listed_in_progress),
        (sent(create_refused(sent(), NOW)), listed_ready),
        (try_again(in_progress(), NOW), listed_in_progress),
        (listed_with_bad_url(in_progress(), NOW), listed_in_progress),
        (transitions.unlisted(in_progress(), NOW), listed_in_progress),
        (transitions.unlisted(ready(), NOW), listed_ready),
        (try_again(in_progress(), NOW), transitions.listed_failed),
        (listed_with_bad_url(in_progress(), NOW), transitions.listed_failed),
    ],
)
def test_a_list_that_shows_the_download_ends_all_trouble(row: Download, seen: Transition) -> None:
    after = seen(row, NOW + 30)
    assert after.work
    assert after.work == Work(after.work.step, after.work.due_at)


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (step_by_step(sent(), create_not_found, video_not_found), None),
        (step_by_step(requested(), transitions.video_has_failed, try_again), None),
        (create_not_found(sent(), NOW), TroubleKind.REFUSED),
        (transitions.video_has_failed(ROWS["unlisted"], NOW), TroubleKind.UNLISTED),
        (
            step_by_step(in_progress(), listed_with_bad_url, transitions.video_has_failed),
            TroubleKind.BAD_URL,
        ),
    ],
)
def test_a_found_video_ends_only_its_own_trouble(row: Download, kept: TroubleKind | None) -> None:
    assert trouble_of(video_found(row, NOW + 2)) is kept


# --- List


@pytest.mark.parametrize(("percent", "kept"), [(0.0, 0.0), (39.0, 39.0), (100, 100), (None, 40.0)])
def test_progress_is_kept_and_alone_moves_no_updated_at(percent: float | None, kept: float) -> None:
    before = in_progress(percent_complete=40.0)
    row = transitions.listed_in_progress(before, percent, NOW + 90, NOW + 30)
    assert row == replace(
        before,
        percent_complete=kept,
        work=Work(Step.LIST, NOW + 90),
        creation=Creation(NOW, NOW, polled_at=NOW + 30, earlier=Report(NOW + 30, kept)),
    )


def test_a_create_whose_answer_was_lost_is_as_old_as_its_request() -> None:
    row = listed_in_progress(sent(), NOW + 30)
    assert row == replace(row, status=Status.INPROGRESS, updated_at=NOW + 30)
    assert row.creation == Creation(NOW, NOW, polled_at=NOW + 30, earlier=Report(NOW + 30, 5.0))


@pytest.mark.parametrize(("age", "kept"), [(50.0, 40.0), (79.9, 40.0), (80.0, 80.0), (90.0, 90.0)])
def test_the_earlier_report_is_kept_until_another_tells_a_speed(age: float, kept: float) -> None:
    row = transitions.listed_in_progress(in_progress(), 40.0, NOW + 50, NOW + 40)
    row = transitions.listed_in_progress(row, age, NOW + 99, NOW + age)
    assert row.creation
    assert row.creation.earlier == Report(NOW + kept, kept)


def test_a_download_that_takes_a_day_ends_in_error() -> None:
    assert listed_in_progress(in_progress(), NOW + DAY - 1).status is Status.INPROGRESS
    ended = listed_in_progress(in_progress(), NOW + DAY)
    assert ended.status is Status.ERROR
    assert ended.error_code == ErrorCode.NOT_READY_FOR_A_DAY


@pytest.mark.parametrize("late", [60.0, 60.0004, -60.0])
def test_a_list_that_says_ready_publishes_the_url(late: float) -> None:
    row = listed_ready(in_progress(), NOW + late)
    ready_at = NOW + 60 if late > 0 else NOW + 0.002
    creation = Creation(NOW, accepted_at=NOW, polled_at=NOW + late)
    assert row == ready(updated_at=ready_at, ready_at=ready_at, creation=creation)
    assert row == replace(row, status=Status.READY, url=url_of(), percent_complete=100.0)


def test_a_ready_download_that_is_listed_again_stays_as_old_as_it_is() -> None:
    row = listed_ready(ready(), NOW + DAY)
    assert row == ready(creation=Creation(NOW, accepted_at=NOW, polled_at=NOW + DAY))


def test_a_changed_url_makes_a_ready_download_new() -> None:
    row = listed_elsewhere(ready(), NOW + DAY)
    assert row == replace(row, url=OTHER_URL, updated_at=NOW + DAY, ready_at=NOW + DAY)


def test_a_url_that_must_not_be_published_is_refused() -> None:
    for row in (in_progress(), ready()):
        with pytest.raises(ValueError, match="not a download URL"):
            transitions.listed_ready(row, "https://elsewhere.example/", RECHECK, NOW)


def test_a_bad_url_is_listed_again_and_confirms_the_create() -> None:
    row = listed_with_bad_url(sent(), NOW + 30)
    creation = Creation(NOW, accepted_at=NOW, polled_at=NOW + 30)
    assert row == requested(work=row.work, creation=creation)
    assert row.step is Step.LIST
    assert row.due_at == NOW + 30 + 9


def test_a_bad_url_on_a_ready_row_never_takes_its_url_and_is_remembered() -> None:
    row = ready()
    for hour in range(10 * REFUSALS_AT_LEAST):
        row = listed_with_bad_url(row, NOW + hour * HOUR)
        assert row.work
        assert row == ready(work=row.work, creation=row.creation)
        assert row.work == replace(RECHECK, trouble=row.work.trouble)
        assert trouble_of(row) is TroubleKind.BAD_URL


def test_a_reschedule_keeps_a_ready_download() -> None:
    row = transitions.keep_ready(ROWS["ready, its retention over"], RECHECK)
    assert row == ready()


def test_a_failed_download_is_created_again_three_times_with_growing_pauses() -> None:
    row, now = in_progress(), NOW
    for pause in (60.0, 300.0, 900.0):
        row = transitions.listed_failed(row, now)
        assert row == replace(row, status=Status.INPROGRESS, work=Work(Step.DELETE, now + pause))
        now += pause
        row = transitions.deleted(row, now)
        assert row.work == Work(Step.CREATE, now)
        row = create_accepted(sent(row, now), now)
    ended = transitions.listed_failed(row, now)
    assert ended.error_code == ErrorCode.DOWNLOAD_FAILED
    assert ended.error_message == "Cloudflare could not make this download in 4 attempts."
    assert transitions.request_again(ended, now).step is Step.DELETE


def test_an_accepted_download_is_created_again_only_after_two_lists_a_grace_apart() -> None:
    row = transitions.unlisted(in_progress(), NOW + 5)
    assert row.step is Step.LIST
    assert row.due_at == NOW + 5 + 60.0
    assert transitions.unlisted(row, NOW + 6).due_at == row.due_at
    again = transitions.unlisted(row, NOW + 5 + UNLISTED_GRACE)
    work = Work(Step.CREATE, NOW + 5 + UNLISTED_GRACE)
    assert again == in_progress(work=work, creation=None, recreations=1)


def test_a_download_that_is_never_listed_is_given_up_after_four_creates() -> None:
    row, creates, now = in_progress(), 1, NOW
    while row.status is not Status.ERROR:
        now += UNLISTED_GRACE
        row = transitions.unlisted(row, now)
        if row.step is Step.CREATE:
            creates += 1
            row = create_accepted(sent(row, now), now)
    assert creates == 4
    assert row.error_code == ErrorCode.DOWNLOAD_FAILED


@pytest.mark.parametrize("lane", Lane)
def test_a_ready_download_that_vanished_is_requested_again_in_its_lane(lane: Lane) -> None:
    row = transitions.unlisted(ready(lane=lane), NOW)
    assert row == ready(lane=lane, work=row.work, creation=row.creation)
    assert row.step is Step.RECHECK
    assert row.due_at == NOW + UNLISTED_GRACE
    later = NOW + UNLISTED_GRACE
    row = transitions.unlisted(row, later)
    assert row == ready(lane=lane, work=row.work, creation=row.creation)
    assert row.step is Step.GET_VIDEO
    row = video_found(row, later)
    work = Work(Step.CREATE, later)
    assert row == requested(lane=lane, requested_at=later, updated_at=later, work=work)


def test_one_odd_list_takes_no_url_away() -> None:
    odd = transitions.unlisted(ready(), NOW)
    assert odd.url == url_of()
    assert listed_ready(odd, NOW + 60) == listed_ready(ready(), NOW + 60)


def test_a_vanished_download_whose_video_was_unknown_meanwhile_is_listed_once_more() -> None:
    row = step_by_step(vanished(ready()), video_not_found, video_found)
    assert row.status is Status.READY
    assert row.work == Work(Step.RECHECK, NOW + 1)


# --- The video itself


def test_a_video_that_is_found_updates_what_is_known_of_it() -> None:
    asked = create_not_found(sent(requested(name="old", creator="me")), NOW)
    row = video_renamed(asked, NOW + 1)
    assert row == replace(asked, name="new", updated_at=NOW + 1, work=row.work)


UNLISTED_LONG_AGO = step_by_step(
    transitions.unlisted(in_progress(), NOW - 2 * GONE_GRACE), transitions.video_has_failed
)


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (create_not_found(sent(), NOW), Status.ERROR),
        # It was not listed for a while: that says nothing of the video.
        (UNLISTED_LONG_AGO, Status.ERROR),
        (vanished(ready()), Status.DELETED),
    ],
)
def test_a_video_is_gone_only_after_a_second_check(row: Download, status: Status) -> None:
    first = video_not_found(row, NOW)
    assert first == replace(row, work=first.work)
    assert first.step is Step.GET_VIDEO
    assert first.due_at == NOW + 3600.0
    assert video_not_found(first, NOW + GONE_GRACE - 1).status is row.status
    ended = video_not_found(first, NOW + GONE_GRACE)
    assert ended.status is status
    assert ended.error_code == (ErrorCode.VIDEO_GONE if status is Status.ERROR else None)
    reopened = video_is_ready(ended, NOW + DAY).status is Status.REQUESTED
    assert reopened == (status is Status.ERROR)


def test_a_video_that_was_unknown_long_ago_gets_its_whole_grace_again() -> None:
    long_ago = video_not_found(create_not_found(sent(), NOW - 5 * DAY), NOW - 5 * DAY)
    row = video_found(long_ago, NOW - 4 * DAY)
    row = create_accepted(sent(row, NOW - 4 * DAY), NOW - 4 * DAY)
    row = transitions.deleted(transitions.listed_failed(row, NOW - 4 * DAY), NOW - 4 * DAY)
    row = create_not_found(create_refused(sent(row, NOW - 3 * DAY), NOW - 3 * DAY), NOW)
    assert video_not_found(row, NOW).due_at == NOW + GONE_GRACE


# --- Delete


@pytest.mark.parametrize("state", sorted(set(ROWS) - {"create sent", "deleting", "deleted"}))
def test_a_delete_takes_the_url_away_at_once_and_forgets_nothing_that_exists(state: str) -> None:
    row = transitions.delete(ROWS[state], NOW + 60)
    assert row == replace(row, status=Status.DELETING, url=None, work=Work(Step.DELETE, NOW + 60))
    assert row.creation == ROWS[state].creation


def test_a_delete_waits_for_a_create_that_may_be_on_its_way() -> None:
    assert transitions.delete(sent(), NOW + 1).due_at == NOW + CREATE_SETTLES_AFTER
    accepted = create_accepted(sent(), NOW + 1)
    assert transitions.delete(accepted, NOW + 2).due_at == NOW + 2


def test_a_deleted_row_stays() -> None:
    row = transitions.deleted(deleting(), NOW + 9)
    assert row == replace(row, status=Status.DELETED, percent_complete=None, updated_at=NOW + 9)


def refused_for_a_day(row: Download) -> Download:
    for hour in range(25):
        row = delete_refused(row, NOW + hour * HOUR)
    return row


def test_a_delete_that_is_refused_for_a_day_is_retried_as_a_delete() -> None:
    ended = refused_for_a_day(deleting())
    assert ended.error_code == ErrorCode.DELETE_REFUSED
    assert str(ended.error_message).endswith(f"{NOT_READY.code} {NOT_READY.message}")
    again = transitions.retry(ended, NOW + 2 * DAY)
    assert again == replace(again, status=Status.DELETING, work=Work(Step.DELETE, NOW + 2 * DAY))
    assert transitions.request_again(ended, NOW + 2 * DAY).step is Step.DELETE


def test_a_refused_delete_before_a_new_create_ends_in_cloudflares_own_reason() -> None:
    ended = refused_for_a_day(ROWS["listed as failed"])
    assert ended.error_code == NOT_READY.code
    assert ended.error_message == NOT_READY.message
    assert transitions.retry(ended, NOW) == transitions.request_again(ended, NOW)


def test_a_video_of_which_nothing_new_is_known_moves_nothing_that_consumers_see() -> None:
    video = Video(UID, creator="me", name="clip", duration_seconds=5.5, requires_signed_url=True)
    row = transitions.request(video, requested().download_type, NOW)
    assert transitions.video_found(row, video, NOW + 9, NOW + 9).updated_at == row.updated_at


def test_a_row_that_opens_again_takes_over_what_is_known_of_its_video() -> None:
    video = Video(UID, name="clip", duration_seconds=5.5)
    row = fail_video(requested(), NOW)
    for again in (
        transitions.video_is_ready(row, video, NOW + 9),
        transitions.request_again(row, NOW + 9, video=video),
    ):
        assert again == replace(again, name="clip", duration_seconds=5.5)


def test_a_create_that_is_repeated_while_in_progress_moves_nothing_that_consumers_see() -> None:
    row = transitions.deleted(transitions.listed_failed(in_progress(), NOW + 60), NOW + 120)
    again = create_accepted(transitions.create_sent(row, NOW + 180), NOW + 181)
    assert again.updated_at == row.updated_at


def test_lists_that_are_old_by_the_time_the_video_is_found_take_no_url_away() -> None:
    gone = transitions.unlisted(transitions.unlisted(ready(), NOW), NOW + UNLISTED_GRACE)
    assert gone.step is Step.GET_VIDEO
    late = video_found(gone, NOW + DAY / 2)
    assert late.url == gone.url
    assert late.step is Step.RECHECK
    listed_again = transitions.unlisted(late, NOW + DAY / 2 + 1)
    assert video_found(listed_again, NOW + DAY / 2 + 2).status is Status.REQUESTED


def test_a_backfill_opens_a_failed_video_in_its_own_lane() -> None:
    row = fail_video(requested(), NOW)
    assert video_is_ready(row, NOW, lane=Lane.BACKFILL).lane is Lane.BACKFILL


@pytest.mark.parametrize("listed", [transitions.listed_failed, transitions.unlisted])
def test_every_list_is_remembered_as_the_last_one(listed: Transition) -> None:
    row = listed(in_progress(), NOW + 70)
    assert row.creation is not None
    assert row.creation.polled_at == NOW + 70
