"""Run a stack and a Cloudflare in virtual time, and observe every call, row and log line."""

from __future__ import annotations

import io
import json
import logging
import math
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters import observability
from stream_downloads.adapters.downloads_table import LostRace
from stream_downloads.adapters.event_bus import EventBus
from stream_downloads.adapters.secrets import (
    ApiCredentials,
    SecretUnavailable,
    SigningSecrets,
    store_signing_secret,
)
from stream_downloads.adapters.shared_state import Budget
from stream_downloads.adapters.stream_api import CloudflareError
from stream_downloads.domain import commands, download, transitions
from stream_downloads.domain.commands import BadRequest, PollCommand, Registration
from stream_downloads.domain.download import Download, DownloadType
from stream_downloads.domain.video import Video, parse_webhook
from stream_downloads.services.dependencies import RecentPace, Service
from stream_downloads.services.gateway import NotNow
from stream_downloads.services.manage import QUEUES, manage
from stream_downloads.services.poll import Poller
from stream_downloads.services.receive import receive
from stream_downloads.services.reconcile import Run
from stream_downloads.services.record import Known
from stream_downloads.services.register import register
from stream_downloads.services.signing_secret import GUEST, position_of
from stream_downloads.services.waker import Waker
from tests.faults.invariants import Invariants, retry_after_of
from tests.faults.sandbox import Gated, Killed, Plan, Sandbox, Turns, at_the_same_time
from tests.simulator import BASE_URL, InProcessPool, Request, Response, StreamSimulator, Webhook
from tests.support.clock import VirtualClock
from tests.support.event_bus import Events
from tests.support.memory import MemoryControl, MemoryDownloads
from tests.support.secrets_manager import SecretsManager
from tests.support.template import REFERENCES
from tests.support.world import BY_HAND, WEBHOOK_URL, function_url_event, make_gateway

if TYPE_CHECKING:
    import urllib3

Result = TypeVar("Result")

OWNERS_URL = "https://owner.example.com/hook"
BOTH = (DownloadType.DEFAULT, DownloadType.AUDIO)
API_SECRET = REFERENCES["CloudflareSecretArn"]
POISON = "no uid of Cloudflare's"
SIGNING_SECRET = REFERENCES["WebhookSecret.Id"]

METRICS = frozenset[str](observability.Metric)

# The functions' timeouts in the template; for a webhook the longest time until its answer.
RECEIVE_SECONDS, POLL_SECONDS, RECONCILE_SECONDS, MANAGE_SECONDS = 10.0, 80.0, 600.0, 30.0
LOOKBACK_SECONDS = 48 * 3600.0  # of a reconciliation: the template's default

# An invocation may end with these errors when a service that it needs fails; the next one goes on.
FORESEEN = (
    BadRequest,
    BotoCoreError,
    ClientError,
    CloudflareError,
    LostRace,
    NotNow,
    SecretUnavailable,
)


class WatchedDownloads(MemoryDownloads):
    """The table, which reports every version of every row."""

    def __init__(self, heard: Callable[[Download | None, Download], None]) -> None:
        super().__init__()
        self._heard = heard

    def _write(self, row: Download) -> Download:
        before = self.rows.get(row.key)
        saved = super()._write(row)
        self._heard(before, self.rows[row.key])
        return saved


class WatchedControl(MemoryControl):
    """The control table, which reports when the gate is closed."""

    blocked_until = 0.0

    def __init__(self, clock: Callable[[], float], heard: Callable[[float], None]) -> None:
        super().__init__(clock)
        self._heard = heard

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:
        """Do as `MemoryControl.write`."""
        written = super().write(name, value, version)
        if written and name == Budget.NAME and value["blocked_until"] > self.blocked_until:
            self.blocked_until = value["blocked_until"]
            self._heard(self.blocked_until)
        return written


class WatchedSimulator(StreamSimulator):
    """Cloudflare, which reports every answer."""

    heard: Callable[[Response], None]

    def handle(self, request: Request) -> Response:
        """Do as `StreamSimulator.handle`."""
        response = super().handle(request)
        self.heard(response)
        return response


