"""Runs a workload: the service as it is, and the minute poller, each in its own virtual time."""

from __future__ import annotations

import contextlib
import io
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from stream_downloads.adapters.observability import logger
from stream_downloads.domain.download import DownloadType, Status
from tests.bench.capacity import MeteredWorld, Units
from tests.bench.minute_poller import MinutePoller
from tests.bench.workloads import Workload
from tests.simulator import Call, StreamSimulator
from tests.support.clock import START, VirtualClock
from tests.support.world import SCHEDULED, World

LATENCY_SECONDS = 0.2
# The schedule's minutes are independent of the times of the videos.
FIRST_RUN_AFTER = 17.0
GIVE_UP_AFTER = 48 * 3600.0
# The library is older than the look-back, so that only the backfill finds it.
LIBRARY_AGE = 7 * 86_400.0
RECONCILE_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The requests, delays and units of a run over a workload. Times are in seconds.

    Attributes:
        uids: the videos that count: those with a webhook, or else the library.
        delays: of each download, from ready at Cloudflare to ready in the table.
        waits: of each download, from the webhook or the backfill to ready in the table.
        calls: every request to Cloudflare.
        most_in_five_minutes: requests in any rolling five minutes.
        floor: the least seconds for a burst, None if the videos do not come at once.
        units: what DynamoDB would have charged for both tables; None where that does not apply.
    """

    uids: Sequence[str]
    delays: list[float]
    waits: list[float]
    calls: list[Call]
    most_in_five_minutes: int
    floor: float | None
    units: Units | None = None

    @property
    def polls(self) -> Counter[str | None]:
        """Return the number of lists of each download that counts."""
        uids = set(self.uids)
        return Counter(
            call.video_uid
            for call in self.calls
            if call.name == "list downloads" and call.video_uid in uids
        )

    def numbers(self) -> dict[str, float | None]:
        """Return the figures by name; None where one does not apply."""
        videos, units, floor = len(self.uids), self.units, self.floor
        cuts = statistics.quantiles(self.delays, n=100, method="inclusive")
        return {
            "lists": self.polls.total() / videos,
            "requests": len(self.calls),
            "mean": statistics.fmean(self.delays),
            "median": statistics.median(self.delays),
            "p95": cuts[94],
            "p99": cuts[98],
            "max": max(self.delays),
            "write_units": units.write / videos if units else None,
            "read_units": units.read / videos if units else None,
            "throttled": sum(call.status == HTTPStatus.TOO_MANY_REQUESTS for call in self.calls),
            "most_in_five_minutes": self.most_in_five_minutes,
            "mean_wait": statistics.fmean(self.waits),
            "mean_of_floor": statistics.fmean(self.waits) / floor if floor else None,
            "last_of_floor": max(self.waits) / floor if floor else None,
            "unfinished": videos - len(self.delays),
        }


def run_service(workload: Workload) -> Result:
    """Run the handlers of the service, with a run of the poller every minute."""
    world = MeteredWorld(
        limit=workload.limit,
        price=workload.price_of_a_poll,
        latency=LATENCY_SECONDS,
        arriving=True,
        wakes=workload.window,
        seed=workload.seed,
    )
    uids = _upload(workload, world)
    rows = world.downloads.rows
    keys = [(uid, DownloadType.DEFAULT) for uid in uids]

    def done() -> bool:
        return all(key in rows and rows[key].status is Status.READY for key in keys)

    with quiet():
        _every_minute(world.clock, _scheduled(workload, world), done)
    ready_at = {row.video_uid: row.ready_at for row in rows.values() if row.ready_at is not None}
    downloads, control = world.downloads.units, world.control.units
    units = Units(downloads.read + control.read, downloads.write + control.write)
    # With a backfill, most units are for downloads that do not count.
    counted = None if workload.videos and workload.library else units
    return _result(workload, world.simulator, uids, ready_at, counted)


def _scheduled(workload: Workload, world: World) -> Callable[[], object]:
    """Return the function to run each minute: the poller, and hourly the backfill of a library."""
    reconcile_at = START if workload.library else math.inf
    since: float | None = START - 2 * LIBRARY_AGE

    def run() -> None:
        nonlocal reconcile_at, since
        if world.clock() >= reconcile_at:
            world.reconcile(since, remaining=lambda: RECONCILE_SECONDS)
            reconcile_at, since = world.clock() + 3600.0, None
        world.poll(workload.window, command=SCHEDULED)

    return run


def run_minute_poller(workload: Workload) -> Result:
    """Run the minute poller over the same workload."""
    world = World(seed=workload.seed)
    clock, simulator = world.clock, world.simulator
    uids = _upload(workload, world)
    poller = MinutePoller(world.service.gateway.stream, workload.limit, clock, LATENCY_SECONDS)
    for uid, video in simulator.videos.items():
        if video.created_at < START:
            poller.receive(uid)

    def deliver() -> None:
        for webhook in simulator.due_webhooks():
            poller.receive(webhook.video_uid)

    clock.next_event = lambda: simulator.next_webhook_at
    clock.happen = deliver
    _every_minute(clock, poller.run, lambda: poller.ready_at.keys() >= set(uids))
    return _result(workload, simulator, uids, poller.ready_at)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Write no log and no metrics, which would be a million lines."""
    level = logger.log_level
    logger.setLevel("CRITICAL")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _upload(workload: Workload, world: World) -> Sequence[str]:
    """Upload the library long before the start, and the others; return the uids that count."""
    simulator, clock = world.simulator, world.clock
    library = []
    for number, upload in enumerate(workload.library_uploads()):
        clock.now = START - LIBRARY_AGE + number  # one time for all could not be paged
        library.append(simulator.upload(upload))
    clock.now = START
    return [simulator.upload(upload) for upload in workload.uploads()] or library


def _every_minute(clock: VirtualClock, run: Callable[[], object], done: Callable[[], bool]) -> None:
    """Run as the schedule does; skip a run that would begin while another is at work."""
    next_run = START + FIRST_RUN_AFTER
    while clock() < START + GIVE_UP_AFTER and not done():
        clock.sleep(next_run - clock())
        run()
        while next_run <= clock():
            next_run += 60.0


def _result(
    workload: Workload,
    simulator: StreamSimulator,
    uids: Sequence[str],
    seen_at: dict[str, float],
    units: Units | None = None,
) -> Result:
    seen = [(simulator.videos[uid], seen_at[uid]) for uid in uids if uid in seen_at]
    return Result(
        uids=uids,
        delays=[at - video.downloads[DownloadType.DEFAULT].ends_at for video, at in seen],
        waits=[at - max(START, video.encoded_at) for video, at in seen],
        calls=simulator.calls,
        most_in_five_minutes=simulator.most_requests_in(),
        floor=None if workload.rate else workload.floor,
        units=units,
    )
