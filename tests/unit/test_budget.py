"""The shared request allowance, the 429 gate, and the lease."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from stream_downloads.adapters.shared_state import Budget, Lease
from stream_downloads.domain.request_budget import (
    BLOCK_AT_MOST,
    BLOCK_WITHOUT_RETRY_AFTER,
    DATE_ERROR,
    PROBE_SECONDS,
    SLACK,
    USE_WITHIN,
    WINDOW,
    Allowance,
    Asker,
    RateLimit,
)
from tests.memory import MemoryControl
from tests.world import START, VirtualClock

LIMIT = 100
# What is kept for webhooks while none come: a fiftieth.
KEPT = LIMIT // 50


class Contested(MemoryControl):
    """A control table in which somebody else is faster, so many times."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.lose = 0
        self.writes = 0

    def write(self, name: str, value: Mapping[str, Any], version: int) -> bool:
        self.writes += 1
        if self.lose > 0:
            self.lose -= 1
            record = super().read(name)
            super().write(name, record.value, record.version)
        return super().write(name, value, version)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def control(clock: VirtualClock) -> Contested:
    return Contested(clock)


@pytest.fixture
def budget(control: Contested, clock: VirtualClock) -> Budget:
    return Budget(control, LIMIT, clock)


@pytest.fixture
def other(control: Contested, clock: VirtualClock) -> Budget:
    """The same allowance in another function, whose clock has nothing to do with ours."""
    return Budget(control, LIMIT, lambda: clock() - 123_456)


# --- The allowance


def test_no_more_than_the_limit_is_granted(budget: Budget) -> None:
    assert budget.take(60, Asker.PERSON).count == 60
    assert budget.take(60, Asker.PERSON).count == 40
    assert budget.take(1, Asker.PERSON).count == 0


def test_all_functions_take_from_one_allowance(budget: Budget, other: Budget) -> None:
    assert budget.take(LIMIT, Asker.PERSON).count == LIMIT
    assert other.take(1, Asker.PERSON).count == 0


def test_what_was_granted_comes_back_once_it_has_left_the_window(
    budget: Budget, clock: VirtualClock
) -> None:
    budget.take(LIMIT, Asker.PERSON)
    clock.sleep(WINDOW + SLACK - 1)
    assert budget.take(1, Asker.PERSON).count == 0
    clock.sleep(1)
    assert budget.take(LIMIT, Asker.PERSON).count == LIMIT


def test_a_grant_says_how_many_more_there_would_have_been(budget: Budget) -> None:
    assert budget.take(10, Asker.POLLER).left == LIMIT - KEPT - 10


def test_an_answer_that_goes_back_in_time_lengthens_no_window(
    budget: Budget, clock: VirtualClock
) -> None:
    budget.take(1, Asker.PERSON)
    clock.now -= 1  # another of DynamoDB's machines
    budget.take(LIMIT - 1, Asker.PERSON)
    clock.sleep(WINDOW + SLACK)
    assert budget.take(1, Asker.PERSON).count == 0


def test_a_lost_race_means_no_and_costs_nothing(budget: Budget, control: Contested) -> None:
    control.lose = 1
    assert budget.take(10, Asker.POLLER).count == 0
    assert budget.take(LIMIT, Asker.PERSON).count == LIMIT


def test_nothing_is_written_when_nothing_is_granted(budget: Budget, control: Contested) -> None:
    budget.take(LIMIT, Asker.PERSON)
    writes = control.writes
    assert budget.take(1, Asker.POLLER).count == 0
    assert control.writes == writes


def test_the_state_says_what_is_used(budget: Budget, clock: VirtualClock) -> None:
    budget.take(30, Asker.POLLER)
    budget.take(3, Asker.PERSON)
    assert budget.state() == {"limit": LIMIT, "used": 33, "blocked_until": None}
    budget.close(60)
    assert budget.state()["blocked_until"] == START + 60 + DATE_ERROR
    clock.sleep(WINDOW + SLACK)
    assert budget.state() == {"limit": LIMIT, "used": 0, "blocked_until": None}


def test_a_window_full_of_grants_is_read_back_as_written_and_cheap_to_write() -> None:
    seconds = range(int(START), int(START) + WINDOW + SLACK)
    allowance = Allowance(dict.fromkeys(seconds, 1), dict.fromkeys(seconds[::3], 16), START, 7)
    value = json.dumps(allowance.as_value(), separators=(",", ":"))
    assert Allowance.parse(json.loads(value)) == allowance
    assert len(value) < 2048  # two write units


# --- The webhooks' share


def test_the_poller_leaves_a_share_to_webhooks(budget: Budget) -> None:
    assert budget.take(LIMIT, Asker.POLLER).count == LIMIT - KEPT
    assert budget.take(1, Asker.POLLER).count == 0
    assert budget.take(LIMIT, Asker.WEBHOOK).count == KEPT


def test_a_person_who_waits_gets_whatever_there_is(budget: Budget) -> None:
    budget.take(LIMIT, Asker.POLLER)
    assert budget.take(LIMIT, Asker.PERSON).count == KEPT


