"""Check after every test that no output of the code contains a secret."""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

from tests.simulator import Settings
from tests.simulator.webhooks import Outbox, Subscription
from tests.support.events import EXAMPLE_SECRET

# The secrets that tests configure, and every signing secret that a simulated Cloudflare makes.
KNOWN = {Settings.api_token, Settings.api_key, EXAMPLE_SECRET.decode()}
# What looks like one, whatever its value: a signature, a token in a header, a signed token.
LOOKS_SECRET = re.compile(
    r"sig1=[0-9a-f]{16}|Bearer [^\s(*]{4}|X-Auth-Key[\s:'\"=]{1,6}[^\s(*]{4}|\beyJ[\w-]+\.[\w-]+",
    re.IGNORECASE,
)

_subscribe = Outbox.subscribe


def _remembered(outbox: Outbox, url: str, now: float) -> Subscription:
    subscription = _subscribe(outbox, url, now)
    KNOWN.add(subscription.secret)
    return subscription


Outbox.subscribe = _remembered  # type: ignore[method-assign,assignment]


def leak_in(text: str) -> str | None:
    """Return the line that shows a secret, if one does."""
    shown = next((text.index(secret) for secret in KNOWN if secret in text), None)
    if shown is None and (found := LOOKS_SECRET.search(text)):
        shown = found.start()
    return None if shown is None else text[max(0, shown - 100) : shown + 100]


def redacted(text: str) -> str:
    """Return a text as the service's logger writes it."""
    from stream_downloads.adapters.observability import redact  # noqa: PLC0415 - reads the environment

    return redact(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test during which a log line, or anything else that was printed, showed a secret."""
    report = yield
    for name, text in report.sections:
        # A record is redacted when it is written, which is after pytest has seen it.
        written = redacted(text) if name.startswith("Captured log") else text
        if report.passed and name.endswith(call.when) and (leak := leak_in(written)):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} ({call.when}): a secret in {name}: …{leak}…"
    return report
