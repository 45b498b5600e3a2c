"""Test the log lines and the metrics, and that no secret is logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stream_downloads.adapters import observability
from stream_downloads.adapters.observability import (
    Metric,
    described,
    logger,
    observed,
    record,
    redact,
)
from stream_downloads.adapters.stream_api import ApiMessage, RefusalKind, Refused
from tests.support.emulator import REPOSITORY
from tests.support.events import LambdaContext

SIGNATURE = "4ba5cdef64ae9b342c03e80a48311bb4468ceff57873ea9fe3ed9fcee5e82696"
STREAM = "https://customer-a.cloudflarestream.com"
SIGNED_TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiI2YjllNjhiMDdkZmVlOGNjIn0.c2lnbmF0dXJl-_x"


Written = Callable[[], list[dict[str, Any]]]


class StandardOutput:
    """The standard output of the moment: the logger keeps the one it was made with."""

    def write(self, text: str) -> None:
        """Write there."""
        sys.stdout.write(text)

    def flush(self) -> None:
        """Write out what waits there."""
        sys.stdout.flush()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Return a function that returns the lines written since its last call."""
    monkeypatch.setattr(logger.registered_handler, "stream", StandardOutput())
    observability.flush()
    capsys.readouterr()
    yield lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    observability.flush()


def flushed(lines: Written) -> list[dict[str, Any]]:
    """Write the metrics as a handler does at its end, and return the lines."""
    observability.flush()
    return lines()


def metric_names(line: dict[str, Any]) -> list[str]:
    return [metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]]


def test_values_are_written_together_and_each_of_them(lines: Written) -> None:
    record(Metric.READY_DELAY, 12.5)
    record(Metric.READY_DELAY, 90)
    record(Metric.DOWNLOADS_READY, 2)
    [line] = flushed(lines)
    assert line["ReadyDelaySeconds"] == [12.5, 90.0]
    assert line["DownloadsReady"] == [2.0]


def test_a_metric_has_its_unit_and_namespace(lines: Written) -> None:
    record(Metric.READY_DELAY, 12.5)
    record(Metric.BUDGET_USED, 40)
    record(Metric.DRIFT)
    [declared] = flushed(lines)[0]["_aws"]["CloudWatchMetrics"]
    assert declared["Namespace"] == "StreamDownloads"
    assert declared["Metrics"] == [
        {"Name": "ReadyDelaySeconds", "Unit": "Seconds"},
        {"Name": "BudgetUsedPercent", "Unit": "Percent"},
        {"Name": "Drift", "Unit": "Count"},
    ]


def test_values_with_dimensions_are_added_up(lines: Written) -> None:
    for _ in range(300):
        record(Metric.CLOUDFLARE_REQUESTS, call="list_downloads", outcome="ok")
    record(Metric.CLOUDFLARE_REQUESTS, call="list_downloads", outcome="throttled")
    counted = {line["outcome"]: line["CloudflareRequests"] for line in flushed(lines)}
    assert counted == {"ok": [300.0], "throttled": [1.0]}


def test_dimensions_are_declared_as_such(lines: Written) -> None:
    record(Metric.WEBHOOKS, outcome="recorded")
    [line] = flushed(lines)
    assert "outcome" in line["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0]


def test_a_dimension_does_not_stick_to_other_metrics(lines: Written) -> None:
    record(Metric.WEBHOOKS, outcome="recorded")
    record(Metric.DRIFT)
    observability.flush()
    record(Metric.DRIFT)
    plain = [line for line in flushed(lines) if metric_names(line) == ["Drift"]]
    assert len(plain) == 2
    assert not any("outcome" in line for line in plain)


def test_nothing_is_written_when_nothing_was_recorded(lines: Written) -> None:
    assert flushed(lines) == []


def test_what_was_written_is_not_written_again(lines: Written) -> None:
    record(Metric.DRIFT)
    record(Metric.WEBHOOKS, outcome="recorded")
    assert len(flushed(lines)) == 2
    assert flushed(lines) == []


def test_no_count_is_lost_between_threads(lines: Written) -> None:
    def count(_thread: int) -> None:
        for _ in range(200):
            record(Metric.CLOUDFLARE_REQUESTS, call="list_downloads", outcome="ok")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, range(8)))
    assert flushed(lines)[0]["CloudflareRequests"] == [1600.0]


def test_an_observed_handler_writes_its_metrics_at_the_end(lines: Written) -> None:
    @observed
    def handler(_event: object, _context: object) -> str:
        record(Metric.POLLS_COMPLETED)
        return "done"

    assert handler({}, LambdaContext()) == "done"
    assert metric_names(lines()[0]) == ["PollsCompleted"]


def test_an_observed_handler_that_fails_says_why_and_writes_its_metrics(lines: Written) -> None:
    @observed
    def handler(_event: object, _context: object) -> None:
        record(Metric.CREDENTIALS_REFUSED)
        raise KeyError("gone", "Bearer abcDEF")

    with pytest.raises(KeyError):
        handler({}, LambdaContext())
    said, metric = lines()
    assert said["level"] == "ERROR"
    assert said["error"] == "KeyError"
    assert "gone" in said["exception"]
    assert "abcDEF" not in json.dumps(said)
    assert metric_names(metric) == ["CredentialsRefused"]


