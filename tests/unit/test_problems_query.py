"""Check the query *problems* against the lines that Lambda and its Python runtime write."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.template import template

# Runs a handler as Lambda's runtime does, with one invocation.
RUNTIME: Final = """
import sys
import types
from awslambdaric import bootstrap

class Client:
    marshaller = bootstrap.LambdaRuntimeClient.marshaller

    def __init__(self):
        self.invocations = [
            types.SimpleNamespace(
                invoke_id="8286a188-ba32-4475-8077-530cd35c09a9", invocation_id=None,
                event_body="{}", content_type="application/json", client_context=None,
                cognito_identity=None, invoked_function_arn="arn", deadline_time_in_ms=1,
                tenant_id=None, x_amzn_trace_id=None,
            )
        ]

    def post_init_error(self, *_):
        pass

    post_invocation_error = post_invocation_result = post_init_error

    def wait_next_invocation(self):
        return self.invocations.pop()  # after the last one: an IndexError ends the process

sys.path.insert(0, sys.argv[1])
bootstrap.run("app.lambda_handler", Client())
"""
# What the source of a function may have, and a part of the line that the runtime writes of it.
FAILURES: Final = {
    "a missing environment variable": (
        'import os\nos.environ["NO_SUCH_TABLE"]',
        "[ERROR] KeyError: 'NO_SUCH_TABLE'",
    ),
    "a missing package": ("import no_such_package", "[ERROR] Runtime.ImportModuleError: Unable"),
    "a syntax error": ("def lambda_handler(:", "[ERROR] Runtime.UserCodeSyntaxError: Syntax"),
    "no handler": ("", "[ERROR] Runtime.HandlerNotFound: Handler 'lambda_handler' missing"),
    "an exception": (
        'def lambda_handler(event, context):\n    raise ValueError("no such action")',
        "[ERROR] ValueError: no such action",
    ),
}
# What Lambda itself writes, and the documentation or answer that shows the line.
OF_LAMBDA: Final = [
    # https://docs.aws.amazon.com/lambda/latest/dg/troubleshooting-invocation.html
    "2026-11-24T10:00:03.000Z 8286a188-ba32-4475 Task timed out after 3.00 seconds",
    # https://repost.aws/knowledge-center/lambda-troubleshoot-invocation-error-502-500
    "RequestId: 8286a188-ba32-4475 Error: Runtime exited with error: signal: killed",
    # https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
    "INIT_REPORT Init Duration: 1236.04 ms\tPhase: init\tStatus: timeout",
    "INIT_REPORT Init Duration: 243.21 ms\tPhase: invoke\tStatus: error",
]
QUIET: Final = [
    "INIT_START Runtime Version: python:3.13.v50\tRuntime Version ARN: arn",
    "START RequestId: 8286a188-ba32-4475-8077-530cd35c09a9 Version: $LATEST",
    "END RequestId: 8286a188-ba32-4475-8077-530cd35c09a9",
    "REPORT RequestId: 8286a188-ba32-4475\tDuration: 12.01 ms\tInit Duration: 310.00 ms",
    '{"level": "INFO", "message": "Webhook", "status": 403, "outcome": "refused"}',
    '{"level": "INFO", "message": "A download is ready", "name": "[ERROR] in LAMBDA"}',
]


def patterns() -> list[str]:
    """Return the alternatives of the query's regular expression."""
    query = template()["Resources"]["ProblemsQuery"]["Properties"]["QueryString"]
    (expression,) = re.findall(r"@message like /(.+)/", query)
    return re.split(r"\|(?![^(]*\))", expression)


def matching(line: str) -> list[str]:
    return [pattern for pattern in patterns() if re.search(pattern, line)]


def lines_of(source: str, directory: Path) -> list[str]:
    """Return the log lines that the real runtime writes for a function with that source."""
    pytest.importorskip("awslambdaric", reason="it is installed on Linux alone")
    (directory / "app.py").write_text(source, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "-c", RUNTIME, str(directory)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    # A carriage return is within a line: the runtime joins a traceback with it.
    return process.stdout.decode().split("\n")


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_that_the_runtime_writes_is_found(failure: str, tmp_path: Path) -> None:
    source, expected = FAILURES[failure]
    lines = lines_of(source, tmp_path)
    (line,) = [line for line in lines if line.startswith("[ERROR]")]
    assert line.startswith(expected)
    assert matching(line)


def test_the_warning_of_a_failed_init_is_found(tmp_path: Path) -> None:
    source, _ = FAILURES["a missing environment variable"]
    (line,) = [line for line in lines_of(source, tmp_path) if "LAMBDA_WARNING" in line]
    assert matching(line)


@pytest.mark.parametrize("line", OF_LAMBDA)
def test_a_failure_that_lambda_writes_is_found(line: str) -> None:
    assert matching(line)


@pytest.mark.parametrize("line", QUIET)
def test_a_line_without_a_problem_is_not_found(line: str) -> None:
    assert not matching(line)


def test_every_pattern_is_there_for_a_line(tmp_path: Path) -> None:
    source, _ = FAILURES["a missing environment variable"]
    seen = [*OF_LAMBDA, *lines_of(source, tmp_path)]
    used = {pattern for line in seen for pattern in matching(line)}
    assert used == set(patterns())
