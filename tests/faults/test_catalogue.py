"""Test each fault on each request, and each rule that no single scenario shows."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

from tests.faults import scenarios
from tests.faults.fates import wrong_ends_or_creates
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import API_SECRET, SIGNING_SECRET, Stage
from tests.simulator import Fault, signature
from tests.simulator.faults import ODDITIES

# The requests whose answer describes downloads.
DESCRIBING = ("create download", "list downloads")
EVERY_STEP = ("webhook", "poll with both types", "delete", "drift", "reconcile page")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (name, fault)
        for name in EVERY_STEP
        for fault in Fault
        if fault not in ODDITIES or name != "delete"  # whose answers describe no download
    ],
)
def test_a_fault_of_any_request_is_survived(fault: Fault, name: str) -> None:
    scenario, calls = SCENARIOS[name], list(enumerate(requests_of(name)))
    if fault in ODDITIES:
        calls = [(number, call) for number, call in calls if call in DESCRIBING]
    assert calls
    for number, call in calls:
        stage = Stage()
        scenario.prepare(stage)
        stage.simulator.faults.script(fault, skip=number)
        unanswered = scenario.act(stage)
        assert stage.simulator.faults.history == [(call, fault)]
        stage.recover(again=unanswered)
        stage.invariants.check()
        assert not list(wrong_ends_or_creates(stage, deletes=scenario.deletes)), f"request {number}"


@cache
def requests_of(name: str) -> list[str]:
    """Return the requests of a scenario without faults."""
    stage, scenario = Stage(), SCENARIOS[name]
    scenario.prepare(stage)
    before = len(stage.simulator.calls)
    scenario.act(stage)
    return [call.name for call in stage.simulator.calls[before:]]


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_that_stays_for_an_hour_loses_nothing(fault: Fault) -> None:
    stage = Stage()
    stage.simulator.upload()
    stage.simulator.faults.at_random(1.0, seed=0, among=(fault,))
    scenarios.deliver(stage)
    for _ in range(60):
        stage.poll()
        stage.clock.sleep(60)
    stage.recover()
    stage.invariants.check()
    assert not list(wrong_ends_or_creates(stage))


def test_a_webhook_signed_with_a_rotated_secret_is_received_at_once() -> None:
    stage = Stage()
    stage.simulator.upload()
    assert scenarios.deliver(stage) == []
    stage.rotate_signing_secret()
    stage.register()
    stage.simulator.upload()
    assert scenarios.deliver(stage) == []


def test_a_flood_of_forged_webhooks_reads_the_secret_once_a_minute() -> None:
    stage = Stage()
    stage.simulator.upload()
    (sent,) = stage.simulator.due_webhooks()
    for _ in range(120):
        stage.receive_forged(sent, signature(sent.body, "a guess", int(stage.clock())))
        stage.clock.sleep(1.0)
    reads = stage.functions["receive"].sandbox.calls.count("secrets.get_secret_value")
    # Two versions: at the start, and with a refresh in each of the two minutes.
    assert reads == 6


def test_a_flood_of_forged_webhooks_makes_all_processes_of_a_guest_ask_once_a_minute() -> None:
    stage = Stage()
    stage.be_guest()
    stage.simulator.upload()
    (sent,) = stage.simulator.due_webhooks()
    began = stage.clock()
    while stage.clock() < began + 300:
        stage.functions.clear()
        stage.receive_forged(sent, signature(sent.body, "a guess", int(stage.clock())))
        stage.clock.sleep(0.5)
    asked = [call.at for call in stage.simulator.calls if call.name == "get webhook"][1:]
    assert len(asked) == 5
    assert min(later - before for before, later in pairwise(asked)) >= 60
    stage.invariants.check()


@pytest.mark.parametrize("value", ["5up3r\n53cr3t", "5up3r 53cr3t", "5up3r-53cr3t\u00e9", "", 53])
def test_a_secret_that_cannot_be_used_is_never_shown(value: object) -> None:
    stage = Stage()
    stage.secrets_manager.store(API_SECRET, {"api_token": value})
    stage.secrets_manager.store(SIGNING_SECRET, {"webhook_secret": value})
    stage.invariants.secrets |= {"5up3r", "53cr3t"}
    stage.simulator.upload()
    (sent,) = stage.simulator.due_webhooks()
    assert stage.receive(sent) == 500
    stage.manage(action="request", video_uid=sent.video_uid)
    stage.reconcile()
    stage.poll()
    stage.invariants.check()
    assert not stage.simulator.calls
