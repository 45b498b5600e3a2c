"""Workloads run: the service as it is, and the minute poller, each in a virtual time of its own."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stream_downloads.adapters.observability import logger
from stream_downloads.domain.download import DownloadType, Status
from tests.bench.capacity import MeteredWorld, Units
from tests.bench.minute_poller import MinutePoller
from tests.bench.workloads import Workload
from tests.simulator import Call, StreamSimulator
from tests.support.clock import START, VirtualClock
from tests.support.world import SCHEDULED, World

LATENCY_SECONDS = 0.2
# The scheduler's minutes have nothing to do with the videos'.
FIRST_RUN_AFTER = 17.0
GIVE_UP_AFTER = 48 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run over a workload cost, and how late it was. Times are in seconds.

    Attributes:
        videos: how many there were to make ready.
        delays: of each download, from ready at Cloudflare to ready in the table.
        waits: of each download, from the webhook to ready in the table.
        calls: every request to Cloudflare.
        most_in_five_minutes: requests in any rolling five minutes.
        slowest: how long the slowest download took to generate.
        units: what DynamoDB would have charged for the downloads table and the control table.
    """

    videos: int
    delays: list[float]
    waits: list[float]
    calls: list[Call]
    most_in_five_minutes: int
    slowest: float
    units: tuple[Units, Units] | None = None

    @property
    def lists(self) -> float:
        """Lists per download."""
        return sum(self.looks.values()) / self.videos

    @property
    def looks(self) -> Counter[str | None]:
        """Lists of each download."""
        return Counter(call.video_uid for call in self.calls if call.name == "list downloads")

    @property
    def throttled(self) -> int:
        """Requests that were answered 429."""
        return sum(call.status == 429 for call in self.calls)

    @property
    def mean_delay(self) -> float:
        """From ready at Cloudflare to ready in the table."""
        return statistics.fmean(self.delays)

    @property
    def mean_wait(self) -> float:
        """From the webhook to ready in the table."""
        return statistics.fmean(self.waits)

    def delay(self, percent: int) -> float:
        """The delay that so many percent of the downloads do not exceed."""
        return statistics.quantiles(self.delays, n=100)[percent - 1]


def run_service(workload: Workload) -> Result:
    """Run the handlers of the service, with a run of the poller every minute."""
    world = MeteredWorld(
        limit=workload.limit,
        price=workload.price_of_a_poll,
        latency=LATENCY_SECONDS,
        arriving=True,
        wakes=workload.window or None,
        seed=workload.seed,
    )
    _upload(workload, world.simulator)
    rows = world.downloads.rows

    def done() -> bool:
        ready = sum(row.status is Status.READY for row in rows.values())
        return ready == workload.videos

    with quiet():
        _every_minute(world.clock, lambda: world.poll(workload.window, command=SCHEDULED), done)
    ready_at = {row.video_uid: row.ready_at for row in rows.values() if row.ready_at is not None}
    return _result(world.simulator, ready_at, (world.downloads.units, world.control.units))


def run_minute_poller(workload: Workload) -> Result:
    """The minute poller, over the same workload."""
    world = World(seed=workload.seed)
    clock, simulator = world.clock, world.simulator
    _upload(workload, simulator)
    poller = MinutePoller(world.service.gateway.stream, workload.limit, clock, LATENCY_SECONDS)

    def deliver() -> None:
        for webhook in simulator.due_webhooks():
            poller.receive(webhook.video_uid)

    clock.next_event = lambda: simulator.next_webhook_at
    clock.happen = deliver
    _every_minute(clock, poller.run, lambda: len(poller.ready_at) == workload.videos)
    return _result(simulator, poller.ready_at)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log and no metrics: of a million lines nobody would read one."""
    level = logger.log_level
    logger.setLevel("CRITICAL")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _upload(workload: Workload, simulator: StreamSimulator) -> None:
    for upload in workload.uploads():
        simulator.upload(upload)


def _every_minute(clock: VirtualClock, run: Callable[[], object], done: Callable[[], bool]) -> None:
    """As the scheduler does; a run that would begin while another is at work does nothing."""
    next_run = START + FIRST_RUN_AFTER
    while clock() < START + GIVE_UP_AFTER and not done():
        clock.sleep(next_run - clock())
        run()
        while next_run <= clock():
            next_run += 60.0


def _result(
    simulator: StreamSimulator,
    seen_at: dict[str, float],
    units: tuple[Units, Units] | None = None,
) -> Result:
    delays, waits, slowest = [], [], 0.0
    for uid, seen in seen_at.items():
        video = simulator.videos[uid]
        download = video.downloads[DownloadType.DEFAULT]
        delays.append(seen - download.ends_at)
        waits.append(seen - video.encoded_at)
        slowest = max(slowest, download.seconds)
    return Result(
        videos=len(simulator.videos),
        delays=delays,
        waits=waits,
        calls=simulator.calls,
        most_in_five_minutes=simulator.most_requests_in(),
        slowest=slowest,
        units=units,
    )
