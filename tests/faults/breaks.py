"""Break the service on purpose: at least one broken build for each invariant.

Each replaces a function by a wrong one. `tests.faults.mutants` checks that a test fails: this
proves that the fault tests find such defects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from stream_downloads.adapters.function_url import Delivery
from stream_downloads.adapters.observability import logger
from stream_downloads.adapters.secrets import ApiCredentials, SigningSecrets
from stream_downloads.adapters.shared_state import Budget, Lease
from stream_downloads.adapters.stream_api import DownloadState, StreamClient
from stream_downloads.domain import download, signature, transitions
from stream_downloads.domain.download import Download, DownloadType, Lane
from stream_downloads.domain.request_budget import Allowance
from stream_downloads.domain.video import Video
from stream_downloads.services import receive, video_events
from stream_downloads.services.dependencies import Service
from stream_downloads.services.poll import REQUEST_SECONDS, Poller
from stream_downloads.services.record import Recorder
from stream_downloads.services.steps import PollAt, Steps
from tests.support.memory import MemoryDownloads

P = ParamSpec("P")
T = TypeVar("T")

OVERLAPS: Final = "tests/faults/test_overlaps.py"
CHAOS: Final = "tests/faults/test_chaos.py"
BAD_INPUTS: Final = "tests/faults/test_bad_inputs.py"
CATALOGUE: Final = "tests/faults/test_catalogue.py"
# The tests of breaks that the fault tests cannot notice, because conditional writes and the margins
# of the limits hide them.
SCHEDULES: Final = "tests/unit/test_budget_property.py"
LATE_GRANT: Final = "tests/unit/test_gateway.py::test_a_grant_that_has_run_out_sends_nothing"
TWO_RUNS: Final = "tests/unit/test_poller.py::test_two_runs_at_once_do_the_work_once"
ONE_ROW: Final = "tests/unit/test_poller.py::test_a_row_that_cannot_be_worked_on_blocks_no_other"
TIMEOUT: Final = "tests/unit/test_poller.py::test_a_run_stops_in_good_time_before_its_timeout"


class Break(NamedTuple):
    """A broken build: the invariant that it breaks, and the tests that have to fail."""

    invariant: int
    name: str
    apply: Callable[[], None]
    tests: tuple[str, ...]


def broken(
    invariant: int, name: str, good: Callable[P, T], bad: Callable[P, T], *tests: str
) -> Break:
    """Return the break that replaces one function by another of the same type."""
    return Break(invariant, name, partial(put_in_place, good, bad), tests)


def put_in_place(good: Callable[..., Any], bad: Callable[..., Any]) -> None:
    """Replace a method in its class, a function wherever it was imported."""
    owner, _, name = good.__qualname__.rpartition(".")
    if owner:
        setattr(getattr(sys.modules[good.__module__], owner), name, bad)
    else:
        replace_everywhere(name, good, bad)


def replace_everywhere(name: str, old: object, new: object) -> None:
    """Give a global name another value in every module that has it."""
    for module in list(sys.modules.values()):
        if vars(module).get(name, module) is old:
            setattr(module, name, new)


def crash(scenario: str) -> str:
    """Return the test in which each call of a scenario fails."""
    test = "test_whatever_happens_to_any_call_every_invariant_holds"
    return f"tests/faults/test_crashes.py::{test}[{scenario}]"


# --- The wrong functions ----------------------------------------------------------------------

_create_accepted = transitions.create_accepted
_created = Steps._created
_delete = transitions.delete
_headers = ApiCredentials.headers
_missing = Recorder.missing
_verify = receive.verify


def one_row_is_enough(
    self: Recorder, wanted: Mapping[str, Sequence[DownloadType]]
) -> dict[str, list[DownloadType]]:
    """Treat a video with one row as complete."""
    missing = _missing(self, wanted)
    return {uid: kinds for uid, kinds in missing.items() if len(kinds) == len(wanted[uid])}


def published_by_a_create(
    self: Steps, row: Download, state: DownloadState | None, poll_at: PollAt
) -> Download:
    """Publish the URL in the answer to a create."""
    if state and state.url:
        return self._listed_ready(row, state.url, self.clock())
    return _created(self, row, state, poll_at)


def revived(row: Download, video: Video, now: float, *, lane: Lane = Lane.LIVE) -> Download:
    """Request every download without a URL, also a deleted one."""
    return row if row.url else transitions.request_again(row, now, video=video, lane=lane)


def logged_with_the_token(self: ApiCredentials) -> Mapping[str, str]:
    """Log the token."""
    headers = _headers(self)
    logger.info("sending", extra={"token": headers["Authorization"].split(" ")[1]})
    return headers


def logged_with_the_signature(
    service: Service, delivery: Delivery, secrets: SigningSecrets, now: float
) -> None:
    """Log the signature."""
    _verify(service, delivery, secrets, now)
    logger.info("verified", extra={"by": str(delivery.signature)[-64:]})


BREAKS: Final = (
    broken(
        1,
        "a webhook is answered before the intent is written",
        receive.record_intent,
        lambda *_: [],
        crash("webhook"),
    ),
    broken(
        1,
        "a webhook is answered although the bus did not take it",
        video_events.pass_on,
        lambda *_: True,
        crash("webhook that is passed on"),
    ),
    broken(
        2,
        "an accepted create is never polled",
        _create_accepted,
        lambda *args, **kwargs: replace(_create_accepted(*args, **kwargs), work=None),
        crash("webhook"),
    ),
    broken(
        2,
        "a refused signature is not tried with the rotated secret",
        SigningSecrets.refresh,
        lambda *_: None,
        CATALOGUE,
    ),
    broken(
        3,
        "reconciliation takes a video with one row for complete",
        _missing,
        one_row_is_enough,
        crash("reconcile page"),
    ),
    broken(4, "any URL is published", download.is_publishable, lambda *_: True, CATALOGUE),
    broken(4, "a create publishes", _created, published_by_a_create, crash("webhook")),
    broken(
        4,
        "the URL stays while the download is deleted",
        _delete,
        lambda row, now: replace(_delete(row, now), url=row.url),
        crash("delete"),
    ),
    broken(
        5,
        "nothing is written before a create is sent",
        transitions.create_sent,
        lambda row, *_: row,
        crash("webhook"),
    ),
    broken(
        5,
        "an ambiguous create is followed by another",
        transitions.try_again,
        lambda row, due_at, *_: transitions.create_not_sent(row, due_at),
        crash("webhook"),
    ),
    broken(
        6,
        "a row is saved over whatever version is there",
        MemoryDownloads.save,
        lambda self, row: self._write(replace(row, version=row.version + 1)),
        OVERLAPS,
    ),
    broken(6, "every run holds the lease", Lease.hold, lambda *_, **__: True, OVERLAPS, TWO_RUNS),
    broken(
        6, "a webhook revives a tombstone", transitions.video_is_ready, revived, crash("delete")
    ),
    broken(
        7,
        "a 429 leaves the gate open",
        Budget.close,
        lambda *_: None,
        crash("429 in the middle of a poll"),
    ),
    broken(
        7, "the budget forgets what it granted", Allowance.grant, lambda self, *_: self, SCHEDULES
    ),
    broken(7, "a grant is used however old it is", Budget.is_current, lambda *_: True, LATE_GRANT),
    broken(8, "every signature is good", signature.verify, lambda *_: None, BAD_INPUTS),
    broken(9, "the token is logged", _headers, logged_with_the_token, crash("webhook")),
    broken(9, "the signature is logged", _verify, logged_with_the_signature, crash("webhook")),
    broken(
        10,
        "an unforeseen error of one row ends the run",
        Poller._perform,
        lambda self, job, grant, *, follow: self._steps.perform(
            job, grant, self._pace, REQUEST_SECONDS, follow=follow
        ),
        ONE_ROW,
    ),
    broken(
        11,
        "an answer may drip for ever",
        StreamClient._read,
        lambda _, response, *__: response.read(decode_content=False),
        CATALOGUE,
    ),
    broken(11, "a run takes more time than is left", Poller._check_time, lambda *_: None, TIMEOUT),
)
