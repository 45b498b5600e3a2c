"""Test the shared request budget, the 429 gate, and the lease."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from stream_downloads.adapters.shared_state import Budget, Lease, Record, Usage
from stream_downloads.domain.request_budget import (
    BLOCK_AT_MOST,
    BLOCK_WITHOUT_RETRY_AFTER,
    COUNTS_FOR,
    DATE_ERROR,
    SLACK,
    SLOT,
    USE_WITHIN,
    WINDOW,
    Allowance,
    Asker,
    Permits,
    RateLimit,
)
from tests.support.clock import START, VirtualClock
from tests.support.memory import MemoryControl

LIMIT = 100
# The reserve for webhooks while none arrive: a fiftieth.
RESERVE = LIMIT // 50


class Contested(MemoryControl):
    """A control table in which others are faster, ``lose`` times, and reads take a while."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.sleep = clock.sleep
        self.lose = 0
        self.writes = 0
        self.read_seconds = 0.0

    def read(self, name: str) -> Record:
        self.sleep(self.read_seconds)
        return super().read(name)

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:
        self.writes += 1
        if self.lose > 0:
            self.lose -= 1
            record = super().read(name)
            super().write(name, record.value, record.version)
        return super().write(name, value, version)


@pytest.fixture
def control(clock: VirtualClock) -> Contested:
    return Contested(clock)


@pytest.fixture
def budget(control: Contested, clock: VirtualClock) -> Budget:
    return Budget(control, LIMIT, clock)


@pytest.fixture
def other(control: Contested, clock: VirtualClock) -> Budget:
    """Return the same budget in another function, whose clock has nothing to do with ours."""
    return Budget(control, LIMIT, lambda: clock() - 123_456)


# --- The budget


def test_all_functions_share_the_limit(budget: Budget, other: Budget, clock: VirtualClock) -> None:
    assert budget.take(60, Asker.OPERATOR).count == 60
    clock.sleep(SLOT)
    assert other.take(60, Asker.OPERATOR).count == 40
    assert budget.take(1, Asker.OPERATOR).count == 0


@pytest.mark.parametrize("second_of_slot", [0, SLOT - 1])
def test_permits_are_available_again_once_their_slot_has_left_the_window(
    budget: Budget, clock: VirtualClock, second_of_slot: int
) -> None:
    clock.sleep(second_of_slot)
    budget.take(LIMIT, Asker.OPERATOR)
    clock.sleep(COUNTS_FOR - second_of_slot - 1)
    assert budget.take(1, Asker.OPERATOR).count == 0
    clock.sleep(1)
    assert budget.take(LIMIT, Asker.OPERATOR).count == LIMIT


def test_a_lost_race_is_run_again_and_costs_nothing(budget: Budget, control: Contested) -> None:
    control.lose = 4
    grant = budget.take(LIMIT - 1, Asker.OPERATOR)
    assert grant.count == LIMIT - 1
    assert not grant.contended
    assert budget.take(2, Asker.OPERATOR).count == 1


def test_a_race_lost_too_often_is_called_contention(budget: Budget, control: Contested) -> None:
    control.lose = 5
    grant = budget.take(10, Asker.OPERATOR)
    assert grant.count == 0
    assert grant.contended
    assert not budget.take(LIMIT, Asker.OPERATOR).contended
    assert not budget.take(1, Asker.OPERATOR).contended  # used up


def test_a_race_is_not_run_again_once_a_grant_is_over(budget: Budget, control: Contested) -> None:
    control.lose, control.read_seconds = 2, USE_WITHIN / 2
    assert budget.take(1, Asker.OPERATOR).contended
    assert control.writes == 2


def test_nothing_is_written_when_nothing_is_granted(budget: Budget, control: Contested) -> None:
    budget.take(LIMIT, Asker.OPERATOR)
    writes = control.writes
    assert budget.take(1, Asker.POLLER).count == 0
    assert control.writes == writes


def test_the_state_says_what_is_used(budget: Budget, clock: VirtualClock) -> None:
    budget.take(30, Asker.POLLER)
    budget.take(3, Asker.OPERATOR)
    assert budget.usage() == Usage(33, LIMIT, None)
    budget.close(60)
    assert budget.usage().blocked_until == START + 60 + DATE_ERROR
    clock.sleep(COUNTS_FOR)
    assert budget.usage() == Usage(0, LIMIT, None)


