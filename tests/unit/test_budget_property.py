"""Check that no five minutes hold more requests than the limit, whatever happens.

Several functions take from one budget and send, with every delay that can come in between, and
with clocks that do not agree. None of many random schedules may break the guarantee. To show that
there are enough of them, every budget that is broken on purpose has to be found out by them too.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

import pytest

from stream_downloads.adapters.shared_state import Budget, Grant, Record
from stream_downloads.domain import request_budget as budget_module
from stream_downloads.domain.request_budget import (
    BLOCK_AT_LEAST,
    CONNECT_WITHIN,
    COUNTS_FOR,
    SLACK,
    SLOT,
    USE_WITHIN,
    WINDOW,
    Allowance,
    Asker,
)

FIVE_MINUTES = 300.0
# The last second of a slot: there the guarantee is closest to its edge.
START = 1_800_000_000.0 + SLOT - 1


@dataclass(frozen=True)
class Delays:
    """The seconds that each step of an attempt takes, and its table's clock."""

    until_read: float = 0.0
    until_write: float = 0.0
    until_send: float = 0.0
    until_connected: float = 0.0
    # DynamoDB's machine that answers: up to a second ahead of another.
    ahead: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """One function that wants to send."""

    seconds_later: int  # than the attempt before
    fraction: float
    function: int
    wanted: int
    asker: Asker
    retry_after: float | None  # Cloudflare answers 429
    delays: Delays


@dataclass(frozen=True)
class Schedule:
    """A limit, how wrong each function's clock is, and who does what when."""

    limit: int
    clock_errors: tuple[float, ...]
    attempts: tuple[Attempt, ...]


@dataclass
class Table:
    """The control record, and what can be wrong with how it is used."""

    value: dict[str, Any] = field(default_factory=dict)
    version: int = 0
    ignores_conflicts: bool = False


@dataclass
class Function:
    """One function: its budget, its clocks, and what it read."""

    table: Table
    limit: int
    clock_error: float
    monotonic: float = 0.0
    record: Record = field(default_factory=lambda: Record({}, 0, 0.0))

    def __post_init__(self) -> None:
        self.budget = Budget(self, self.limit, lambda: self.monotonic)
        self.read_again: Callable[[], object] = lambda: None

    def is_at(self, now: float) -> None:
        """Let its monotonic clock show that time, from whatever it counts."""
        self.monotonic = now - START + 1000 * self.clock_error

    def see(self, now: float, ahead: float, *, by_own_clock: bool) -> Record:
        """Get the record as it is, dated by the machine that answers."""
        dated = now + self.clock_error if by_own_clock else math.floor(now + ahead)
        self.record = Record(self.table.value, self.table.version, float(dated))
        return self.record

    def read(self, _name: str) -> Record:
        """Do as `stream_downloads.adapters.shared_state.Control.read`."""
        return self.record

    def write(self, _name: str, value: Mapping[str, Any], version: int) -> bool:
        """Do as `stream_downloads.adapters.shared_state.Control.write`."""
        if version != self.table.version and not self.table.ignores_conflicts:
            self.read_again()
            return False
        self.table.value, self.table.version = dict(value), self.table.version + 1
        return True


@dataclass(frozen=True)
class Sent:
    """Requests that left together."""

    at: float
    count: int
    granted_at: float


@dataclass(frozen=True)
class Breakage:
    """The faults in the way that the functions use the table."""

    ignores_conflicts: bool = False
    by_own_clock: bool = False


