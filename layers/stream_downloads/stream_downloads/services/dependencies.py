"""Builds the parts of the service from a function's environment."""

from __future__ import annotations

import math
import os
import random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from stream_downloads.adapters import aws
from stream_downloads.adapters.downloads_table import Downloads, DownloadsTable
from stream_downloads.adapters.observability import LogLimit
from stream_downloads.adapters.secrets import ApiCredentials
from stream_downloads.adapters.shared_state import Budget, Control, ControlTable
from stream_downloads.adapters.stream_api import StreamClient
from stream_downloads.domain import polling
from stream_downloads.domain.download import DownloadType, download_types
from stream_downloads.domain.pace import PACE, Pace
from stream_downloads.services.gateway import Gateway
from stream_downloads.services.steps import Steps
from stream_downloads.services.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable


PACE_KEPT_FOR: Final = 60.0


class RecentPace:
    """Caches for a minute how long recent downloads took."""

    def __init__(self, control: Control, monotonic: Callable[[], float]) -> None:
        self._control = control
        self._monotonic = monotonic
        self._pace = Pace.of({})
        self._fresh_until = -math.inf

    def read(self) -> Pace:
        """Return the pace, read at most a minute ago."""
        if self._monotonic() >= self._fresh_until:
            self._pace = Pace.parse(self._control.read(PACE).value)
            self._fresh_until = self._monotonic() + PACE_KEPT_FOR
        return self._pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts that the functions share. Tests pass parts of their own.

    Attributes:
        download_types: which downloads every ready video gets.
        retention: seconds after which a ready download is deleted; 0 keeps it.
        price: the price of a poll at a load of the request limit.
        clock: seconds since the epoch, UTC.
        monotonic: seconds, for durations.
        sleep: waits that many seconds.
        jitter: gives a number from 0 to 1.
        refusals: limits the log lines about refused requests.
        pace: how long recent downloads took.
        waker: starts a run of the poller; None in functions that start none.
    """

    downloads: Downloads
    control: Control
    gateway: Gateway
    pace: RecentPace
    download_types: tuple[DownloadType, ...]
    retention: float = 0.0
    price: Callable[[float], float] = polling.price
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    # Processes restored from one snapshot would share the numbers of a seeded generator.
    jitter: Callable[[], float] = random.SystemRandom().random
    refusals: LogLimit = field(default_factory=LogLimit)
    waker: Waker | None = None

    @classmethod
    def from_environment(cls) -> Service:
        """Build the service from the environment.

        Raises:
            KeyError: a variable is missing; the error names it.
        """
        dynamodb = aws.client("dynamodb")
        control = ControlTable(dynamodb, os.environ["CONTROL_TABLE_NAME"])
        budget = Budget(control, int(os.environ["CLOUDFLARE_REQUEST_LIMIT"]))
        secret_arn = os.environ["CLOUDFLARE_SECRET_ARN"]
        credentials = ApiCredentials(aws.secrets_client(secret_arn), secret_arn)
        stream = StreamClient(
            os.environ["CLOUDFLARE_ACCOUNT_ID"],
            base_url=os.environ["CLOUDFLARE_API_BASE_URL"],
            authorization=credentials.headers,
            credentials_from=f"the secret {secret_arn}",
            on_rate_limit=budget.observe,
        )
        return cls(
            pace=RecentPace(control, time.monotonic),
            downloads=DownloadsTable(dynamodb, os.environ["TABLE_NAME"]),
            control=control,
            gateway=Gateway(budget, credentials, stream),
            download_types=download_types(
                name.strip() for name in os.environ["DOWNLOAD_TYPES"].split(",")
            ),
            retention=float(os.environ["RETENTION_DAYS"]) * 86_400,
            price=partial(polling.price, window=float(os.environ["POLL_WINDOW_SECONDS"])),
        )

    def steps(self) -> Steps:
        """Return the `Steps` of these parts."""
        return Steps(
            downloads=self.downloads,
            gateway=self.gateway,
            retention=self.retention,
            price=self.price,
            clock=self.clock,
            jitter=self.jitter,
        )
