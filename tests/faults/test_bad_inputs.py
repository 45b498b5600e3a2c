"""Send bad webhooks through the whole function: check answer, tables and log."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_downloads.domain.signature import UnauthenticReason
from stream_downloads.domain.video import UnusableReason
from tests.faults.stage import SIGNING_SECRET, Stage
from tests.support.events import EXAMPLE_SECRET, EXAMPLE_TIME, signed_event
from tests.unit.test_signature import BODY, NOT_AUTHENTIC
from tests.unit.test_video import NOT_READABLE


def example_stage() -> Stage:
    """Return the stack at the time of the examples, with their secret."""
    stage = Stage()
    stage.clock.now = EXAMPLE_TIME
    stage.secrets_manager.store(SIGNING_SECRET, {"webhook_secret": EXAMPLE_SECRET.decode()})
    return stage


def nothing_was_done(stage: Stage) -> bool:
    """Return that no row was written and no request sent to Cloudflare."""
    return not stage.downloads.rows and not stage.simulator.calls


@pytest.mark.parametrize(("header", "reason"), NOT_AUTHENTIC.values(), ids=NOT_AUTHENTIC.keys())
def test_what_is_not_authentic_is_answered_403_and_leaves_only_a_line_in_the_log(
    header: str | None, reason: UnauthenticReason
) -> None:
    stage = example_stage()
    event = signed_event(BODY)
    event["headers"] = {} if header is None else {"webhook-signature": header}
    assert stage.receive_event(event) == (403, "forbidden")
    assert nothing_was_done(stage)
    assert reason.value in stage.said
    assert stage.functions["receive"].sandbox.calls.count("secrets.get_secret_value") <= 4
    stage.invariants.check()


@pytest.mark.parametrize(("body", "reason"), NOT_READABLE.values(), ids=NOT_READABLE.keys())
def test_what_is_authentic_but_unusable_is_answered_200_and_counted(
    body: bytes, reason: UnusableReason
) -> None:
    stage = example_stage()
    assert stage.receive_event(signed_event(body, is_base64=True)) == (200, "ok")
    assert nothing_was_done(stage)
    assert reason.value in stage.said
    assert stage.metrics["Webhooks"] == 1
    stage.invariants.check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    fields=st.dictionaries(
        st.sampled_from(["requestContext", "headers", "body", "isBase64Encoded", "rawPath"]), JSON
    ),
    is_request=st.booleans(),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_comes_over_http_is_answered_as_the_reference_says(
    fields: dict[str, Any],
    is_request: bool,  # noqa: FBT001
) -> None:
    stage = example_stage()
    answer = stage.receive_event({**(signed_event(BODY) if is_request else {}), **fields})
    assert answer is not None
    assert answer[0] in (200, 400, 403, 405, 413)
    assert nothing_was_done(stage)
    stage.invariants.check()