class Timeline:
    """Lets a schedule happen, event by event, and keeps what left and when the gate closed.

    ``retried`` is whether a grant came of a race that was lost at first.
    """

    def __init__(self, schedule: Schedule, broken: Breakage) -> None:
        table = Table(ignores_conflicts=broken.ignores_conflicts)
        self.broken = broken
        self.functions = [Function(table, schedule.limit, error) for error in schedule.clock_errors]
        self.sent: list[Sent] = []
        self.blocks: list[tuple[float, float]] = []
        self.retried = False
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        started = START
        for attempt in schedule.attempts:
            started = math.floor(started) + attempt.seconds_later + attempt.fraction
            self._begin(attempt, started)
        while self._events:
            now, _, happens = heapq.heappop(self._events)
            happens(now)

    def _at(self, time: float, happens: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), happens))

    def _begin(self, attempt: Attempt, started: float) -> None:
        function = self.functions[attempt.function]

        def see(now: float) -> Record:
            ahead = attempt.delays.ahead
            return function.see(now, ahead, by_own_clock=self.broken.by_own_clock)

        def read(now: float) -> None:
            record = see(now)
            self._at(now + attempt.delays.until_write, lambda then: write(record, then))

        def write(record: Record, now: float) -> None:
            def read_again() -> None:
                function.is_at(now)
                see(now)

            # `take` in one go, with what it read then: all that happened in between has happened.
            function.record = record
            function.is_at(started)
            function.read_again = read_again
            grant = function.budget.take(attempt.wanted, attempt.asker)
            if grant.count:
                self.retried |= function.record is not record
                self._at(now + attempt.delays.until_send, lambda then: send(grant, now, then))

        def send(grant: Grant, granted_at: float, now: float) -> None:
            function.is_at(now)
            if function.budget.is_current(grant):
                leaves_at = now + attempt.delays.until_connected
                self.sent.append(Sent(leaves_at, grant.count, granted_at))
                if attempt.retry_after is not None:
                    self._at(leaves_at, close)

        def close(now: float) -> None:
            function.is_at(now)
            see(now)
            function.budget.close(attempt.retry_after)
            self.blocks.append((now, now + max(attempt.retry_after or 0.0, BLOCK_AT_LEAST)))

        self._at(started + attempt.delays.until_read, read)


def run(
    schedule: Schedule, broken: Breakage = Breakage()
) -> tuple[list[Sent], list[tuple[float, float]]]:
    """Return the sent requests in order, and from when until when the gate is closed."""
    timeline = Timeline(schedule, broken)
    return sorted(timeline.sent, key=lambda requests: requests.at), timeline.blocks


def most_in_five_minutes(sent: Sequence[Sent]) -> int:
    """Return the most requests within any rolling five minutes."""
    window: deque[Sent] = deque()
    most = 0
    for requests in sent:
        window.append(requests)
        while window[0].at <= requests.at - FIVE_MINUTES:
            window.popleft()
        most = max(most, sum(other.count for other in window))
    return most


def broken_rule(schedule: Schedule, broken: Breakage = Breakage()) -> str:
    """Return which guarantee does not hold, and an empty text if all do."""
    sent, blocks = run(schedule, broken)
    if (most := most_in_five_minutes(sent)) > schedule.limit:
        return f"{most} requests within five minutes, with a limit of {schedule.limit}"
    for closed_at, until in blocks:
        for requests in sent:
            granted_before = requests.granted_at <= closed_at
            in_flight_until = (
                closed_at + USE_WITHIN + CONNECT_WITHIN if granted_before else closed_at
            )
            if in_flight_until < requests.at < until:
                return f"a request left at {requests.at}: closed from {closed_at} to {until}"
    return ""


# The two ends of what is allowed, most often: a request leaves as late as it may under the oldest
# date, or as early under the newest.
LATE = Delays(until_send=USE_WITHIN, until_connected=CONNECT_WITHIN)
EARLY = Delays(ahead=1.0)
RETRY_AFTER = (None, None, 0.0, 5.0, 300.0)
FRACTIONS = (0.0, 0.99)


def schedules(seed: int) -> Iterator[Schedule]:
    """Yield random schedules: every other one has only a few attempts, at the limits' edges."""
    chance = Random(seed)  # noqa: S311
    for at_the_edges in itertools.cycle([False, True]):
        attempt = edge if at_the_edges else any_attempt
        count = chance.randint(2, 4 if at_the_edges else 8)
        yield Schedule(
            limit=chance.randint(1, 4),
            clock_errors=tuple(between(chance, -300.0, 300.0) for _ in range(3)),
            attempts=tuple(attempt(chance) for _ in range(count)),
        )


