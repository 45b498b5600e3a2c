"""What can happen to a download: every transition, and what no transition may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import pytest

from stream_downloads.domain import download, transitions
from stream_downloads.domain.download import Download, ErrorCode, Lane, Status, Step, VideoFacts
from stream_downloads.domain.transitions import (
    CREATE_SETTLES_AFTER,
    DAY,
    GONE_GRACE,
    RECREATE_PAUSES,
    REFUSALS_AT_LEAST,
    UNLISTED_GRACE,
    WORDS_COME_WITHIN,
)
from tests.rows import (
    AUDIO,
    DEFAULT,
    NOW,
    UID,
    deleted,
    deleting,
    failed,
    in_progress,
    ready,
    requested,
    url_of,
)

Transition = Callable[[Download, float], Download]

NOTHING = VideoFacts()
REFUSAL = ("10005", "Bad Request: The video is not ready to view")
ROWS = {
    "requested": requested(),
    "sent": transitions.create_sent(requested(), NOW),
    "inprogress": in_progress(),
    "unlisted": in_progress(missing_since=NOW),
    "ready": ready(),
    "to verify": ready(step=Step.VERIFY, due_at=NOW),
    "to recreate": transitions.listed_failed(in_progress(), NOW),
    "error": failed(),
    "video failed": failed(reopens=True),
    "deleting": deleting(),
    "deleted": deleted(),
}
WISHES: dict[str, Transition] = {
    "request_again": transitions.request_again,
    "retry": transitions.retry,
    "delete": transitions.delete,
    "video_is_ready": transitions.video_is_ready,
    "video_has_failed": transitions.video_has_failed,
}
REFUSED: dict[str, tuple[Download, Transition]] = {
    "create": (
        requested(),
        lambda row, now: transitions.create_refused(row, *REFUSAL, now + 9, now),
    ),
    "create of a video that is there": (
        requested(),
        lambda row, now: transitions.video_found(
            transitions.not_found(row, now), NOTHING, now + 9, now
        ),
    ),
    "url": (in_progress(), lambda row, now: transitions.listed_with_bad_url(row, now + 9, now)),
    "delete": (
        deleting(),
        lambda row, now: transitions.delete_refused(row, *REFUSAL, now + 9, now),
    ),
}
ANSWERS: dict[str, Transition] = {
    "create_sent": transitions.create_sent,
    "create_accepted": lambda row, now: transitions.create_accepted(row, 3.0, now + 9, now),
    "create_not_sent": transitions.create_not_sent,
    "create_refused": lambda row, now: transitions.create_refused(row, *REFUSAL, now + 9, now),
    "try_again": lambda row, now: transitions.try_again(row, now + 9),
    "listed_in_progress": lambda row, now: transitions.listed_in_progress(row, 5.0, now + 9, now),
    "listed_ready": lambda row, now: transitions.listed_ready(row, url_of(), None, now),
    "listed_with_bad_url": lambda row, now: transitions.listed_with_bad_url(row, now + 9, now),
    "listed_failed": transitions.listed_failed,
    "unlisted": transitions.unlisted,
    "not_found": transitions.not_found,
    "list_not_found": transitions.list_not_found,
    "video_found": lambda row, now: transitions.video_found(row, NOTHING, now + 9, now),
    "video_not_found": transitions.video_not_found,
    "fail_video": lambda row, now: transitions.fail_video(row, None, None, now),
    "delete_refused": lambda row, now: transitions.delete_refused(row, *REFUSAL, now + 9, now),
    "deleted": transitions.deleted,
}
# What a request that a row makes at a step can lead to.
POSSIBLE: dict[Step, tuple[str, ...]] = {
    Step.CREATE: ("create_sent",),
    Step.LIST: (
        "try_again",
        "listed_in_progress",
        "listed_ready",
        "listed_with_bad_url",
        "listed_failed",
        "unlisted",
        "not_found",
    ),
    Step.VERIFY: ("try_again", "listed_ready", "listed_with_bad_url", "unlisted", "not_found"),
    Step.CONFIRM: ("try_again", "video_found", "video_not_found", "fail_video"),
    Step.DELETE: ("try_again", "delete_refused", "deleted"),
}


def sensible(row: Download) -> bool:
    """Whether the row is one that a consumer, and the poller, can make something of."""
    return (
        (row.url is not None) == (row.status is Status.READY)
        and (row.error_code is not None) == (row.status is Status.ERROR)
        and (row.error_message is not None) == (row.status is Status.ERROR)
        and (row.ready_at is None or row.status is Status.READY)
        and (row.step is None) == (row.due_at is None)
        and (row.step is not None or row.status in (Status.READY, Status.ERROR, Status.DELETED))
        and (row.step is not Step.CREATE or (row.created_at is None and row.sent_at is None))
        and not (row.reopens and row.status is not Status.ERROR)
    )


@pytest.mark.parametrize(
    ("state", "transition"),
    [
        *product(ROWS, WISHES),
        *(
            (name, answer)
            for name, row in ROWS.items()
            if row.step
            for answer in POSSIBLE[row.step]
        ),
        *product(["sent"], ["create_accepted", "create_not_sent", "create_refused"]),
    ],
)
def test_after_every_transition_the_row_still_makes_sense(state: str, transition: str) -> None:
    row = ROWS[state]
    # Between two functions' clocks, and long after every grace and deadline.
    for later in (-30, 0, 30, 2 * DAY):
        after = (WISHES | ANSWERS)[transition](row, NOW + later)
        assert sensible(after)
        assert after.updated_at >= row.updated_at
        assert after.key == row.key
        assert after.version == row.version


@pytest.mark.parametrize("state", ROWS)
def test_a_row_that_makes_sense_to_begin_with(state: str) -> None:
    assert sensible(ROWS[state])


# --- Wishes


def test_an_intent_is_due_at_once_and_repeats_what_is_known_of_the_video() -> None:
    facts = VideoFacts(
        requires_signed_url=True, creator="me", name="clip.mp4", duration_seconds=5.5
    )
    row = transitions.request(UID, AUDIO, NOW, facts=facts, lane=Lane.BACKFILL)
    assert (row.status, row.step, row.due_at) == (Status.REQUESTED, Step.CREATE, NOW)
    assert (row.requested_at, row.updated_at, row.lane) == (NOW, NOW, Lane.BACKFILL)
    assert (row.requires_signed_url, row.creator, row.name, row.duration_seconds) == (
        True,
        "me",
        "clip.mp4",
        5.5,
    )
    assert row.key == (UID, AUDIO)


@pytest.mark.parametrize(
    ("row", "queue"),
    [
        (requested(), "live-create"),
        (requested(lane=Lane.BACKFILL), "backfill-create"),
        (in_progress(), "live-look"),
        (in_progress(lane=Lane.BACKFILL), "backfill-look"),
        (deleting(), "live-look"),
        (ready(step=Step.VERIFY, due_at=NOW), "upkeep"),
        (ready(step=Step.DELETE, due_at=NOW), "backfill-look"),
        (ready(), None),
        (failed(), None),
        (deleted(), None),
    ],
)
def test_a_row_waits_in_the_queue_of_its_lane_and_step(row: Download, queue: str | None) -> None:
    assert row.queue == queue


@pytest.mark.parametrize("state", ["requested", "sent", "inprogress", "ready", "to recreate"])
def test_a_request_for_what_is_wanted_already_changes_nothing(state: str) -> None:
    row = ROWS[state]
    assert transitions.request_again(row, NOW + 9) is row


@pytest.mark.parametrize(
    ("row", "step"),
    [
        (deleted(), Step.CREATE),
        (failed(created_at=None), Step.CREATE),
        # A failed download is still there, and a create would answer with the old failure.
        (failed(), Step.DELETE),
        (failed(created_at=None, sent_at=NOW - 60), Step.DELETE),
        # The delete under way could be carried out after the create.
        (deleting(), Step.DELETE),
    ],
)
def test_a_request_opens_what_had_ended_and_clears_first_what_may_be_there(
    row: Download, step: Step
) -> None:
    again = transitions.request_again(row, NOW + 9, lane=Lane.BACKFILL)
    assert (again.status, again.step, again.due_at) == (Status.REQUESTED, step, NOW + 9)
    assert (again.requested_at, again.lane) == (NOW + 9, Lane.BACKFILL)
    assert (again.percent_complete, again.recreations, again.attempts) == (None, 0, 0)


@pytest.mark.parametrize("ask", [transitions.request_again, transitions.video_is_ready])
@pytest.mark.parametrize("row", [requested(lane=Lane.BACKFILL), in_progress(lane=Lane.BACKFILL)])
def test_who_asks_today_does_not_wait_behind_a_backfill(ask: Transition, row: Download) -> None:
    assert ask(row, NOW + 9) == replace(row, lane=Lane.LIVE)


@pytest.mark.parametrize("row", [requested(), in_progress(), requested(lane=Lane.BACKFILL)])
def test_a_backfill_neither_delays_nor_hurries_what_waits(row: Download) -> None:
    assert transitions.request_again(row, NOW + 9, lane=Lane.BACKFILL) is row
    assert transitions.video_is_ready(row, NOW + 9, lane=Lane.BACKFILL) is row


@pytest.mark.parametrize("state", ["ready", "error", "deleting", "deleted"])
def test_the_lane_of_what_has_ended_is_left_alone(state: str) -> None:
    row = replace(ROWS[state], lane=Lane.BACKFILL)
    assert transitions.video_is_ready(row, NOW + 9) is row


def test_a_request_over_a_delete_creates_only_after_the_delete() -> None:
    row = transitions.request_again(deleting(), NOW)
    row = transitions.deleted(row, NOW + 1)
    assert (row.status, row.step, row.due_at) == (Status.REQUESTED, Step.CREATE, NOW + 1)


@pytest.mark.parametrize("state", sorted(set(ROWS) - {"deleting", "deleted"}))
def test_a_delete_takes_the_url_away_at_once(state: str) -> None:
    row = transitions.delete(ROWS[state], NOW + 60)
    assert (row.status, row.step, row.url, row.due_at) == (
        Status.DELETING,
        Step.DELETE,
        None,
        NOW + 60,
    )


@pytest.mark.parametrize("row", [deleting(), deleted()])
def test_a_second_delete_changes_nothing(row: Download) -> None:
    assert transitions.delete(row, NOW + 9) is row


def test_a_delete_waits_for_a_create_in_flight() -> None:
    sent = transitions.create_sent(requested(), NOW)
    assert transitions.delete(sent, NOW + 1).due_at == NOW + CREATE_SETTLES_AFTER
    # Once Cloudflare has answered, nothing is in flight.
    accepted = transitions.create_accepted(sent, 0.0, NOW + 60, NOW + 1)
    assert transitions.delete(accepted, NOW + 2).due_at == NOW + 2


# --- Webhooks


@pytest.mark.parametrize("state", sorted(set(ROWS) - {"video failed"}))
def test_a_webhook_of_a_ready_video_revives_nothing_that_ended_otherwise(state: str) -> None:
    assert transitions.video_is_ready(ROWS[state], NOW + 9) is ROWS[state]


def test_a_webhook_of_a_ready_video_reopens_what_ended_for_the_videos_sake() -> None:
    row = transitions.fail_video(requested(), "ERR_NON_VIDEO", "not a video", NOW)
    assert (row.status, row.error_code, row.error_message) == (
        Status.ERROR,
        "ERR_NON_VIDEO",
        "not a video",
    )
    again = transitions.video_is_ready(row, NOW + 9)
    assert (again.status, again.step, again.error_code) == (Status.REQUESTED, Step.CREATE, None)


def test_a_video_that_failed_without_a_reason_gets_our_own() -> None:
    row = transitions.fail_video(requested(), None, None, NOW)
    assert (row.error_code, row.error_message) == (ErrorCode.VIDEO_FAILED, "The video failed.")


@pytest.mark.parametrize("state", ["requested", "sent", "inprogress", "unlisted"])
def test_a_webhook_of_a_failed_video_asks_cloudflare_for_the_video(state: str) -> None:
    row = transitions.video_has_failed(ROWS[state], NOW + 9)
    assert (row.step, row.due_at, row.missing_since) == (Step.CONFIRM, NOW + 9, None)
    assert row.status is ROWS[state].status


@pytest.mark.parametrize("state", ["ready", "to verify", "to recreate", "error", "deleting"])
def test_a_webhook_of_a_failed_video_changes_nothing_that_has_ended(state: str) -> None:
    assert transitions.video_has_failed(ROWS[state], NOW + 9) is ROWS[state]


def test_a_failure_that_was_overtaken_leads_to_a_list_not_to_a_second_create() -> None:
    for row in (in_progress(), transitions.create_sent(requested(), NOW)):
        asked = transitions.video_has_failed(row, NOW + 1)
        found = transitions.video_found(asked, NOTHING, NOW + 9, NOW + 60)
        assert (found.step, found.due_at) == (Step.LIST, NOW + 60)


# --- Create


def test_a_create_that_is_sent_is_followed_by_a_list_whatever_happens() -> None:
    row = transitions.create_sent(requested(), NOW)
    assert (row.status, row.step, row.due_at) == (
        Status.REQUESTED,
        Step.LIST,
        NOW + CREATE_SETTLES_AFTER,
    )


@pytest.mark.parametrize(("percent", "kept"), [(None, 0.0), (0.0, 0.0), (39.5, 39.5), (100, 100)])
def test_an_accepted_create_is_in_progress_and_never_publishes(
    percent: float | None, kept: float
) -> None:
    sent = transitions.create_sent(requested(attempts=3, refused_since=NOW - 9), NOW)
    row = transitions.create_accepted(sent, percent, NOW + 30, NOW + 1)
    assert (row.status, row.percent_complete, row.url) == (Status.INPROGRESS, kept, None)
    assert (row.step, row.due_at, row.created_at) == (Step.LIST, NOW + 30, NOW + 1)
    assert (row.attempts, row.refused_since, row.looked_at) == (0, None, None)


def test_a_create_of_what_was_there_already_counts_as_a_look() -> None:
    row = transitions.create_accepted(requested(), None, NOW, NOW, was_there=True)
    assert row.looked_at == NOW


def test_a_create_that_was_not_sent_waits_where_it_was() -> None:
    row = requested(attempts=2)
    again = transitions.create_not_sent(transitions.create_sent(row, NOW + 5), NOW)
    assert again == row


def test_a_refused_create_is_tried_again_and_in_between_the_video_is_asked_for() -> None:
    row, steps = requested(), []
    for attempt in range(4):
        row = transitions.create_refused(row, *REFUSAL, NOW + 30, NOW + attempt)
        assert (row.due_at, row.attempts, row.sent_at) == (NOW + 30, attempt + 1, None)
        steps.append(row.step)
    assert steps == [Step.CREATE, Step.CONFIRM, Step.CREATE, Step.CONFIRM]
    assert row.refused_since == NOW


def test_a_day_of_refusals_ends_in_error_with_cloudflares_reason() -> None:
    row = transitions.create_refused(requested(), *REFUSAL, NOW + 9, NOW)
    row = replace(row, attempts=REFUSALS_AT_LEAST)
    almost = transitions.create_refused(row, *REFUSAL, NOW + DAY, NOW + DAY - 1)
    assert almost.status is Status.REQUESTED
    ended = transitions.create_refused(almost, *REFUSAL, NOW + DAY, NOW + DAY)
    assert (ended.status, ended.error_code, ended.error_message) == (Status.ERROR, *REFUSAL)


@pytest.mark.parametrize("state", sorted(set(REFUSED)))
def test_a_day_in_which_hardly_anything_was_asked_ends_nothing(state: str) -> None:
    row, refuse = REFUSED[state]
    refused = refuse(row, NOW)
    later = refuse(refused, NOW + 3 * DAY)
    assert (later.status, later.error_code) == (row.status, None)
    ended = refuse(replace(later, attempts=REFUSALS_AT_LEAST), NOW + 3 * DAY)
    assert ended.status is Status.ERROR


def test_an_outage_never_ends_in_error() -> None:
    row = in_progress()
    for day in range(30):
        row = transitions.try_again(row, NOW + day * DAY)
    assert (row.status, row.step, row.attempts) == (Status.INPROGRESS, Step.LIST, 30)


# --- List


@pytest.mark.parametrize("percent", [0.0, 39.0, 100.0])
def test_a_list_that_shows_progress_keeps_it_and_looks_again(percent: float) -> None:
    row = transitions.listed_in_progress(in_progress(attempts=2), percent, NOW + 90, NOW + 30)
    assert (row.status, row.percent_complete, row.due_at) == (
        Status.INPROGRESS,
        percent,
        NOW + 90,
    )
    assert (row.looked_at, row.attempts, row.created_at) == (NOW + 30, 0, NOW)


def test_a_percentage_of_no_use_leaves_the_last_one() -> None:
    row = in_progress(percent_complete=40.0)
    assert transitions.listed_in_progress(row, None, NOW + 90, NOW + 30).percent_complete == 40.0


def test_progress_that_stands_still_is_no_update() -> None:
    row = in_progress(percent_complete=40.0)
    assert transitions.listed_in_progress(row, 40.0, NOW + 90, NOW + 30).updated_at == NOW
    assert transitions.listed_in_progress(row, 41.0, NOW + 90, NOW + 30).updated_at == NOW + 30


def test_a_create_whose_answer_was_lost_is_dated_by_when_it_was_sent() -> None:
    sent = transitions.create_sent(requested(), NOW)
    row = transitions.listed_in_progress(sent, 10.0, NOW + 90, NOW + 30)
    assert (row.status, row.created_at) == (Status.INPROGRESS, NOW)
    row = transitions.listed_in_progress(requested(), 10.0, NOW + 90, NOW + 30)
    assert row.created_at == NOW + 30


def test_a_download_that_takes_a_day_ends_in_error() -> None:
    row = in_progress()
    assert transitions.listed_in_progress(row, 99.0, NOW, NOW + DAY - 1).status is Status.INPROGRESS
    ended = transitions.listed_in_progress(row, 99.0, NOW, NOW + DAY)
    assert (ended.status, ended.error_code) == (Status.ERROR, ErrorCode.NOT_READY_FOR_A_DAY)


def test_a_list_that_says_ready_publishes_the_url() -> None:
    row = transitions.listed_ready(in_progress(), url_of(), (Step.VERIFY, NOW + DAY), NOW + 60)
    assert (row.status, row.url, row.percent_complete) == (Status.READY, url_of(), 100.0)
    assert (row.ready_at, row.updated_at) == (NOW + 60, NOW + 60)
    assert (row.step, row.due_at) == (Step.VERIFY, NOW + DAY)
    assert transitions.listed_ready(in_progress(), url_of(), None, NOW).queue is None


def test_a_ready_download_that_is_seen_again_stays_as_old_as_it_is() -> None:
    row = transitions.listed_ready(ready(), url_of(), None, NOW + DAY)
    assert (row.ready_at, row.updated_at, row.looked_at) == (NOW, NOW, NOW + DAY)


HOST = "customer-m033z5x00ks6nunl.cloudflarestream.com"
PATH = f"/{UID}/downloads/default.mp4"


@pytest.mark.parametrize(
    ("url", "download_type"),
    [
        (f"https://{HOST}{PATH}", DEFAULT),
        (f"https://{HOST}/{UID}/downloads/audio.m4a", AUDIO),
        (f"https://cloudflarestream.com{PATH}", DEFAULT),
        (f"https://videodelivery.net{PATH}", DEFAULT),
    ],
)
def test_a_url_of_that_video_and_type_on_a_stream_host_is_publishable(
    url: str, download_type: download.DownloadType
) -> None:
    assert download.is_publishable(url, UID, download_type)


BAD_URLS = [
    "",
    f"http://{HOST}{PATH}",
    f"HTTPS://{HOST}{PATH}",
    f"//{HOST}{PATH}",
    f" https://{HOST}{PATH}",
    f"https://{HOST}{PATH}\n",
    f"https://{HOST}{PATH}\r\nSet-Cookie: a=b",
    f"https://{HOST}\n{PATH}",
    f"https://{HOST}{PATH}?token=1",
    f"https://{HOST}{PATH}#top",
    f"https://{HOST}{PATH}/",
    f"https://{HOST}:443{PATH}",
    f"https://{HOST}:8443{PATH}",
    f"https://you@{HOST}{PATH}",
    f"https://you:me@{HOST}{PATH}",
    f"https://{HOST}@elsewhere.example{PATH}",
    f"https://elsewhere.example{PATH}",
    f"https://elsewhere.example/{HOST}{PATH}",
    f"https://evilcloudflarestream.com{PATH}",
    f"https://cloudflarestream.com.elsewhere.example{PATH}",
    f"https://elsewhere.example/.cloudflarestream.com{PATH}",
    f"https://elsewhere.example%2ecloudflarestream.com{PATH}",
    f"https://cloudflarestreamxcom{PATH}",
    f"https://a.b.cloudflarestream.com{PATH}",
    f"https://.cloudflarestream.com{PATH}",
    f"https://\uff43loudflarestream.com{PATH}",
    f"https://{HOST}/{'0' * 32}/downloads/default.mp4",
    f"https://{HOST}/{UID}{UID}/downloads/default.mp4",
    f"https://{HOST}/../{UID}/downloads/default.mp4",
    f"https://{HOST}/{UID}/downloads/audio.m4a",
    f"https://{HOST}/{UID}/downloads/defaultxmp4",
    f"https://{HOST}/{UID}/downloads/default.mp4.exe",
    f"https://{HOST}/{UID}/manifest/video.m3u8",
    f"https://{HOST}//{UID}/downloads/default.mp4",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_any_other_url_is_never_published(url: str) -> None:
    assert not download.is_publishable(url, UID, DEFAULT)
    row = in_progress()
    with pytest.raises(ValueError, match="not a download URL"):
        transitions.listed_ready(row, url, None, NOW)


def test_a_bad_url_is_waited_out_for_a_day() -> None:
    row = transitions.listed_with_bad_url(in_progress(), NOW + 30, NOW)
    assert (row.status, row.step, row.due_at, row.url) == (
        Status.INPROGRESS,
        Step.LIST,
        NOW + 30,
        None,
    )
    row = replace(row, attempts=REFUSALS_AT_LEAST)
    ended = transitions.listed_with_bad_url(row, NOW + 30, NOW + DAY)
    assert (ended.status, ended.error_code) == (Status.ERROR, ErrorCode.URL_REFUSED)


def test_a_failed_download_is_made_anew_three_times_with_growing_pauses() -> None:
    row, now, pauses = in_progress(), NOW, []
    for _ in RECREATE_PAUSES:
        row = transitions.listed_failed(row, now)
        assert (row.status, row.step) == (Status.INPROGRESS, Step.DELETE)
        assert row.due_at is not None
        pauses.append(row.due_at - now)
        now = row.due_at
        row = transitions.deleted(row, now)
        assert (row.step, row.due_at) == (Step.CREATE, now)
        row = transitions.create_accepted(transitions.create_sent(row, now), 0.0, now, now)
    assert pauses == list(RECREATE_PAUSES)
    assert all(shorter < longer for shorter, longer in pairwise(pauses))
    ended = transitions.listed_failed(row, now)
    assert (ended.status, ended.error_code) == (Status.ERROR, ErrorCode.DOWNLOAD_FAILED)
    assert ended.error_message == "Cloudflare could not make this download in 4 attempts."


def test_an_accepted_download_that_is_not_listed_yet_gets_a_grace() -> None:
    row = transitions.unlisted(in_progress(), NOW + 5)
    assert (row.step, row.due_at, row.missing_since) == (
        Step.LIST,
        NOW + 5 + UNLISTED_GRACE,
        NOW + 5,
    )
    again = transitions.unlisted(row, NOW + 5 + UNLISTED_GRACE)
    assert (again.step, again.created_at) == (Step.CREATE, None)
    assert again.due_at == NOW + 5 + UNLISTED_GRACE


def test_a_download_that_is_never_listed_is_given_up_after_four_creates() -> None:
    row, creates, now = in_progress(), 1, NOW
    while row.status is not Status.ERROR:
        now += UNLISTED_GRACE
        row = transitions.unlisted(row, now)
        if row.step is Step.CREATE:
            creates += 1
            row = transitions.create_accepted(transitions.create_sent(row, now), 0.0, now, now)
    assert (creates, row.error_code) == (4, ErrorCode.DOWNLOAD_FAILED)


def test_a_create_that_was_lost_is_made_again_only_after_a_list_and_once_it_is_settled() -> None:
    sent = transitions.create_sent(requested(attempts=1), NOW)
    assert transitions.unlisted(sent, NOW + CREATE_SETTLES_AFTER - 1) is sent
    again = transitions.unlisted(sent, NOW + CREATE_SETTLES_AFTER)
    assert (again.step, again.due_at) == (Step.CREATE, NOW + CREATE_SETTLES_AFTER)
    assert again.attempts == 1  # the next loss is followed by a longer wait


def test_a_ready_download_that_vanished_is_asked_for_after_a_grace_and_a_second_look() -> None:
    row = transitions.unlisted(ready(step=Step.VERIFY, due_at=NOW), NOW)
    assert (row.status, row.step, row.due_at) == (
        Status.READY,
        Step.VERIFY,
        NOW + UNLISTED_GRACE,
    )
    row = transitions.unlisted(row, NOW + UNLISTED_GRACE)
    assert (row.status, row.step) == (Status.READY, Step.CONFIRM)
    row = transitions.video_found(row, NOTHING, NOW + 99, NOW + UNLISTED_GRACE)
    assert (row.status, row.step, row.url) == (Status.REQUESTED, Step.CREATE, None)


def test_one_odd_list_takes_no_url_away() -> None:
    row = ready(step=Step.VERIFY, due_at=NOW)
    for odd, asked_after in product(
        (transitions.unlisted, transitions.list_not_found), (0, 30, 9000)
    ):
        after = odd(row, NOW)
        if after.step is Step.CONFIRM:  # which may take a while
            after = transitions.video_found(after, NOTHING, NOW + 9, NOW + asked_after)
        assert (after.status, after.url, after.step) == (Status.READY, url_of(), Step.VERIFY)
        seen = transitions.listed_ready(after, url_of(), None, NOW + 60)
        assert seen == replace(ready(), looked_at=NOW + 60)


def test_an_ambiguous_create_is_listed_before_another_whatever_came_between() -> None:
    row = transitions.create_refused(requested(), *REFUSAL, NOW + 90, NOW)
    row = transitions.create_sent(row, NOW + 90)  # its answer is lost
    row = transitions.video_has_failed(row, NOW + 95)
    row = transitions.video_found(row, NOTHING, NOW + 200, NOW + 200)
    assert (row.step, row.due_at) == (Step.LIST, NOW + 200)
    assert transitions.unlisted(row, NOW + 200).step is Step.CREATE
    row = transitions.list_not_found(row, NOW + 200)
    assert transitions.video_found(row, NOTHING, NOW + 209, NOW + 201).step is Step.CREATE


# --- Confirm


def test_what_cloudflare_does_not_know_makes_us_ask_for_the_video() -> None:
    row = transitions.not_found(transitions.create_sent(requested(), NOW), NOW + 1)
    assert (row.step, row.due_at, row.refused_since) == (Step.CONFIRM, NOW + 1, NOW + 1)


def test_a_video_that_is_there_gets_its_create_again_with_what_is_new_about_it() -> None:
    asked = transitions.not_found(requested(name="old", creator="me"), NOW)
    row = transitions.video_found(asked, VideoFacts(name="new"), NOW + 30, NOW + 1)
    assert (row.step, row.due_at, row.attempts) == (Step.CREATE, NOW + 30, 1)
    assert (row.name, row.creator, row.updated_at) == ("new", "me", NOW + 1)


def test_facts_that_are_known_are_no_update() -> None:
    asked = transitions.not_found(requested(name="old"), NOW)
    row = transitions.video_found(asked, VideoFacts(name="old"), NOW + 30, NOW + 1)
    assert row.updated_at == NOW


def test_downloads_that_stay_unknown_are_listed_once_more_and_then_created() -> None:
    row = transitions.list_not_found(in_progress(), NOW)
    row = transitions.video_found(row, NOTHING, NOW + 9, NOW)
    assert (row.step, row.due_at) == (Step.LIST, NOW + UNLISTED_GRACE)
    row = transitions.list_not_found(row, NOW + UNLISTED_GRACE)
    row = transitions.video_found(row, NOTHING, NOW + 99, NOW + UNLISTED_GRACE)
    assert (row.step, row.recreations) == (Step.CREATE, 1)


def test_a_download_that_is_refused_for_a_day_ends_in_error() -> None:
    asked = transitions.not_found(requested(attempts=REFUSALS_AT_LEAST), NOW)
    row = transitions.video_found(asked, NOTHING, NOW + 9, NOW + DAY)
    assert row.step is Step.CREATE  # which may be refused with Cloudflare's own words
    row = transitions.video_found(asked, NOTHING, NOW + 9, NOW + DAY + WORDS_COME_WITHIN)
    assert (row.status, row.error_code) == (Status.ERROR, ErrorCode.REFUSED)


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (requested(), Status.ERROR),
        # It was not listed for a while: that says nothing of the video.
        (in_progress(missing_since=NOW - 2 * GONE_GRACE), Status.ERROR),
        (ready(step=Step.VERIFY, due_at=NOW), Status.DELETED),
    ],
)
def test_a_video_is_gone_only_after_a_grace_and_a_second_look(
    row: Download, status: Status
) -> None:
    first = transitions.video_not_found(transitions.not_found(row, NOW), NOW)
    assert (first.status, first.step, first.due_at) == (
        row.status,
        Step.CONFIRM,
        NOW + GONE_GRACE,
    )
    assert transitions.video_not_found(first, NOW + GONE_GRACE - 1).status is row.status
    ended = transitions.video_not_found(first, NOW + GONE_GRACE)
    assert (ended.status, ended.url, ended.step) == (status, None, None)
    if status is Status.ERROR:
        assert ended.error_code == ErrorCode.VIDEO_GONE
        assert transitions.video_is_ready(ended, NOW + DAY).status is Status.REQUESTED
    else:
        assert transitions.video_is_ready(ended, NOW + DAY) is ended


# --- Delete


def test_a_tombstone_stays() -> None:
    row = transitions.deleted(deleting(), NOW + 9)
    assert (row.status, row.step, row.due_at) == (Status.DELETED, None, None)
    assert (row.percent_complete, row.created_at, row.updated_at) == (None, None, NOW + 9)


def test_a_delete_that_is_refused_for_a_day_ends_in_error() -> None:
    row = transitions.delete_refused(deleting(), *REFUSAL, NOW + 30, NOW)
    assert (row.status, row.step, row.due_at) == (Status.DELETING, Step.DELETE, NOW + 30)
    row = replace(row, attempts=REFUSALS_AT_LEAST)
    ended = transitions.delete_refused(row, *REFUSAL, NOW + 30, NOW + DAY)
    assert (ended.status, ended.error_code) == (Status.ERROR, ErrorCode.DELETE_REFUSED)
    assert all(word in str(ended.error_message) for word in REFUSAL)


def test_a_delete_in_order_to_create_again_ends_in_cloudflares_own_reason() -> None:
    row = transitions.listed_failed(in_progress(), NOW)
    row = replace(row, refused_since=NOW, attempts=REFUSALS_AT_LEAST)
    ended = transitions.delete_refused(row, *REFUSAL, NOW + 30, NOW + DAY)
    assert (ended.status, ended.error_code, ended.error_message) == (Status.ERROR, *REFUSAL)


def test_a_retry_of_a_refused_delete_deletes_and_of_all_else_asks_again() -> None:
    row = deleting(refused_since=NOW - DAY, attempts=REFUSALS_AT_LEAST)
    refused = transitions.delete_refused(row, *REFUSAL, NOW, NOW)
    assert refused.status is Status.ERROR
    again = transitions.retry(refused, NOW + 9)
    assert (again.status, again.step, again.error_code) == (Status.DELETING, Step.DELETE, None)
    assert transitions.retry(failed(), NOW + 9) == transitions.request_again(failed(), NOW + 9)


@pytest.mark.parametrize("state", sorted(set(ROWS) - {"error", "video failed"}))
def test_a_retry_leaves_alone_what_did_not_end_in_error(state: str) -> None:
    assert transitions.retry(ROWS[state], NOW + 9) is ROWS[state]
