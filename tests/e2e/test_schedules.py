"""Check that the scheduled functions run and that no invocation fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.deployed import Deployed, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

# The schedule's minute, the seconds by which the emulator may be late, and the run.
A_MINUTE = 80.0


@pytest.fixture
def hourly_schedule(plain: Deployed) -> Iterator[dict[str, Any]]:
    """Yield ReconcileLibrary's schedule, to be changed; restore it afterwards."""
    scheduler = plain.stack.client("scheduler")
    name = plain.stack.physical_id("ReconcileLibraryFunctionRegularly").rpartition("/")[2]
    described = scheduler.get_schedule(Name=name)
    kept = ("Name", "Target", "FlexibleTimeWindow", "ScheduleExpression")
    schedule = {field: described[field] for field in kept}
    yield schedule
    scheduler.update_schedule(**schedule)


def test_the_schedule_polls_every_minute(plain: Deployed) -> None:
    def runs() -> list[dict[str, Any]]:
        return [
            line
            for line in plain.stack.log("PollDownloads")
            if line["message"] == "Poll" and line["function_request_id"] not in plain.polls
        ]

    (run, *_) = eventually(runs, within=A_MINUTE)
    assert run["level"] == "INFO"


def test_the_schedule_reconciles(plain: Deployed, hourly_schedule: dict[str, Any]) -> None:
    assert hourly_schedule["ScheduleExpression"] == "rate(60 minutes)"
    uid = plain.upload(webhook_delays=())
    minutely = {**hourly_schedule, "ScheduleExpression": "rate(1 minute)"}
    plain.stack.client("scheduler").update_schedule(**minutely)
    eventually(lambda: plain.row(uid), within=A_MINUTE)


def test_no_invocation_failed_for_good(plain: Deployed) -> None:
    queue = plain.stack.physical_id("FailedInvocationsQueue")
    messages = plain.stack.client("sqs").receive_message(QueueUrl=queue).get("Messages", [])
    assert [json.loads(message["Body"]) for message in messages] == []