def any_attempt(chance: Random) -> Attempt:
    """Return an attempt with any delays."""
    delays = Delays(
        until_read=between(chance, 0.0, 2.5),
        until_write=chance.choice([0.0, 0.3, 1.9, 30.0]),
        until_send=chance.choice([0.0, 1.0, 2.0, 400.0]),
        until_connected=between(chance, 0.0, CONNECT_WITHIN),
        ahead=between(chance, 0.0, 1.0),
    )
    return Attempt(
        seconds_later=chance.choice([0, 0, 0, 2, 4, 60, 302, 303, 304, 305, 306]),
        fraction=chance.choice(FRACTIONS),
        function=chance.randrange(3),
        wanted=chance.choice([1, 2, 4]),
        asker=chance.choice(list(Asker)),
        retry_after=chance.choice(RETRY_AFTER),
        delays=chance.choice([LATE, EARLY, delays]),
    )


def edge(chance: Random) -> Attempt:
    """Return an attempt as late or as early as the guarantee allows."""
    return Attempt(
        seconds_later=chance.choice([0, 3, 4, 303, 304, 305, 306]),
        fraction=chance.choice(FRACTIONS),
        function=chance.randrange(2),
        wanted=chance.choice([1, 4]),
        asker=Asker.OPERATOR,
        retry_after=chance.choice([None, 5.0]),
        delays=chance.choice([LATE, EARLY]),
    )


def between(chance: Random, least: float, most: float) -> float:
    """Return a number in between, and often one of the two ends."""
    return chance.choice([least, most, chance.uniform(least, most)])


@pytest.mark.no_cover
def test_no_rolling_five_minutes_hold_more_than_the_limit_and_the_gate_holds() -> None:
    for schedule in islice(schedules(seed=1), 8000):
        assert not broken_rule(schedule), schedule


def found(condition: Callable[[Schedule], bool]) -> Schedule:
    """Return the first schedule that fulfils a condition.

    Raises:
        AssertionError: none of many does.
    """
    first = next(filter(condition, islice(schedules(seed=2), 40_000)), None)
    assert first, "no such schedule"
    return first


@pytest.mark.no_cover
def test_the_schedules_use_the_allowance_up_again_and_again() -> None:
    """Show that grants and retries happen: a budget that grants nothing holds every guarantee."""
    found(lambda schedule: most_in_five_minutes(run(schedule)[0]) == schedule.limit == 4)
    found(lambda schedule: sum(one.count for one in run(schedule)[0]) > 2 * schedule.limit)
    found(lambda schedule: Timeline(schedule, Breakage()).retried)


CONSTANTS = {
    "the window is too short": ("COUNTS_FOR", COUNTS_FOR - 10),
    "no slack": ("COUNTS_FOR", COUNTS_FOR - SLACK),
    "a second too little slack": ("COUNTS_FOR", COUNTS_FOR - 1),
    "a slot ends with its first request": ("COUNTS_FOR", WINDOW + SLACK),
    "the gate opens by a date that may be wrong": ("DATE_ERROR", 0.0),
}
METHODS: dict[str, tuple[type, str, Any]] = {
    "the time to use a grant is forgotten": (Budget, "is_current", lambda *_: True),
    "a 429 is forgotten": (Allowance, "block", lambda self, *_: self),
    "webhooks are not counted": (
        Allowance,
        "used",
        property(lambda self: sum(sum(permits[1:]) for permits in self.granted.values())),
    ),
}
BREAKAGES = {
    "conflicts of versions are ignored": Breakage(ignores_conflicts=True),
    "each function goes by its own clock": Breakage(by_own_clock=True),
}


@pytest.mark.no_cover
@pytest.mark.parametrize("name", [*CONSTANTS, *METHODS, *BREAKAGES])
def test_a_broken_budget_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in CONSTANTS:
        constant, value = CONSTANTS[name]
        monkeypatch.setattr(budget_module, constant, value)
    elif name in METHODS:
        owner, method, broken = METHODS[name]
        monkeypatch.setattr(owner, method, broken)
    breakage = BREAKAGES.get(name, Breakage())
    schedule = found(lambda one: bool(broken_rule(one, breakage)))
    monkeypatch.undo()
    assert not broken_rule(schedule)