def test_every_line_of_an_observed_handler_names_its_request(lines: Written) -> None:
    @observed
    def handler(_event: object, _context: object) -> None:
        logger.warning("a look", extra={"video_uid": "6b9e68b07dfee8cc2d116e4c51d6a957"})

    handler({"secret": "event"}, LambdaContext(aws_request_id="the-request"))
    [line] = lines()
    assert line["function_request_id"] == "the-request"
    assert line["video_uid"] == "6b9e68b07dfee8cc2d116e4c51d6a957"
    assert "secret" not in json.dumps(line)


SECRETS = {
    "a bearer token": ("Authorization: Bearer abc-DEF_123.x", "abc-DEF_123.x"),
    "a bearer token in a dictionary": ("{'Authorization': 'Bearer abcDEF'}", "abcDEF"),
    "a bearer token in JSON": ('{"authorization": "bearer abcDEF"}', "abcDEF"),
    "an API key": ("X-Auth-Key: 0123456789abcdef", "0123456789abcdef"),
    "an API key in a dictionary": ("{'X-Auth-Key': '0123456789abcdef'}", "0123456789abcdef"),
    "a signature": (f"time=1,sig1={SIGNATURE}", SIGNATURE),
    "two signatures": (f"sig1={SIGNATURE},sig1={SIGNATURE}", SIGNATURE),
    "a signed URL": (f"{STREAM}/{SIGNED_TOKEN}/downloads/default.mp4", SIGNED_TOKEN),
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_is_taken_out_of_a_text(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "(redacted)" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{STREAM}/6b9e68b0/downloads/default.mp4",
        "no signature: valid_signature_too_old",
        "bearers of eyes",
        "",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_no_log_line_holds_a_secret_wherever_it_slipped_in(
    lines: Written, text: str, secret: str
) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        logger.exception("failed: %s", text, extra={"detail": {"header": [text]}})
        logger.warning("failed", extra=described(error))
    written = lines()
    assert secret not in json.dumps(written)
    assert len(written) == 2


def test_a_log_line_holds_things_that_are_no_json(lines: Written) -> None:
    logger.warning("odd", extra={"things": {1.5, 2.5} - {2.5}, "kind": Metric.DRIFT})
    [line] = lines()
    assert line["things"] == "{1.5}"
    assert line["kind"] == "Drift"


# As Lambda's runtime leaves the root logger to a function, and as other places do.
ROOT_HANDLERS = {
    "lambda": "logging.basicConfig(stream=sys.stdout, format='[%(levelname)s] %(message)s')",
    "elsewhere": "",
}
# The libraries are loaded once, each function in a process of its own.
NOISE = """
import importlib, logging, os, sys, warnings
{handler}
import boto3, aws_lambda_powertools, urllib3
for function in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(f"functions.{{function}}.app")
        pool = logging.getLogger("urllib3.connectionpool")
        pool.warning("Connection pool is full: %s", "Bearer abc")
        logging.getLogger("botocore").error("two\\nlines")
        warnings.warn("a warning of Python's", stacklevel=1)
        from stream_downloads.adapters.observability import logger
        logger.info(function)
        sys.exit()
    os.wait()
"""
FUNCTIONS = [path.parent.name for path in sorted(REPOSITORY.glob("functions/*/app.py"))]


@pytest.mark.parametrize("handler", ROOT_HANDLERS.values(), ids=ROOT_HANDLERS.keys())
def test_nothing_that_a_function_or_its_libraries_write_is_plain_text(handler: str) -> None:
    path = f"{REPOSITORY}:{REPOSITORY}/layers/stream_downloads"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", NOISE.format(handler=handler), *FUNCTIONS],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        text=True,
    )
    written = [json.loads(line)["message"] for line in done.stdout.splitlines()]
    for function in FUNCTIONS:
        ours = written.index(function)
        others, written = written[:ours], written[ours + 1 :]
        assert "Connection pool is full: Bearer (redacted)" in others, function
        assert "two\nlines" in others, function
        assert "a warning of Python's" in others[-1], function


def test_a_refusal_is_described_by_its_kind_status_and_codes() -> None:
    errors = (ApiMessage(10000, "Slow"), ApiMessage(971, "Down"))
    assert described(Refused("get video", 429, RefusalKind.THROTTLED, errors=errors)) == {
        "error": "Refused",
        "error_message": "get video: Cloudflare answered 429 (10000 Slow; 971 Down)",
        "refusal": "throttled",
        "status_code": 429,
        "codes": [10000, 971],
    }


def test_another_error_is_described_by_what_it_is_and_says() -> None:
    error = TimeoutError("x" * 5000)
    assert described(error) == {"error": "TimeoutError", "error_message": "x" * 1000}
