"""Run the real handlers against a simulated Cloudflare in virtual time."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import Budget
from stream_downloads.adapters.stream_api import StreamClient
from stream_downloads.domain import polling
from stream_downloads.domain.commands import PollCommand
from stream_downloads.domain.download import Download, DownloadType
from stream_downloads.domain.request_budget import Asker
from stream_downloads.services.dependencies import RecentPace, Service
from stream_downloads.services.gateway import Gateway
from stream_downloads.services.poll import Poller, Summary
from stream_downloads.services.reconcile import Run
from stream_downloads.services.record import Known
from stream_downloads.services.steps import Outcome
from stream_downloads.services.waker import Waker
from tests.simulator import BASE_URL, InProcessPool, Settings, StreamSimulator, Webhook
from tests.support.clock import VirtualClock
from tests.support.memory import MemoryControl, MemoryDownloads
from tests.support.template import environment

os.environ |= environment() | {"AWS_DEFAULT_REGION": "us-east-1"}


from stream_downloads.services.receive import receive
from stream_downloads.services.signing_secret import OWNER, REGISTRATION

BY_HAND = PollCommand()
SCHEDULED = PollCommand(scheduled=True)
# The seconds of an asynchronous invocation, some with a cold start.
STARTS_AFTER = 1.0
WEBHOOK_URL = "https://receive.lambda-url.us-east-1.on.aws/"

Job = Sequence[Download]


class FixedCredentials:
    """Credentials that need no Secrets Manager: the token in memory, and the one that is stored.

    Attributes:
        reads: how often the stored token was read again.
        seconds: how long it takes to get the headers.
    """

    def __init__(self, token: str, clock: VirtualClock) -> None:
        self.in_memory = self.stored = token
        self.reads = 0
        self.seconds = 0.0
        self._clock = clock

    def headers(self) -> Mapping[str, str]:
        """Do as `stream_downloads.adapters.secrets.ApiCredentials.headers`."""
        self._clock.sleep(self.seconds)
        if not self.in_memory:
            raise SecretUnavailable("secret arn: it cannot be read")
        return {"Authorization": f"Bearer {self.in_memory}"}

    def reread(self) -> None:
        """Do as `stream_downloads.adapters.secrets.ApiCredentials.reread`."""
        self.refresh()
        self.headers()

    def refresh(self) -> bool:
        """Do as `stream_downloads.adapters.secrets.ApiCredentials.refresh`."""
        self.reads += 1
        changed = self.in_memory != self.stored
        self.in_memory = self.stored
        return changed


class FixedSecrets:
    """The signing secret that the simulator signs with."""

    def __init__(self, simulator: StreamSimulator) -> None:
        self._simulator = simulator

    def candidates(self) -> tuple[bytes, ...]:
        """Do as `stream_downloads.adapters.secrets.SigningSecrets.candidates`."""
        subscription = self._simulator.outbox.subscription
        return (subscription.secret.encode(),) if subscription else ()

    def refresh(self) -> None:
        """Do as `stream_downloads.adapters.secrets.SigningSecrets.refresh`."""


class World:
    """One stack and one Cloudflare, in one process and one virtual time.

    Args:
        limit: ``CloudflareRequestLimit``.
        download_types: ``DownloadTypes``.
        retention: seconds until a ready download is deleted; 0 keeps it.
        price: of a poll at a load, `stream_downloads.domain.polling.price` unless given.
        latency: virtual seconds that a batch of requests to Cloudflare takes, made in parallel by
            the poller; those of a webhook take none.
        arriving: True if webhooks arrive at their time while the clock moves; else the test calls
            ``deliver_webhooks``.
        wakes: the window of the runs that webhooks start while no other is at work; 0: they start
            none.
        seed: of all random numbers.
    """

    # The types of the two tables in memory.
    downloads_type: type[MemoryDownloads] = MemoryDownloads
    control_type: type[MemoryControl] = MemoryControl

    def __init__(
        self,
        *,
        limit: int = 600,
        download_types: tuple[DownloadType, ...] = (DownloadType.DEFAULT,),
        retention: float = 0.0,
        price: Callable[[float], float] = polling.price,
        latency: float = 0.0,
        arriving: bool = False,
        wakes: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.clock = VirtualClock()
        self.wakes = wakes
        self._woken: list[tuple[float, str]] = []
        self.simulator = StreamSimulator(clock=self.clock, seed=seed)
        self.downloads = self.downloads_type()
        self.control = self.control_type(self.clock)
        self.latency = latency
        self.price = price
        self.credentials: Any = FixedCredentials(self.simulator.settings.api_token, self.clock)
        # Another function's view of the shared limit.
        self.budget = Budget(self.control, limit, self.clock)
        # Each function has its own process: they share only the tables.
        self.service = self.make_service(limit, download_types, retention, seed)
        self.webhook_service = self.make_service(limit, download_types, retention, seed + 1)
        self.secrets = FixedSecrets(self.simulator)
        self.simulator.outbox.subscribe(WEBHOOK_URL, self.clock())
        self.control.write(REGISTRATION, {"position": OWNER}, 0)
        if arriving:
            self.clock.next_event = self._next_event
            self.clock.happen = self._happen

    def make_service(
        self, limit: int, download_types: tuple[DownloadType, ...], retention: float, seed: int
    ) -> Service:
        """Return the service, as one function would have it."""
        return Service(
            downloads=self.downloads,
            control=self.control,
            gateway=make_gateway(
                self.control,
                limit,
                self.credentials,
                self.clock,
                InProcessPool(self.simulator, sleep=self.clock.sleep),
            ),
            pace=RecentPace(self.control, self.clock),
            waker=Waker(self.control, self.start_poller, self.wakes, self.clock)
            if self.wakes
            else None,
            download_types=download_types,
            retention=retention,
            price=self.price,
            clock=self.clock,
            monotonic=self.clock,
            sleep=self.clock.sleep,
            jitter=random.Random(seed).random,  # noqa: S311
        )

    def deliver_webhooks(self) -> list[int]:
        """Send the webhooks that are due now; return the statuses of the answers."""
        return [self.deliver(webhook) for webhook in self.simulator.due_webhooks()]

    def deliver(self, webhook: Webhook) -> int:
        """Send one webhook; return the status of the answer."""
        secrets: Any = self.secrets
        event = function_url_event(webhook.body, webhook.headers)
        answer = receive(self.webhook_service, secrets, event)
        return int(answer["statusCode"])

    def start_poller(self, claim: str) -> None:
        """Do as `stream_downloads.services.waker.start_poller`: the run begins a moment later."""
        self._woken.append((self.clock() + STARTS_AFTER, claim))

    def poll(
        self, window: float = 0.0, timeout: float = 80.0, command: PollCommand = BY_HAND
    ) -> Summary:
        """Run the poller once, now."""
        ends_at = self.clock() + timeout
        poller = Poller(self.service, lambda: ends_at - self.clock(), self._in_parallel)
        return poller.run(window, command)

    def reconcile(
        self,
        since: float | None = None,
        *,
        remaining: Callable[[], float] = lambda: 600.0,
        known: Known | None = None,
        lookback: float = 48 * 3600.0,
        period: float = 3600.0,
    ) -> dict[str, Any]:
        """Run the reconciliation once, now; the arguments are those of `Run`."""
        run = Run(self.service, remaining, map, known, period=period)
        return run.reconcile(lookback, since)

    def use_up_budget(self) -> None:
        """Take every request that the limit still allows."""
        while self.budget.take(1000, Asker.OPERATOR).count:
            pass

    def _next_event(self) -> float | None:
        times = [at for at, _ in self._woken]
        if self.simulator.next_webhook_at is not None:
            times.append(self.simulator.next_webhook_at)
        return min(times, default=None)

    def _happen(self) -> None:
        self.deliver_webhooks()
        while self._woken and self._woken[0][0] <= self.clock():
            _, claim = self._woken.pop(0)
            self.poll(self.wakes, command=PollCommand(claim=claim))

    def _in_parallel(
        self, advance: Callable[[Job], Outcome], jobs: Sequence[Job]
    ) -> Iterator[Outcome]:
        """Let the requests of a batch reach Cloudflare together, after their latency."""
        self.clock.sleep(self.latency)
        return map(advance, jobs)


def make_gateway(
    control: Any, limit: int, credentials: Any, clock: VirtualClock, pool: InProcessPool
) -> Gateway:
    """Return one function's way to the simulated Cloudflare, within the shared limit."""
    budget = Budget(control, limit, clock)
    stream = StreamClient(
        Settings.account_id,
        base_url=BASE_URL,
        authorization=credentials.headers,
        pool=pool,
        on_rate_limit=budget.observe,
        monotonic=clock,
    )
    return Gateway(budget, credentials, stream)


def function_url_event(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return a Function URL event (payload format 2.0) with this body."""
    return {
        "requestContext": {"http": {"method": "POST"}},
        "headers": {name.lower(): value for name, value in headers.items()},
        "body": body.decode(),
        "isBase64Encoded": False,
    }