def test_the_share_grows_with_the_webhooks_that_come_and_shrinks_when_they_stop(
    budget: Budget, clock: VirtualClock
) -> None:
    budget.take(40, Asker.WEBHOOK)  # eight a minute
    assert budget.take(1, Asker.POLLER).left == LIMIT - 40 - 8 - 1
    clock.sleep(WINDOW + SLACK)
    assert budget.take(1, Asker.POLLER).left == LIMIT - KEPT - 1


def test_the_share_is_at_most_a_quarter_and_within_the_webhooks_half(
    control: Contested, clock: VirtualClock
) -> None:
    budget = Budget(control, 1000, clock)
    budget.take(200, Asker.WEBHOOK)  # forty a minute
    assert budget.take(1, Asker.POLLER).left == 1000 - 200 - 40 - 1
    budget.take(280, Asker.WEBHOOK)
    assert budget.take(1, Asker.POLLER).left == 1000 - 480 - 20 - 2
    budget = Budget(control, 800, clock)
    budget.take(1, Asker.WEBHOOK)
    assert budget.take(1, Asker.POLLER).count == 1


def test_webhooks_leave_half_of_the_limit_to_those_who_look(
    budget: Budget, clock: VirtualClock
) -> None:
    assert budget.take(LIMIT, Asker.WEBHOOK).count == 50
    assert budget.take(1, Asker.WEBHOOK).count == 0
    assert budget.take(LIMIT, Asker.POLLER).count == 50
    clock.sleep(WINDOW + SLACK)
    assert budget.take(70, Asker.POLLER).count == 70
    assert budget.take(LIMIT, Asker.WEBHOOK).count == 30  # the half is used: nothing is wasted


def test_less_urgent_work_leaves_a_part_of_the_limit_beside_the_share(budget: Budget) -> None:
    assert budget.take(LIMIT, Asker.POLLER, leave=0.5).count == LIMIT - KEPT - 50
    assert budget.take(LIMIT, Asker.POLLER, leave=0.1).count == 50 - 10
    assert budget.take(LIMIT, Asker.POLLER).count == 10


# --- A grant


def test_a_grant_that_has_run_out_is_not_used(budget: Budget, clock: VirtualClock) -> None:
    grant = budget.take(1, Asker.POLLER)
    clock.sleep(USE_WITHIN)
    assert budget.is_current(grant)
    clock.sleep(0.001)
    assert not budget.is_current(grant)


def test_the_time_of_a_grant_begins_before_the_allowance_is_read(clock: VirtualClock) -> None:
    class Slow(MemoryControl):
        def read(self, name: str) -> Any:
            clock.sleep(1.5)
            return super().read(name)

    budget = Budget(Slow(clock), LIMIT, clock)
    grant = budget.take(1, Asker.POLLER)
    clock.sleep(0.6)
    assert not budget.is_current(grant)


# --- The gate


def test_a_429_closes_the_gate_for_every_function(
    budget: Budget, other: Budget, clock: VirtualClock
) -> None:
    budget.close(60)
    grant = other.take(1, Asker.PERSON)
    assert (grant.count, grant.blocked_until) == (0, START + 60 + DATE_ERROR)
    assert other.take(1, Asker.POLLER).count == 0
    clock.sleep(60 + DATE_ERROR - 1)
    assert other.take(1, Asker.PERSON).count == 0
    clock.sleep(1)
    assert other.take(1, Asker.PERSON).count == 1


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (None, BLOCK_WITHOUT_RETRY_AFTER),
        (0.0, 1.0),
        (1.0, 1.0),
        (60.5, 60.5),
        (900.0, 900.0),
        (901.0, BLOCK_AT_MOST),
        (1e30, BLOCK_AT_MOST),
        (-60.0, 1.0),
    ],
)
def test_the_gate_closes_for_as_long_as_cloudflare_says_within_reason(
    budget: Budget, retry_after: float | None, seconds: float
) -> None:
    budget.close(retry_after)
    assert budget.state()["blocked_until"] == START + seconds + DATE_ERROR


def test_a_second_429_never_opens_the_gate_sooner(budget: Budget, other: Budget) -> None:
    budget.close(300)
    other.close(1)
    assert budget.state()["blocked_until"] == START + 300 + DATE_ERROR


def test_a_batch_of_429s_is_written_once(budget: Budget, control: Contested) -> None:
    for _ in range(16):
        budget.close(60)
    assert control.writes == 1


def test_the_gate_closes_although_races_are_lost(budget: Budget, control: Contested) -> None:
    control.lose = 10
    budget.close(60)
    assert budget.state()["blocked_until"] is not None


def test_a_change_that_loses_every_race_gives_up(budget: Budget, control: Contested) -> None:
    control.lose = 1000
    budget.close(60)
    assert budget.state()["blocked_until"] is None


def test_a_grant_from_before_a_429_is_not_used_after_it(
    budget: Budget, clock: VirtualClock
) -> None:
    grant = budget.take(2, Asker.POLLER)
    clock.sleep(0.5)
    budget.close(1)
    assert not budget.is_current(grant)
    clock.sleep(1 + DATE_ERROR)
    assert budget.is_current(budget.take(1, Asker.POLLER))