@pytest.mark.parametrize("limit", [600, 1200])
def test_a_full_window_is_read_back_as_written_and_costs_one_write_unit(limit: int) -> None:
    most_slots = range(int(START), int(START) + COUNTS_FOR, SLOT)
    share = limit / len(most_slots)
    permits = Permits(*(math.ceil(share * part) for part in (0.4, 0.3, 0.3)))
    granted = dict.fromkeys(most_slots, permits)
    allowance = Allowance(limit, START + COUNTS_FOR - 1, granted, START + 0.5, limit, START + 0.5)
    value = json.dumps(allowance.as_value(), separators=(",", ":"))
    assert Allowance.parse(json.loads(value), limit, allowance.now) == allowance
    assert len(value) < 900  # 1,024 are a unit; the item's names and version come on top


def test_a_record_without_permits_in_the_background_is_read() -> None:
    value = {"granted": [[int(START), 3, 4]], "blocked_until": 0, "ceiling": 0, "ceiling_until": 0}
    assert Allowance.parse(value, LIMIT, START).granted == {START: Permits(3, 4, background=0)}


@pytest.mark.parametrize(("one", "other"), [("webhooks", "others"), ("others", "webhooks")])
def test_a_record_of_a_former_version_closes_the_gate_until_its_permits_have_expired(
    budget: Budget, control: Contested, clock: VirtualClock, one: str, other: str
) -> None:
    former = {one: [int(START), 50], other: [int(START) - 9, 1, 10, 49]}
    control.write(Budget.NAME, former | {"blocked_until": START}, 0)
    clock.sleep(WINDOW + SLACK)
    assert budget.take(1, Asker.OPERATOR).blocked_until == START + 1 + WINDOW + SLACK
    clock.sleep(1)
    assert budget.take(LIMIT, Asker.OPERATOR).count == LIMIT
    assert budget.take(1, Asker.OPERATOR).count == 0


# --- The webhooks' share


def test_the_poller_leaves_a_reserve_to_webhooks_and_an_operator_gets_all(budget: Budget) -> None:
    assert budget.take(LIMIT, Asker.POLLER).count == LIMIT - RESERVE
    assert budget.take(1, Asker.POLLER).count == 0
    assert budget.take(1, Asker.WEBHOOK).count == 1
    assert budget.take(LIMIT, Asker.OPERATOR).count == RESERVE - 1


@pytest.mark.parametrize(
    ("limit", "webhooks", "reserve"),
    [
        (100, 0, 2),  # a fiftieth
        (100, 40, 8),  # a minute at their rate
        (1000, 480, 20),  # what is left of their half
        (100, 50, 0),
        (3, 0, 1),
    ],
)
def test_the_reserve_follows_the_webhooks_that_arrive(
    control: Contested, clock: VirtualClock, limit: int, webhooks: int, reserve: int
) -> None:
    budget = Budget(control, limit, clock)
    assert not webhooks or budget.take(webhooks, Asker.WEBHOOK).count == webhooks
    assert budget.take(limit, Asker.POLLER).count == limit - webhooks - reserve
    clock.sleep(COUNTS_FOR)
    assert budget.take(limit, Asker.POLLER).count == limit - math.ceil(limit / 50)


def test_webhooks_leave_half_of_the_limit_to_others(budget: Budget, clock: VirtualClock) -> None:
    assert budget.take(LIMIT, Asker.WEBHOOK).count == 50
    assert budget.take(1, Asker.WEBHOOK).count == 0
    assert budget.take(LIMIT, Asker.POLLER).count == 50
    clock.sleep(COUNTS_FOR)
    assert budget.take(70, Asker.POLLER).count == 70
    assert budget.take(LIMIT, Asker.WEBHOOK).count == 30  # the half is used: nothing is wasted


def test_less_urgent_work_leaves_a_part_of_the_limit_beside_the_reserve(budget: Budget) -> None:
    assert budget.take(LIMIT, Asker.POLLER, leave=0.5).count == LIMIT - RESERVE - 50
    assert budget.take(LIMIT, Asker.POLLER, leave=0.1).count == 50 - 10
    assert budget.take(LIMIT, Asker.POLLER).count == 10


# --- The load


def test_a_grant_says_which_part_of_the_limit_work_as_urgent_uses(budget: Budget) -> None:
    assert budget.take(30, Asker.WEBHOOK).load == 0.3
    assert budget.take(10, Asker.POLLER).load == 0.4
    assert budget.take(20, Asker.BACKGROUND).load == 0.6
    assert budget.take(5, Asker.POLLER).load == 0.45, "a backfill does not count for live work"


