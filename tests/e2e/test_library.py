"""Test a library of 1,200 videos, with webhooks that are lost, repeated and out of order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import pytest

from tests.e2e.deployed import DAY, Deployed, eventually
from tests.simulator import unreliable

OLD_VIDEOS: Final = 1_160  # over a page, and more than the requests of five minutes
NEW_VIDEOS: Final = 40
REQUEST_LIMIT: Final = 600  # the template's default


@dataclass
class Library:
    """The videos of before the stack, those of today, and the requests before all of this."""

    old: list[str]
    new: list[str]
    calls_before: int


@pytest.fixture
def library(plain: Deployed) -> Iterator[Library]:
    """Yield a library of which the stack has few rows."""
    calls_before = len(plain.cloudflare.calls)
    library = Library(old_library(plain), new_videos_with_bad_webhooks(plain), calls_before)
    yield library
    plain.forget([*library.old, *library.new])


def test_every_video_gets_its_row_and_no_request_is_too_many(
    plain: Deployed, library: Library
) -> None:
    answer = plain.reconcile(since="2020-01-01T00:00:00Z")
    assert answer["ended"] == "done"
    assert {uid for uid, _ in plain.stack.rows()} >= {*library.old, *library.new}
    assert plain.reconcile()["videos_requested"] == 0

    # Today's videos first, the library with what they leave of the allowance.
    plain.poll()
    assert plain.poll()["ended"] == "the requests of these five minutes are used up"
    assert {plain.status(uid) for uid in library.new} == {"ready"}
    assert len(plain.cloudflare.calls) - library.calls_before <= REQUEST_LIMIT
    plain.pass_five_minutes()
    plain.poll()
    rows = plain.stack.rows()
    old = Counter(rows[uid, "default"]["status"] for uid in library.old)
    assert old["ready"] >= 150
    assert set(old) == {"ready", "inprogress", "requested"}

    calls = plain.cloudflare.calls
    assert 429 not in {call.status for call in calls}
    creates = Counter(call.video_uid for call in calls if call.name == "create download")
    for uid in (*library.old, *library.new):
        assert creates[uid] == (0 if rows[uid, "default"]["status"] == "requested" else 1)


def old_library(deployed: Deployed) -> list[str]:
    """Upload a month ago, one a second, videos without a webhook; return their ids."""
    cloudflare, uids = deployed.cloudflare, []
    now, began = cloudflare.clock, time.time() - 30 * DAY
    try:
        for number in range(OLD_VIDEOS):
            cloudflare.clock = partial(float, began + number)
            uids.append(deployed.upload(webhook_delays=()))
    finally:
        cloudflare.clock = now
    return uids


def new_videos_with_bad_webhooks(deployed: Deployed) -> list[str]:
    """Upload videos of today with unreliable webhooks, and await these; return their ids."""
    habit = unreliable(1, lost=0.3, twice=0.3, late_seconds=2.0)
    plans = [tuple(habit()) for _ in range(NEW_VIDEOS)]
    uids = [deployed.upload(webhook_delays=delays) for delays in plans]
    answers = eventually(
        lambda: [status for uid in uids for status in deployed.webhook_answers(uid)],
        lambda found: len(found) == sum(map(len, plans)),
        within=60.0,
    )
    assert set(answers) <= {200, 0}  # 0: too late for Cloudflare, and lost
    return uids
