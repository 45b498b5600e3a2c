"""Test the control table on DynamoDB, as the template has it, and in memory."""

from __future__ import annotations

import time
from email.utils import formatdate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from stream_downloads.adapters.shared_state import Control, ControlTable, Record
from tests.support.memory import MemoryControl
from tests.support.template import REFERENCES

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TABLE = REFERENCES["ControlTable"]


@pytest.fixture(params=["DynamoDB", "memory"])
def control(request: pytest.FixtureRequest, dynamodb: DynamoDBClient) -> Control:
    if request.param == "memory":
        return MemoryControl(time.time)
    return ControlTable(dynamodb, TABLE)


def said(record: Record) -> dict[str, Any]:
    return {"value": record.value, "version": record.version}


def test_a_record_that_was_never_written_is_empty(control: Control) -> None:
    assert said(control.read("budget")) == {"value": {}, "version": 0}


def test_a_record_is_read_as_it_was_written(control: Control) -> None:
    value = {"n": 1, "half": 0.5, "none": None, "deep": {"list": [1, "é"]}}
    assert control.write("budget", value, 0)
    assert said(control.read("budget")) == {"value": value, "version": 1}
    assert said(control.read("lease")) == {"value": {}, "version": 0}


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_record_that_changed_since_it_was_read_is_not_overwritten(
    control: Control, version: int
) -> None:
    control.write("budget", {"n": 1}, 0)
    control.write("budget", {"n": 2}, 1)
    assert not control.write("budget", {"n": 3}, version)
    assert said(control.read("budget")) == {"value": {"n": 2}, "version": 2}


def test_the_time_is_in_whole_seconds_and_about_now(control: Control) -> None:
    now = control.read("budget").now
    assert now == int(now)
    assert abs(now - time.time()) < 60


# --- On DynamoDB alone


@pytest.mark.parametrize(
    ("headers", "now"),
    [
        ({"date": formatdate(1_800_000_000, usegmt=True)}, 1_800_000_000.0),
        ({}, 42.0),  # our own clock, for a stand-in that says no time
    ],
)
def test_the_time_is_the_tables_own(headers: dict[str, str], now: float) -> None:
    answer = {"ResponseMetadata": {"HTTPHeaders": headers}}
    client: Any = SimpleNamespace(get_item=lambda **_: answer)
    assert ControlTable(client, TABLE, clock=lambda: 42.0).read("budget").now == now


def test_a_refusal_of_another_kind_is_raised_as_it_is(dynamodb: DynamoDBClient) -> None:
    with pytest.raises(ClientError, match="ResourceNotFound"):
        ControlTable(dynamodb, "no-such-table").write("budget", {}, 0)