def test_a_background_asker_leaves_the_same_reserve_to_webhooks(budget: Budget) -> None:
    assert budget.take(LIMIT, Asker.BACKGROUND).count == LIMIT - RESERVE
    assert budget.take(1, Asker.POLLER).count == 0
    assert budget.usage().used == LIMIT - RESERVE


# --- A grant


@pytest.mark.parametrize(("read_seconds", "lose"), [(0.0, 0), (1.5, 0), (0.75, 1)])
def test_a_grant_expires_soon_after_the_start_of_the_read_that_it_rests_on(
    budget: Budget, control: Contested, clock: VirtualClock, read_seconds: float, lose: int
) -> None:
    control.read_seconds, control.lose = read_seconds, lose
    grant = budget.take(1, Asker.POLLER)
    assert grant.count == 1
    clock.sleep(USE_WITHIN - read_seconds)
    assert budget.is_current(grant)
    clock.sleep(0.001)
    assert not budget.is_current(grant)


# --- The gate


def test_a_429_closes_the_gate_for_all(budget: Budget, other: Budget, clock: VirtualClock) -> None:
    budget.close(60)
    grant = other.take(1, Asker.OPERATOR)
    assert grant.count == 0
    assert grant.blocked_until == START + 60 + DATE_ERROR
    assert not grant.contended
    clock.sleep(60 + DATE_ERROR - 1)
    assert other.take(1, Asker.OPERATOR).count == 0
    clock.sleep(1)
    assert other.take(1, Asker.OPERATOR).count == 1


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (None, BLOCK_WITHOUT_RETRY_AFTER),
        (0.0, 1.0),
        (60.5, 60.5),
        (900.0, 900.0),
        (1e30, BLOCK_AT_MOST),
        (-60.0, 1.0),
    ],
)
def test_the_gate_closes_for_as_long_as_cloudflare_says_within_reason(
    budget: Budget, retry_after: float | None, seconds: float
) -> None:
    budget.close(retry_after)
    assert budget.usage().blocked_until == START + seconds + DATE_ERROR


def test_a_second_429_never_opens_the_gate_sooner(budget: Budget, other: Budget) -> None:
    budget.close(300)
    other.close(1)
    assert budget.usage().blocked_until == START + 300 + DATE_ERROR


def test_a_batch_of_429s_is_written_once(budget: Budget, control: Contested) -> None:
    for _ in range(16):
        budget.close(60)
    assert control.writes == 1


@pytest.mark.parametrize(("lose", "of_others"), [(10, START + 60 + DATE_ERROR), (1000, None)])
def test_the_gate_closes_although_races_are_lost_but_does_not_try_for_ever(
    budget: Budget, other: Budget, control: Contested, lose: int, of_others: float | None
) -> None:
    control.lose = lose
    budget.close(60)
    control.lose = 0
    assert budget.usage().blocked_until == START + 60 + DATE_ERROR
    assert budget.take(1, Asker.OPERATOR).count == 0
    assert other.usage().blocked_until == of_others


def test_a_grant_from_before_a_429_is_used_no_more(budget: Budget, clock: VirtualClock) -> None:
    grant = budget.take(2, Asker.POLLER)
    clock.sleep(0.5)
    budget.close(1)
    assert not budget.is_current(grant)
    clock.sleep(1 + DATE_ERROR)
    assert budget.is_current(budget.take(1, Asker.POLLER))


# --- What Cloudflare counts


def heard(budget: Budget, *remaining: int, reset: float = 60.0) -> None:
    for requests in remaining:
        budget.observe(RateLimit(requests, reset))
    budget.settle()


@pytest.mark.parametrize(("remaining", "granted"), [(50, 45), (10, 9), (9, 8), (1, 0), (0, 0)])
def test_the_last_tenth_of_what_the_account_has_left_is_never_taken(
    budget: Budget, other: Budget, remaining: int, granted: int
) -> None:
    heard(budget, remaining)
    assert other.take(LIMIT, Asker.OPERATOR).count == granted
    assert other.take(LIMIT, Asker.OPERATOR).count == 0


@pytest.mark.parametrize("remaining", [0, 40])
def test_what_a_header_said_expires_with_its_reset_time(
    budget: Budget, other: Budget, clock: VirtualClock, remaining: int
) -> None:
    heard(budget, remaining)
    clock.sleep(60 + DATE_ERROR - 1)
    assert other.take(1, Asker.POLLER).count == min(1, remaining)
    clock.sleep(1)
    assert other.take(LIMIT, Asker.OPERATOR).count == LIMIT - min(1, remaining)