# --- What Cloudflare counts


def heard(budget: Budget, remaining: int, reset: float = 60.0) -> None:
    budget.observe(RateLimit(remaining, reset))
    budget.settle()


@pytest.mark.parametrize(("remaining", "granted"), [(50, 45), (10, 9), (9, 8), (1, 0), (0, 0)])
def test_the_last_tenth_of_what_the_account_has_left_is_never_taken(
    budget: Budget, other: Budget, remaining: int, granted: int
) -> None:
    heard(budget, remaining)
    assert other.take(LIMIT, Asker.PERSON).count == granted
    assert other.take(LIMIT, Asker.PERSON).count == 0


def test_an_account_that_nobody_else_uses_lowers_nothing(
    budget: Budget, control: Contested
) -> None:
    heard(budget, 1200)
    assert control.writes == 0
    assert budget.take(LIMIT, Asker.PERSON).count == LIMIT


def test_nothing_is_read_when_nothing_was_heard(budget: Budget, control: Contested) -> None:
    budget.observe(RateLimit(10, 60))
    budget.settle()
    writes = control.writes
    budget.settle()
    assert control.writes == writes


def test_of_several_answers_the_least_counts(budget: Budget) -> None:
    for remaining in (90, 20, 80):
        budget.observe(RateLimit(remaining, 60))
    budget.settle()
    assert budget.take(LIMIT, Asker.PERSON).count == 18


def test_others_leave_the_same_part_of_a_ceiling(budget: Budget) -> None:
    heard(budget, 50)
    assert budget.take(1, Asker.POLLER, leave=0.5).left == 45 - 45 * (KEPT + 50) // LIMIT - 1
    assert budget.take(1, Asker.POLLER).left == 44 - 44 * KEPT // LIMIT - 1


def test_newer_answers_raise_a_ceiling_and_lift_it(budget: Budget) -> None:
    heard(budget, 20)
    heard(budget, 60)
    assert budget.take(10, Asker.PERSON).left == 54 - 10
    heard(budget, 1000)
    assert budget.take(1, Asker.PERSON).left == LIMIT - 11


def test_an_older_answer_can_only_lower_a_ceiling(
    budget: Budget, other: Budget, clock: VirtualClock
) -> None:
    budget.observe(RateLimit(60, 60))  # in a batch of which one request hangs
    clock.sleep(9)
    heard(other, 20)
    budget.settle()
    assert budget.take(1, Asker.PERSON).left == 18 - 1
    budget.observe(RateLimit(10, 60))
    clock.sleep(9)
    budget.settle()
    assert budget.take(1, Asker.PERSON).left == 9 - 1


def test_when_a_ceiling_has_run_out_one_request_finds_out_what_is_left(
    budget: Budget, other: Budget, clock: VirtualClock
) -> None:
    heard(budget, 40, reset=5)
    clock.sleep(5 + DATE_ERROR)
    assert budget.take(16, Asker.POLLER).count == 1
    assert other.take(16, Asker.PERSON).count == 0
    clock.sleep(PROBE_SECONDS)  # its answer never came
    assert other.take(16, Asker.PERSON).count == 1
    heard(other, 1000)
    assert budget.take(16, Asker.POLLER).count == 16


def test_a_reset_in_the_far_future_is_not_believed(budget: Budget, clock: VirtualClock) -> None:
    heard(budget, 0, reset=1e9)
    clock.sleep(WINDOW + DATE_ERROR)
    assert budget.take(1, Asker.POLLER).count == 1


# --- The lease


def lease(control: MemoryControl, owner: str) -> Lease:
    return Lease(control, "poller-lease", owner, 30.0)


def test_a_second_holder_is_refused(control: Contested) -> None:
    assert lease(control, "one").hold()
    assert not lease(control, "two").hold()


def test_the_holder_renews_it(control: Contested, clock: VirtualClock) -> None:
    one, two = lease(control, "one"), lease(control, "two")
    for _ in range(5):
        assert one.hold()
        clock.sleep(29)
        assert not two.hold()


def test_a_lease_that_is_not_renewed_runs_out(control: Contested, clock: VirtualClock) -> None:
    one, two = lease(control, "one"), lease(control, "two")
    one.hold()
    clock.sleep(30)
    assert two.hold()
    assert not one.hold()


def test_a_lease_that_was_released_is_free_at_once(control: Contested) -> None:
    one, two = lease(control, "one"), lease(control, "two")
    one.hold()
    one.release()
    assert two.hold()


def test_a_release_by_one_who_has_lost_it_takes_nothing_away(
    control: Contested, clock: VirtualClock
) -> None:
    one, two = lease(control, "one"), lease(control, "two")
    one.hold()
    clock.sleep(30)
    two.hold()
    one.release()
    assert not one.hold()
    assert two.hold()


def test_of_two_who_ask_at_once_one_gets_it(control: Contested) -> None:
    control.lose = 1
    assert not lease(control, "one").hold()


def test_leases_of_different_names_do_not_meet(control: Contested) -> None:
    assert lease(control, "one").hold()
    assert Lease(control, "reconcile-lease", "two", 30.0).hold()
