"""Run a function in a sandbox that counts, interrupts or delays each I/O call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import ClientError, ReadTimeoutError
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError, ProtocolError

from stream_downloads.domain.download import Download
from stream_downloads.services.steps import Outcome
from tests.support.clock import VirtualClock

Result = TypeVar("Result")


class Killed(BaseException):
    """The process was killed. No ``except Exception`` catches it, and ``finally`` does no I/O."""


class Blow(StrEnum):
    """A failure of one I/O call."""

    KILLED_BEFORE = "killed before it"
    KILLED_AFTER = "killed after it"
    NOT_SENT = "not sent"
    ANSWER_LOST_UNDONE = "sent, but never done, and no answer"
    ANSWER_LOST = "done, but the answer was lost"


DEADLY = (Blow.KILLED_BEFORE, Blow.KILLED_AFTER)
# The methods that change nothing. After any other a kill is tried.
READS = {"count", "due", "get", "get_secret_value", "of_video", "read", "settled", "with_status"}
NOT_DONE = (Blow.KILLED_BEFORE, Blow.NOT_SENT, Blow.ANSWER_LOST_UNDONE)


@dataclass(frozen=True, slots=True)
class Plan:
    """The failure of a sandbox's I/O call of that number, counted from 0."""

    sandbox: str
    number: int
    blow: Blow


class Sandbox:
    """One function's process: its I/O calls, its clock, and whether it is still alive.

    Attributes:
        plan: the failure of one of its calls.
        pause: called before each I/O call with the sandbox and the call's name.
        calls: the names of the I/O calls so far.
        first_calls: the numbers of those that were the first of an invocation.
        throttled_until: the time before which no request may follow the last 429 received.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        plan: Plan | None = None,
        pause: Callable[[Sandbox, str], None] | None = None,
    ) -> None:
        self.name = name
        self.clock = clock
        self.plan = plan
        self.pause = pause
        self.calls: list[str] = []
        self.first_calls: set[int] = set()
        self.alive = True
        self.throttled_until: float | None = None

    def io(self, name: str, do: Callable[[], Result]) -> Result:
        """Do one I/O call, unless the plan lets it fail."""
        if self.pause:
            self.pause(self, name)
        if not self.alive:  # a `finally` of a killed process does no more I/O
            raise Killed(name)
        blow = None
        if self.plan and self.plan.number == len(self.calls):
            blow = self.plan.blow
        self.calls.append(name)
        if blow in NOT_DONE:
            self._strike(blow, name)
        try:
            return do()
        finally:
            if blow is not None:
                self._strike(blow, name)

    def _strike(self, blow: Blow, name: str) -> None:
        if blow in DEADLY:
            self.alive = False
            raise Killed(name)
        raise _failure(name, blow)


def possible_blows(name: str, *, first: bool) -> Iterator[Blow]:
    """Yield the failures to try on an I/O call of that name.

    A process that is killed before a call leaves the same state as one killed after the previous
    call, and so does one that is killed after a read. So a kill comes before the first call of an
    invocation, and after each call that may write.
    """
    if first:
        yield Blow.KILLED_BEFORE
    if name.rpartition(".")[2] not in READS:
        yield Blow.KILLED_AFTER
    yield Blow.NOT_SENT  # of a table and of a secret: refused, or throttled
    if name.startswith("Cloudflare"):
        yield Blow.ANSWER_LOST_UNDONE
        yield Blow.ANSWER_LOST
    elif name.endswith((".add", ".save", ".write", "put_events", "put_secret_value")):
        yield Blow.ANSWER_LOST


def _failure(name: str, blow: Blow) -> Exception:
    """Return the error that the library would raise."""
    if not name.startswith("Cloudflare"):
        if blow is Blow.NOT_SENT:
            said = {"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}
            return ClientError(said, name)  # type: ignore[arg-type]
        return ReadTimeoutError(endpoint_url="https://aws.example")
    if blow is Blow.NOT_SENT:
        return NewConnectionError(HTTPConnection("simulator"), "could not connect")
    return ProtocolError("Connection aborted.", ConnectionResetError(104, "reset by peer"))


class Gated:
    """A table or a client of which every call is an I/O call of a sandbox."""

    def __init__(self, sandbox: Sandbox, name: str, inner: Any, actors: list[str]) -> None:
        """Take ``actors``, the list that holds the sandbox's name during each call."""
        self._sandbox = sandbox
        self._name = name
        self._inner = inner
        self._actors = actors

    def __getattr__(self, method: str) -> Any:
        function = getattr(self._inner, method)

        def call(*arguments: Any, **options: Any) -> Any:
            do = partial(self._as_actor, partial(function, *arguments, **options))
            return self._sandbox.io(f"{self._name}.{method}", do)

        return call

    def _as_actor(self, do: Callable[[], Any]) -> Any:
        self._actors.append(self._sandbox.name)
        try:
            return do()
        finally:
            self._actors.pop()


@dataclass(slots=True)
class _Worker:
    work: Callable[[], object]
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_done: bool = False


class Turns:
    """Several workers, one I/O call at a time, in the order of ``choose``.

    Each worker has its own thread, and only one thread runs at a time.
    """

    def __init__(self, choose: Callable[[int], int]) -> None:
        """Take ``choose``, which returns the number of the next worker, given their count."""
        self._choose = choose
        self._mine = threading.local()
        self._given_back = threading.Semaphore(0)

    def run(self, *works: Callable[[], object]) -> None:
        """Run all of them to their end."""
        workers = [_Worker(work) for work in works]
        for worker in workers:
            threading.Thread(target=self._work, args=[worker], daemon=True).start()
        while workers:
            workers[self._choose(len(workers))].turn.release()
            self._given_back.acquire()
            workers = [worker for worker in workers if not worker.is_done]

    def pause(self, _sandbox: Sandbox, _call: str) -> None:
        """Wait, before each I/O call, for this worker's turn."""
        if (worker := getattr(self._mine, "worker", None)) is not None:
            self._given_back.release()
            worker.turn.acquire()

    def _work(self, worker: _Worker) -> None:
        self._mine.worker = worker
        worker.turn.acquire()
        try:
            worker.work()
        finally:
            worker.is_done = True
            self._given_back.release()


def at_the_same_time(
    clock: VirtualClock,
) -> Callable[[Callable[[Sequence[Download]], Outcome], Sequence[Sequence[Download]]], Any]:
    """Return a ``map`` whose calls all begin at the same time and end with the slowest."""

    def in_parallel(do: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        began, ended, outcomes = clock.now, clock.now, []
        for job in jobs:
            clock.now = began
            try:
                outcomes.append(do(job))
            finally:
                ended = clock.now = max(ended, clock.now)
        return outcomes

    return in_parallel