class GatedPool(InProcessPool):
    """A connection pool to Cloudflare; every request is an I/O call of a sandbox."""

    def __init__(self, stage: Stage, sandbox: Sandbox) -> None:
        super().__init__(stage.simulator, sleep=stage.clock.sleep)
        self._clock = stage.clock
        self._invariants = stage.invariants
        self._sandbox = sandbox

    def request(self, method: str, url: str, **options: Any) -> urllib3.HTTPResponse:  # type: ignore[override]
        """Do as `InProcessPool.request`."""
        self._invariants.sent_to(url, BASE_URL)
        send = partial(super().request, method, url, **options)
        answer = self._sandbox.io(f"Cloudflare {method} {call_of(url)}", send)
        if answer.status == 429:
            self._sandbox.throttled_until = self._clock() + retry_after_of(answer.headers)
        return answer


class LambdaService:
    """Keeps the claims of the runs that are to be started."""

    def __init__(self) -> None:
        self.claims: list[str] = []

    def start_poller(self, claim: str) -> None:
        """Do as `stream_downloads.services.waker.start_poller`."""
        self.claims.append(claim)


@dataclass(frozen=True, slots=True)
class Function:
    """A warm function: the parts of the service, whose I/O calls its sandbox can interrupt."""

    sandbox: Sandbox
    service: Service
    secrets_manager: Any
    secrets: SigningSecrets
    bus: EventBus | None
    known: Known


