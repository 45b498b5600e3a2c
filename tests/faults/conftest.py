"""Block the network for the fault tests, and report the number of crash points."""

from __future__ import annotations

from collections.abc import Callable

import pytest

CRASH_POINTS = "crash points"


@pytest.fixture(autouse=True)
def _no_network(socket_disabled: None) -> None:
    """Block sockets in every test of this folder."""


@pytest.fixture
def count_crash_points(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Add to the number that is printed at the end of all tests."""
    return lambda count: record_property(CRASH_POINTS, count)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many crash points were tried."""
    reports = [
        report for status in ("passed", "failed") for report in _reports(terminalreporter, status)
    ]
    count = sum(
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == CRASH_POINTS and isinstance(value, int)
    )
    if count:
        terminalreporter.write_line(f"{count} crash points tried, every invariant checked at each")


def _reports(reporter: pytest.TerminalReporter, status: str) -> list[pytest.TestReport]:
    return [
        report for report in reporter.stats.get(status, ()) if isinstance(report, pytest.TestReport)
    ]
