"""A stack that no webhook reaches: ReconcileMinutes 1, and the other values that it may have."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stream_downloads.adapters.observability import Metric
from stream_downloads.domain import library
from stream_downloads.domain.download import DownloadType, Status
from stream_downloads.domain.library import HOURS_EVERY, PAGE
from stream_downloads.services.record import Known
from stream_downloads.services.signing_secret import REGISTRATION
from tests.integration.test_metrics import recording
from tests.support.world import World

# Hours of virtual time, whose lines others cover.
pytestmark = pytest.mark.no_cover
HOUR = 3600.0


class Minutely(World):
    """A warm stack with ReconcileMinutes 1 (or ``minutes``) in virtual time."""

    def __init__(self, minutes: int = 1, lookback: float = 48.0, **options: Any) -> None:
        super().__init__(limit=1000, **options)
        self.period = minutes * 60.0
        self.lookback = lookback * HOUR
        self.known = Known()

    def run(self, since: float | None = None) -> dict[str, Any]:
        """Reconcile, with ten minutes of time."""
        ends_at = self.clock() + 600.0
        return self.reconcile(
            since,
            remaining=lambda: ends_at - self.clock(),
            known=self.known,
            lookback=self.lookback,
            period=self.period,
        )

    def pass_by(self, minutes: int, *, each: Callable[[], object] = list) -> None:
        """Let time pass: runs of the poller, and half a minute after each a reconciliation."""
        clock = self.clock
        next_event, happen = clock.next_event, clock.happen
        due_at = clock() + 30.0

        def reconcile_or_happen() -> None:
            nonlocal due_at
            if clock() < due_at:
                happen()
                return
            due_at += self.period
            self.run()

        clock.next_event = lambda: min(due_at, next_event() or due_at)
        clock.happen = reconcile_or_happen
        for _ in range(minutes):
            ends_at = clock() + 60
            each()
            self.poll(55)
            clock.sleep(max(0.0, ends_at - clock()))
        clock.next_event, clock.happen = next_event, happen

    def seconds_until_requested(self) -> list[float]:
        """Return how long after each video was ready its row was there."""
        videos = self.simulator.videos
        return [
            row.requested_at - videos[row.video_uid].encoded_at
            for row in self.downloads.rows.values()
        ]

    def listings(self) -> int:
        return self.simulator.counts()["list videos"]


def test_every_video_is_requested_within_90_seconds_and_ends_ready() -> None:
    stack = Minutely(arriving=True, wakes=55.0)
    chance = random.Random(15)  # noqa: S311
    stack.run()  # what was there before the stack

    def upload() -> None:
        for _ in range(5):
            if len(stack.simulator.videos) < 200:
                stack.simulator.upload(
                    webhook_delays=(),
                    encode_seconds=chance.uniform(0, 1800),
                    generation_seconds=chance.lognormvariate(4.5, 1.0),
                )

    with recording() as written:
        stack.pass_by(120, each=upload)
    rows = stack.downloads.rows.values()
    assert len(rows) == 200
    assert {row.status for row in rows} == {Status.READY}
    assert max(stack.seconds_until_requested()) <= 60
    creates = [call for call in stack.simulator.calls if call.name == "create download"]
    assert len(creates) == 200
    videos = stack.simulator.videos
    assert max(call.at - videos[call.video_uid or ""].encoded_at for call in creates) <= 90
    # Once an hour also the videos that are encoding.
    assert stack.listings() == 120 + 1 + 1 + 2
    assert not [series for series in written.metrics if series.name == Metric.VIDEOS_FOUND]


def test_a_busy_library_costs_a_request_a_minute_and_more_for_a_page_of_news() -> None:
    stack = Minutely()
    # In three hours of it there are three pages.
    for _ in range(3 * PAGE):
        stack.simulator.upload(webhook_delays=())
        stack.clock.now += 3.6
    stack.run()
    before = stack.listings()
    for _ in range(30):
        for _ in range(17):
            stack.simulator.upload(webhook_delays=())
        stack.clock.now += 60
        stack.run()
    assert stack.listings() - before == 30
    assert len(stack.downloads.rows) == len(stack.simulator.videos)
    for _ in range(PAGE):
        stack.simulator.upload(webhook_delays=())
        stack.clock.now += 0.05
    before = stack.listings()
    stack.run()
    assert stack.listings() - before == 2
    assert len(stack.downloads.rows) == len(stack.simulator.videos)


def test_a_video_that_is_slower_than_many_newer_ones_is_found_within_the_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "RECENT_VIDEOS", 50)
    stack = Minutely()
    stack.run()
    uid = stack.simulator.upload(webhook_delays=(), encode_seconds=HOUR)
    for _ in range(60):
        stack.clock.now += 60
        for _ in range(3):
            stack.simulator.upload(webhook_delays=())
        stack.run()
    ready_at = stack.clock()
    while (uid, DownloadType.DEFAULT) not in stack.downloads.rows:
        stack.clock.now += 60
        stack.run()
        assert stack.clock() - ready_at <= HOURS_EVERY + 60


@pytest.mark.parametrize("encodes_hours", [0.4, 2.0, 5.0, 60.0])
@pytest.mark.parametrize(("minutes", "lookback"), [(1, 48.0), (7, 4.0), (60, 48.0), (1440, 2.0)])
def test_a_video_is_found_however_long_it_encodes(
    minutes: int, lookback: float, encodes_hours: float
) -> None:
    stack = Minutely(minutes, lookback)
    stack.run()
    stack.clock.now += 30
    uid = stack.simulator.upload(webhook_delays=(), encode_seconds=encodes_hours * HOUR)
    ready_at = stack.clock() + encodes_hours * HOUR
    while (uid, DownloadType.DEFAULT) not in stack.downloads.rows:
        stack.clock.now += stack.period
        stack.run()
        late = stack.clock() - ready_at
        # Once an hour the encoding videos are listed: those of over three hours are found then.
        assert late <= (stack.period if encodes_hours < 3 else max(stack.period, HOURS_EVERY + 420))


def test_an_item_costs_under_three_read_units_in_a_warm_process() -> None:
    stack = Minutely(minutes=4)
    stack.run()
    for run in range(3 * 24 * 15):  # until the first ones are out of reach
        if run % 15 == 0:
            stack.simulator.upload(webhook_delays=())
        stack.clock.now += stack.period
        stack.run()
    complete = list(stack.simulator.videos)[:20]
    assert max(0.5 * stack.downloads.looked_up[uid] for uid in complete) <= 2.0


@pytest.mark.parametrize(
    ("minutes", "registered", "counted"),
    [(1, True, 0), (10, True, 0), (11, True, 1), (60, False, 0)],
)
def test_only_a_stack_that_depends_on_webhooks_counts_those_that_are_missed(
    minutes: int, *, registered: bool, counted: int
) -> None:
    stack = Minutely(minutes=minutes)
    if not registered:
        stack.control.write(REGISTRATION, {}, stack.control.read(REGISTRATION).version)
    stack.run()
    stack.simulator.upload(webhook_delays=())
    stack.clock.now += HOUR
    with recording() as written:
        stack.run()
    told = {series.name: sum(values) for series, values in written.metrics.items()}
    assert told.get(Metric.VIDEOS_FOUND, 0) == counted
    assert (Metric.VIDEOS_FOUND in told) is bool(counted)
    assert len(stack.downloads.rows) == 1


def test_webhooks_beside_it_lead_to_no_second_create() -> None:
    stack, chance = Minutely(arriving=True), random.Random(3)  # noqa: S311
    stack.run()

    def upload() -> None:
        for _ in range(4):
            stack.simulator.upload(
                encode_seconds=chance.uniform(0, 300),
                webhook_delays=chance.choice([(), (0.0,), (0.0, 30.0), (59.0, 61.0), (400.0,)]),
                generation_seconds=chance.uniform(1, 200),
            )
        if len(stack.simulator.videos) > 196:
            stack.simulator.habit = tuple

    stack.pass_by(50, each=upload)
    stack.pass_by(30)
    creates = Counter(
        call.video_uid for call in stack.simulator.calls if call.name == "create download"
    )
    assert creates == dict.fromkeys(stack.simulator.videos, 1)
    assert {row.status for row in stack.downloads.rows.values()} == {Status.READY}