class Stage:
    """The stack's functions, each in its own sandboxes, and all that they share.

    Args:
        limit: ``CloudflareRequestLimit``.
        retention: seconds until a ready download is deleted; 0 keeps it.
        plan: the one call that fails.
        pause: called before each I/O call of each sandbox, with its name, for overlapping work.
        skew: the error of the poller's clock in seconds.
        video_events: ``VideoEvents``.
        period: ``ReconcileMinutes``, in seconds.
        seed: of all random numbers.
    """

    def __init__(
        self,
        *,
        limit: int = 600,
        retention: float = 0.0,
        plan: Plan | None = None,
        pause: Callable[[Sandbox, str], None] | None = None,
        skew: float = 0.0,
        video_events: bool = False,
        period: float = 3600.0,
        seed: int = 0,
    ) -> None:
        self.clock = VirtualClock()
        self.limit, self.retention, self.plan, self.skew = limit, retention, plan, skew
        self.pause = pause
        self.period = period
        self.events = Events() if video_events else None
        self.chance = random.Random(seed)  # noqa: S311
        self.simulator = WatchedSimulator(clock=self.clock, seed=seed)
        self.simulator.heard = self._hear_cloudflare
        settings = self.simulator.settings
        self.secrets_manager = SecretsManager()
        self.lambda_service = LambdaService()
        self.secrets_manager.store(API_SECRET, {"api_token": settings.api_token})
        self.invariants = Invariants(self.clock, limit, {settings.api_token, settings.api_key})
        self.subscribe()
        self._actors: list[str] = []
        self.downloads = WatchedDownloads(self._hear_row)
        self.control = WatchedControl(self.clock, self.invariants.gate_closed)
        self.functions: dict[str, Function] = {}

        self.metrics: Counter[str] = Counter()
        self.said = ""
        self.deaths = 0
        self._output: io.StringIO | None = None

    # --- Cloudflare and the world -------------------------------------------------------------

    def subscribe(self) -> None:
        """Subscribe at Cloudflare, and store the signing secret."""
        secret = self.simulator.outbox.subscribe(WEBHOOK_URL, self.clock()).secret
        self.invariants.secrets.add(secret)
        self.secrets_manager.store(SIGNING_SECRET, {"webhook_secret": secret})

    def be_guest(self) -> None:
        """Have another system subscribe, which passes all requests on unchanged."""
        secret = self.simulator.outbox.subscribe(OWNERS_URL, self.clock()).secret
        self.invariants.secrets.add(secret)
        self.register(Registration.GUEST)

    def rotate_signing_secret(self) -> None:
        """Let Cloudflare sign with another secret from now on."""
        self.invariants.secrets.add(self.simulator.outbox.rotate_secret(self.clock()).secret)

    def rotate_api_token(self) -> None:
        """Revoke the token and store a new one in Secrets Manager."""
        token = f"token-{self.chance.getrandbits(64):x}"
        self.simulator.settings.api_token = token
        self.invariants.secrets.add(token)
        self.secrets_manager.store(API_SECRET, {"api_token": token})

    def _hear_cloudflare(self, response: Response) -> None:
        self.invariants.answered(self.simulator.calls[-1], response)

    def _hear_row(self, before: Download | None, after: Download) -> None:
        self.invariants.wrote(self._actors[-1] if self._actors else "manage", before, after)

    # --- the functions ------------------------------------------------------------------------

    def function(self, name: str) -> Function:
        """Return the warm function of that name, or a cold one."""
        if name not in self.functions:
            skew = self.skew if name.startswith("poll") else 0.0
            plan = self.plan if self.plan and self.plan.sandbox == name else None
            if plan:  # it falls once
                self.plan = None
            self.functions[name] = self._start(
                Sandbox(name, lambda: self.clock() + skew, plan, self.pause)
            )
        return self.functions[name]

    def _start(self, sandbox: Sandbox) -> Function:
        control: Any = Gated(sandbox, "control", self.control, self._actors)
        downloads: Any = Gated(sandbox, "table", self.downloads, self._actors)
        secrets_manager: Any = Gated(sandbox, "secrets", self.secrets_manager, self._actors)
        credentials = ApiCredentials(secrets_manager, API_SECRET, self.clock)
        start_poller = Gated(sandbox, "lambda", self.lambda_service, self._actors).start_poller
        service = Service(
            downloads=downloads,
            control=control,
            gateway=make_gateway(
                control, self.limit, credentials, self.clock, GatedPool(self, sandbox)
            ),
            pace=RecentPace(control, self.clock),
            waker=Waker(control, start_poller, 60.0, self.clock),
            download_types=BOTH,
            retention=self.retention,
            clock=sandbox.clock,
            monotonic=self.clock,
            sleep=self.clock.sleep,
            jitter=self.chance.random,
        )
        signing_secrets = SigningSecrets(secrets_manager, SIGNING_SECRET, self.clock)
        events: Any = Gated(sandbox, "events", self.events, self._actors)
        bus = EventBus(events, "bus") if self.events else None
        return Function(sandbox, service, secrets_manager, signing_secrets, bus, Known())

    def receive(self, webhook: Webhook, name: str = "receive") -> int | None:
        """Deliver one webhook; return the status of the answer, None without an answer."""
        event = function_url_event(webhook.body, webhook.headers)
        signed_with = webhook.headers["Webhook-Signature"].rpartition("sig1=")[2]
        self.invariants.secrets.add(signed_with)
        told = len(self.events.taken) if self.events else 0
        answer = self._receive(event, name)
        self.invariants.secrets.discard(signed_with)
        status = int(answer["statusCode"]) if answer else None
        if status is not None:
            there = {row.download_type for row in self.downloads.of_video(webhook.video_uid)}
            wanted = parse_webhook(webhook.body).wanted(BOTH)
            lacking: list[str] = [kind for kind in wanted if kind not in there]
            if self.events and len(self.events.taken) == told:
                lacking.append("event")
            self.invariants.answered_webhook(status, lacking)
        self._start_runs()
        return status

    def receive_event(self, event: dict[str, Any]) -> tuple[int, str] | None:
        """Deliver any HTTP event; return status and body of the answer, None if none came."""
        answer = self._receive(event)
        return (answer["statusCode"], answer["body"]) if answer else None

    def receive_forged(self, webhook: Webhook, header: str) -> None:
        """Check invariant 8: a forged webhook is answered 403, without a write or a request.

        A guest may ask for the secret of the subscription; `test_catalogue` shows how often.
        """
        event = function_url_event(webhook.body, {"webhook-signature": header})
        before = self._traces()
        answer = self._receive(event)
        after = self._traces()
        if answer and answer["statusCode"] not in (403, 500):
            self.invariants.breaks(8, f"a forged webhook was answered {answer['statusCode']}")
        if before != after:
            self.invariants.breaks(8, "a forged webhook left a trace")

    def _receive(self, event: dict[str, Any], name: str = "receive") -> dict[str, Any] | None:
        def work(function: Function) -> dict[str, Any]:
            return receive(function.service, function.secrets, event, function.bus)

        return self._invoke(name, RECEIVE_SECONDS, work)

    def _traces(self) -> tuple[int, int]:
        allowed = "get webhook" if position_of(self.control) == GUEST else None
        calls = sum(call.name != allowed for call in self.simulator.calls)
        return calls, sum(row.version for row in self.downloads.rows.values())

    def poll(self, name: str = "poll", window: float = 0.0, command: PollCommand = BY_HAND) -> None:
        """Run the poller once."""
        ends_at = self.clock() + POLL_SECONDS
        in_parallel = at_the_same_time(self.clock)
        self._invoke(
            name,
            POLL_SECONDS,
            lambda function: Poller(
                function.service, lambda: ends_at - self.clock(), in_parallel
            ).run(window, command),
        )

    def reconcile(self, since: float | None = None, seconds: float = RECONCILE_SECONDS) -> None:
        """Reconcile once, within ``seconds``."""
        ends_at = self.clock() + seconds
        self._invoke(
            "reconcile",
            RECONCILE_SECONDS,
            lambda function: Run(
                function.service,
                lambda: ends_at - self.clock(),
                map,
                function.known,
                period=self.period,
            ).reconcile(LOOKBACK_SECONDS, since),
        )
        self._start_runs()

    def _start_runs(self) -> None:
        """Run the poller as often as it was started."""
        while self.pause is None and self.lambda_service.claims:
            self.poll(command=PollCommand(claim=self.lambda_service.claims.pop()))

    def manage(self, **command: Any) -> dict[str, Any] | None:
        """Carry out a command; return its answer, None if none came."""
        parsed: Any = commands.command(command)
        return self._invoke(
            "manage",
            MANAGE_SECONDS,
            lambda function: manage(function.service, parsed, lambda: MANAGE_SECONDS),
        )

    def command(self, action: str, uid: str, types: Sequence[DownloadType] = BOTH) -> None:
        """Send a command about downloads of a video until it is answered."""
        while not self.manage(action=action, video_uid=uid, download_types=list(types)):
            pass

    def register(self, registration: Registration = Registration.SUBSCRIBE) -> None:
        """Run RegisterWebhook: subscribe, register as a guest, or refresh."""

        def run(function: Function) -> None:
            store = partial(store_signing_secret, function.secrets_manager, SIGNING_SECRET)
            register(function.service, WEBHOOK_URL, store, registration)

        self._invoke("register", MANAGE_SECONDS, run)

    def at_once(self, choose: Callable[[int], int], *works: Callable[[], object]) -> None:
        """Do several things at the same instant, their I/O calls in the order of ``choose``."""
        turns = Turns(choose)
        self.functions.clear()  # each in a new sandbox, which takes turns
        self.pause, self.clock.stands_still = turns.pause, True
        try:
            with self.overheard():
                turns.run(*works)
        finally:  # Hypothesis may end a test within a choice
            self.pause, self.clock.stands_still = None, False
            self.functions.clear()

    def _invoke(
        self, name: str, seconds: float, work: Callable[[Function], Result]
    ) -> Result | None:
        """Run a function once, as Lambda does; its output and its errors are the log."""
        function = self.function(name)
        function.sandbox.first_calls.add(len(function.sandbox.calls))
        began, result = self.clock(), None
        try:
            with self.overheard():
                result = work(function)
        except Killed:
            del self.functions[name]
            self.deaths += 1
        except FORESEEN:
            self.invariants.said(traceback.format_exc())
        except Exception:  # noqa: BLE001 - nothing else may come out, whatever it is
            self.invariants.breaks(10, traceback.format_exc())
        self.invariants.ended(name, self.clock() - began, seconds)
        self._heed(function.sandbox)
        return result

    def _heed(self, sandbox: Sandbox) -> None:
        """Check invariant 7: a 429 has closed the gate, unless the control table failed."""
        if sandbox.alive and sandbox.throttled_until is not None and not sandbox.plan:
            self.invariants.throttled(sandbox.throttled_until, self.control.blocked_until)
        sandbox.throttled_until = None

    @contextmanager
    def overheard(self) -> Iterator[None]:
        """Check all log lines and metrics within the block."""
        if self._output is not None:  # an outer block checks them
            yield
            return
        self._output = io.StringIO()
        handler = logging.StreamHandler(self._output)
        handler.setFormatter(observability.logger.registered_formatter)
        before = list(observability.logger.handlers)
        observability.logger.handlers[:] = [handler]
        try:
            with redirect_stdout(self._output):
                try:
                    yield
                finally:
                    observability.flush()
        finally:
            observability.logger.handlers[:] = before
            said, self._output = self._output.getvalue(), None
            self._hear_output(said)

    def _hear_output(self, text: str) -> None:
        self.said = text
        self.invariants.said(text)
        for line in text.splitlines():
            said = json.loads(line)
            for metric in METRICS & said.keys():
                self.metrics[metric] += sum(said[metric])
            if "cannot be processed" in str(said.get("message")) and said["video_uid"] != POISON:
                self.invariants.breaks(10, line)

    def poison(self) -> None:
        """Put a row into the table of which no step can succeed."""
        self.downloads.add(
            transitions.request(Video(uid=POISON), DownloadType.DEFAULT, self.clock())
        )

    # --- the end ------------------------------------------------------------------------------

    def recover(self, *, days: float = 3.0, again: list[Webhook] | None = None) -> None:
        """Stop all faults and run minute by minute until nothing is left to do.

        Args:
            days: the time within which everything has to end.
            again: the webhooks that Cloudflare sends once more, because they got no 200.
        """
        self.simulator.faults.clear()
        if self.events:
            self.events.failure = None
        self.secrets_manager.fail(None)
        began = self.clock()
        reconciliations = [began + 600.0, began + 4200.0]
        for webhook in again or []:
            self.receive(webhook)
        while (row := self._next_due(began + 86_400)) or reconciliations:
            at = min([row.due_at or 0.0 if row else math.inf, *reconciliations])
            self.clock.sleep(math.ceil(max(at, self.clock()) / 60) * 60 - self.clock())
            if self.clock() > began + days * 86_400:
                self.invariants.breaks(2, f"after {days} days still due: {row}")
                return
            for webhook in self.simulator.due_webhooks():
                self.receive(webhook)
            if reconciliations and self.clock() >= reconciliations[0]:
                del reconciliations[0]
                self.reconcile()
            self.poll()
            self.clock.sleep(1.0)

    def _next_due(self, upkeep_until: float) -> Download | None:
        """Return the row that is due next; one that is ready only if it is by then."""
        first = [
            row
            for queue in QUEUES
            for entry in islice(self.downloads.due(queue, math.inf, 2), 2)
            for row in self.downloads.read([entry.key])
            if row.video_uid != POISON
            and (queue != download.MAINTENANCE_QUEUE or (row.due_at or 0.0) <= upkeep_until)
        ]
        return min(first, key=lambda row: row.due_at or 0.0, default=None)


def call_of(url: str) -> str:
    """Return the API path of a URL without the video's id."""
    path = url.partition("/stream")[2].partition("?")[0]
    parts = [part if len(part) < 32 else "{uid}" for part in path.split("/")]
    return "/".join(parts) or "/"