def test_a_reset_in_the_far_future_is_not_believed(budget: Budget, clock: VirtualClock) -> None:
    heard(budget, 0, reset=1e9)
    clock.sleep(WINDOW + DATE_ERROR)
    assert budget.take(LIMIT, Asker.OPERATOR).count == LIMIT


def test_without_other_clients_the_limit_is_not_lowered(budget: Budget, control: Contested) -> None:
    heard(budget, 1200)
    assert control.writes == 0
    assert budget.take(60, Asker.OPERATOR).count == 60
    heard(budget, 50)  # more than the budget itself has left
    assert control.writes == 1
    assert budget.take(LIMIT, Asker.OPERATOR).count == 40


def test_an_answer_is_written_down_once(budget: Budget, control: Contested) -> None:
    heard(budget, 10)
    heard(budget)
    assert control.writes == 1


def usable(control: Contested) -> int:
    """Return how many requests may still be sent, by the record of the budget."""
    record = control.read(Budget.NAME)
    return Allowance.parse(record.value, LIMIT, record.now).available(reserved=0)


def test_of_several_answers_the_least_counts_until_the_reset(
    budget: Budget, other: Budget, control: Contested, clock: VirtualClock
) -> None:
    heard(budget, 90, 20, 80)
    heard(other, 60)  # an older answer that arrives late
    assert usable(control) == 18
    heard(other, 10, reset=5)
    assert usable(control) == 9
    clock.sleep(5 + DATE_ERROR)
    heard(other, 60)
    assert usable(control) == 54


def test_others_leave_the_same_part_of_a_ceiling(budget: Budget) -> None:
    heard(budget, 50)
    granted = 45 - 45 * (RESERVE + 50) // LIMIT
    assert budget.take(LIMIT, Asker.POLLER, leave=0.5).count == granted
    left = 45 - granted
    assert budget.take(LIMIT, Asker.POLLER).count == left - left * RESERVE // LIMIT


# --- The lease


@pytest.fixture
def one(control: Contested) -> Lease:
    return Lease(control, "poller-lease", "one", 30.0)


@pytest.fixture
def two(control: Contested) -> Lease:
    return Lease(control, "poller-lease", "two", 30.0)


def test_a_second_holder_is_refused_while_the_first_renews(
    one: Lease, two: Lease, clock: VirtualClock
) -> None:
    for _ in range(3):
        assert one.hold()
        clock.sleep(29)
        assert not two.hold()


def test_a_lease_that_is_not_renewed_expires_and_its_holder_cannot_give_it_back(
    one: Lease, two: Lease, clock: VirtualClock
) -> None:
    one.hold()
    clock.sleep(30)
    assert two.hold()
    one.release()
    assert not one.hold()
    assert two.hold()


def test_a_lease_that_was_released_is_free_at_once(one: Lease, two: Lease) -> None:
    one.hold()
    one.release()
    assert two.hold()


def test_of_two_who_ask_at_once_one_gets_it(one: Lease, control: Contested) -> None:
    control.lose = 1
    assert not one.hold()


def test_leases_of_different_names_do_not_meet(one: Lease, control: Contested) -> None:
    assert one.hold()
    assert Lease(control, "reconcile-lease", "two", 30.0).hold()


@pytest.mark.parametrize(("now", "used"), [(0.0, 1), (314.9, 1), (315.0, 0)])
def test_a_permit_counts_until_its_last_request_has_left_the_window(now: float, used: int) -> None:
    assert Allowance.parse({"granted": [[0, 1, 0]]}, LIMIT, now).used == used


def test_an_empty_record_is_an_unused_budget() -> None:
    assert Allowance.parse({}, LIMIT, 0.5) == Allowance(LIMIT, 0.5)


@pytest.mark.parametrize(
    ("limit", "webhooks", "asker", "reserved"),
    [(5, 0, Asker.WEBHOOK, 2), (5, 2, Asker.POLLER, 1), (2550, 0, Asker.POLLER, 51)],
)
def test_what_is_reserved_is_a_whole_number_of_requests(
    limit: int, webhooks: int, asker: Asker, reserved: int
) -> None:
    allowance = Allowance(limit, START).grant(webhooks, Asker.WEBHOOK)
    assert allowance.reserved_from(asker) == reserved


def test_a_rate_limit_that_leaves_as_much_as_the_budget_changes_nothing() -> None:
    allowance = Allowance(90, START)
    assert allowance.under(RateLimit(100, 60.0)) is allowance
