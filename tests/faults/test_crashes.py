"""Spoil every I/O call of every scenario in turn: nothing is lost or done twice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from tests.faults.fates import wrong_ends_or_creates
from tests.faults.sandbox import DEADLY, Plan, possible_blows
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.stage import Stage


@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_happens_to_any_call_every_invariant_holds(name: str) -> None:
    scenario = SCENARIOS[name]
    plans = list(every_plan(scenario))
    assert plans
    # A few tell enough, and what never recovers takes its time.
    failures = list(islice((failure for plan in plans for failure in tried(scenario, plan)), 5))
    assert not failures, "\n".join(failures)


def every_plan(scenario: Scenario) -> Iterator[Plan]:
    """Yield each blow on each call of an undisturbed run."""
    stage = Stage(**scenario.stage)  # type: ignore[arg-type]
    scenario.prepare(stage)
    before = calls_of(stage)
    assert not scenario.act(stage), "a webhook without a 200, although nothing was disturbed"
    stage.invariants.check()
    for sandbox, calls in calls_of(stage).items():
        first_calls = stage.functions[sandbox].sandbox.first_calls
        for number in range(len(before.get(sandbox, ())), len(calls)):
            for blow in possible_blows(calls[number], first=number in first_calls):
                if blow in scenario.only:
                    yield Plan(sandbox, number, blow)


def calls_of(stage: Stage) -> dict[str, list[str]]:
    return {name: list(function.sandbox.calls) for name, function in stage.functions.items()}


def tried(scenario: Scenario, plan: Plan) -> list[str]:
    """Return the failures after this blow, with and without a repeated webhook."""
    failures = []
    for sends_again in (True, False):
        stage = Stage(plan=plan, **scenario.stage)  # type: ignore[arg-type]
        scenario.prepare(stage)
        unanswered = scenario.act(stage)
        if plan.blow in DEADLY and not stage.deaths:
            failures.append(f"{plan}: it did not fall")
        stage.recover(again=unanswered if sends_again else [])
        wrong = [*stage.invariants.broken, *wrong_ends_or_creates(stage, deletes=scenario.deletes)]
        failures += [f"{plan}: {what}" for what in wrong]
        if not unanswered:
            break
    return failures
