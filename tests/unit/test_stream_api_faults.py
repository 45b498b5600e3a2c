"""Test the client with every fault of the catalogue."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from stream_downloads.adapters.stream_api import CloudflareError, DownloadState, RefusalKind
from tests.simulator import Fault
from tests.support.world import World


class Outcome(NamedTuple):
    """``kind`` is None if no answer came; ``done`` is whether a create happened all the same."""

    kind: RefusalKind | None
    ambiguous: bool = False
    done: bool = False
    retry_after: float | None = None


CREDENTIALS = Outcome(RefusalKind.CREDENTIALS)
THROTTLED = Outcome(RefusalKind.THROTTLED)
UNUSABLE = Outcome(RefusalKind.UNUSABLE, ambiguous=True)
SPOILED = Outcome(RefusalKind.UNUSABLE, ambiguous=True, done=True)
SILENCE = Outcome(None, ambiguous=True)

FAILING = {
    Fault.UNAUTHORIZED: CREDENTIALS,
    Fault.FORBIDDEN: CREDENTIALS,
    Fault.MALFORMED_CREDENTIALS: CREDENTIALS,
    Fault.NOT_FOUND: Outcome(RefusalKind.NOT_FOUND),
    Fault.CONFLICT: Outcome(RefusalKind.CONFLICT),
    Fault.EXISTS: Outcome(RefusalKind.CONFLICT),
    Fault.NOT_READY: Outcome(RefusalKind.REJECTED),
    Fault.THROTTLED_SILENTLY: THROTTLED,
    Fault.THROTTLED_UNTIL_A_DATE: THROTTLED,
    Fault.THROTTLED_NEGATIVE: THROTTLED,
    Fault.THROTTLED_NAN: THROTTLED,
    Fault.THROTTLED_HTML: THROTTLED,
    Fault.THROTTLED: THROTTLED._replace(retry_after=60.0),
    Fault.THROTTLED_HUGE: THROTTLED._replace(retry_after=1e30),
    Fault.SERVER_ERROR: UNUSABLE,
    Fault.UNAVAILABLE_HTML: UNUSABLE,
    Fault.NOT_FOUND_HTML: UNUSABLE,
    Fault.SUCCESS_FALSE: UNUSABLE,
    Fault.REDIRECT: UNUSABLE,
    Fault.SERVER_ERROR_AFTER: SPOILED,
    Fault.TRUNCATED_JSON: SPOILED,
    Fault.WRONG_CONTENT_TYPE: SPOILED,
    Fault.RESULT_NULL: SPOILED,
    Fault.RESULT_LIST: SPOILED,
    Fault.RESULT_TEXT: SPOILED,
    Fault.ENVELOPE_LIST: SPOILED,
    Fault.HUGE_BODY: SPOILED,
    Fault.SLOW_BODY: SPOILED,
    Fault.CUT_OFF: SPOILED,
    Fault.CANNOT_CONNECT: Outcome(None),
    Fault.RESET_BEFORE: SILENCE,
    Fault.RESET_AFTER: SILENCE._replace(done=True),
    Fault.HANG_BEFORE: SILENCE,
    Fault.HANG_AFTER: SILENCE._replace(done=True),
    Fault.SLOW_HEAD: SILENCE._replace(done=True),
}

URL = "https://customer-m033z5x00ks6nunl.cloudflarestream.com/{uid}/downloads/default.mp4"

# What the client passes on as Cloudflare said it, for others to judge: status, percentage, URL.
ODD = {
    Fault.STATUS_UNKNOWN: ("paused", 0, URL),
    Fault.PERCENT_NULL: ("inprogress", None, URL),
    Fault.PERCENT_OVER_100: ("inprogress", None, URL),
    Fault.PERCENT_NEGATIVE: ("inprogress", None, URL),
    Fault.PERCENT_TEXT: ("inprogress", None, URL),
    Fault.PERCENT_NAN: ("inprogress", None, URL),
    Fault.URL_MISSING: ("inprogress", 0, None),
    Fault.URL_FOREIGN: ("inprogress", 0, "https://elsewhere.example/{uid}/downloads/default.mp4"),
    Fault.URL_LOOKALIKE: ("inprogress", 0, URL.replace("customer-m033z5x00ks6nunl.", "evil")),
    Fault.URL_HTTP: ("inprogress", 0, URL.replace("https", "http")),
    Fault.URL_PORT: ("inprogress", 0, URL.replace(".com", ".com:8443")),
    Fault.URL_USERINFO: ("inprogress", 0, URL.replace("//", "//you@")),
    Fault.URL_OTHER_UID: ("inprogress", 0, URL.format(uid="0" * 32)),
}


def test_every_fault_has_its_line_here() -> None:
    assert {*FAILING, *ODD} == set(Fault)
    assert not {*FAILING} & {*ODD}


@pytest.mark.parametrize(("fault", "outcome"), FAILING.items())
def test_a_create_that_meets_a_fault_tells_whether_it_may_have_happened(
    fault: Fault, outcome: Outcome
) -> None:
    world = World()
    uid = world.simulator.upload()
    world.simulator.faults.script(fault)
    began = world.clock()
    with pytest.raises(CloudflareError) as caught:
        world.service.gateway.stream.create_download(uid, None, seconds=5)
    assert getattr(caught.value, "kind", None) is outcome.kind
    assert caught.value.ambiguous is outcome.ambiguous
    assert getattr(caught.value, "retry_after", None) == outcome.retry_after
    assert bool(world.simulator.videos[uid].downloads) is outcome.done
    assert world.simulator.settings.api_token not in str(caught.value)
    assert world.clock() - began <= 5.5


@pytest.mark.parametrize(
    "fault", [fault for fault in FAILING if fault is not Fault.RESULT_NULL], ids=str
)
def test_a_list_that_meets_a_fault_is_never_taken_for_an_answer(fault: Fault) -> None:
    world = World()
    uid = world.simulator.upload()
    world.simulator.faults.script(fault)
    with pytest.raises(CloudflareError) as caught:
        world.service.gateway.stream.list_downloads(uid, seconds=5)
    assert getattr(caught.value, "kind", None) is FAILING[fault].kind


@pytest.mark.parametrize(("fault", "said"), ODD.items())
def test_what_is_odd_about_a_download_is_passed_on_or_left_open(
    fault: Fault, said: tuple[str, float | None, str | None]
) -> None:
    world = World()
    stream, uid = world.service.gateway.stream, world.simulator.upload()
    stream.create_download(uid, None, seconds=5)
    world.simulator.faults.script(fault)
    state = stream.list_downloads(uid, seconds=5)["default"]
    status, percent, url = said
    assert state == DownloadState(status, percent, url and url.format(uid=uid))
