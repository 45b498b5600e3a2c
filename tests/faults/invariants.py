"""Check the eleven invariants after every step, whatever failed.

`Invariants` gets every answer of Cloudflare, every version of every row, every line of the log and
the end of every invocation, and collects what breaks a rule. It uses no state of the service.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from stream_downloads.adapters.download_item import to_item
from stream_downloads.adapters.stream_api import StreamClient
from stream_downloads.domain.download import Download, DownloadType, Status
from stream_downloads.domain.request_budget import USE_WITHIN, WINDOW
from tests.simulator import Call, Fault, Response, Wire, download_url

# Invariant 6: the allowed changes of status, and the functions that may write them.
EVERYONE = frozenset({"receive", "poll", "reconcile", "manage"})
POLL, HAND = frozenset({"poll"}), frozenset({"manage"})
NEW = None
MOVES: dict[tuple[Status | None, Status], Collection[str]] = {
    (NEW, Status.REQUESTED): EVERYONE - POLL,
    (NEW, Status.ERROR): {"receive"},  # the webhook of a failed video
    (Status.REQUESTED, Status.INPROGRESS): {"receive", "poll"},  # both create
    (Status.REQUESTED, Status.READY): POLL,
    (Status.REQUESTED, Status.ERROR): POLL,
    (Status.REQUESTED, Status.DELETING): HAND,
    (Status.INPROGRESS, Status.READY): POLL,
    (Status.INPROGRESS, Status.ERROR): POLL,
    (Status.INPROGRESS, Status.DELETING): HAND,
    (Status.READY, Status.DELETING): HAND | POLL,  # the poller: at the end of retention
    (Status.READY, Status.DELETED): POLL,  # its video is gone
    (Status.READY, Status.REQUESTED): POLL,  # it vanished, and its video did not
    (Status.READY, Status.ERROR): POLL,  # it vanished, and its video failed
    (Status.ERROR, Status.REQUESTED): EVERYONE - POLL,  # the two others: only what reopens
    (Status.ERROR, Status.DELETING): HAND,
    (Status.DELETING, Status.DELETED): POLL,
    (Status.DELETING, Status.REQUESTED): HAND,
    (Status.DELETING, Status.ERROR): POLL,  # Cloudflare refused the delete for a day
    (Status.DELETED, Status.REQUESTED): HAND,
}
ENDS = (Status.READY, Status.ERROR, Status.DELETED)

# The longest time until a row with work is due: the grace of a missing video, with a clock that is
# five minutes fast; and the week until a ready download is rechecked.
WAITS_AT_MOST = 4_000.0
UPKEEP_WAITS_AT_MOST = 8 * 86_400.0

# Whatever looks like a signature or a token, beside the secrets that are known.
LOOKS_SECRET = re.compile(r"sig1=[0-9a-f]{8}|bearer [^\s(]|x-auth-key[\s:'\"=]{1,6}[^\s(]")

# Answers that show whether a create was carried out.
REFUSALS = frozenset({400, 401, 403, 404, 429})


@dataclass(slots=True)
class Leave:
    """The permission to create a download, by the requests and answers so far."""

    given: bool = True
    creates: int = 0
    again: int = 0  # how often there was a reason for one more


@dataclass
class Invariants:
    """Checks the invariants.

    Attributes:
        clock: the true time.
        limit: ``CloudflareRequestLimit``.
        secrets: the texts that must appear nowhere.
        broken: the broken rules so far.
    """

    clock: Callable[[], float]
    limit: int
    secrets: set[str]
    broken: list[str] = field(default_factory=list)
    leaves: dict[tuple[str, str], Leave] = field(default_factory=dict)
    listed_ready: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    most_requests: int = 0
    _sent: deque[float] = field(default_factory=deque)
    _blocks: list[tuple[float, float]] = field(default_factory=list)

    def breaks(self, number: int, text: str) -> None:
        """Remember that an invariant does not hold."""
        self.broken.append(f"invariant {number}: {text} (at {self.clock():.1f})")

    # --- requests to Cloudflare and its answers -----------------------------------------------

    def answered(self, call: Call, response: Response) -> None:
        """Check a request that was sent to Cloudflare."""
        self._count(call)
        if call.video_uid is None:
            return
        key = call.video_uid, call.download_type or "default"
        match call.name:
            case "create download":
                self._created(call, key, self.leaves.setdefault(key, Leave()))
            case "list downloads":
                self._listed(call, response)
            case "delete downloads":
                self._deleted(call)

    def _count(self, call: Call) -> None:
        """Check invariant 7: no more than the limit in five minutes, none at a closed gate."""
        sent = self._sent
        sent.append(call.at)
        if len(sent) > 1 and sent[-2] > call.at:  # in a parallel batch, one was slow
            self._sent = sent = deque(sorted(sent))
        while sent[0] <= sent[-1] - WINDOW:
            sent.popleft()
        self.most_requests = max(self.most_requests, len(sent))
        if len(sent) > self.limit:
            self.breaks(7, f"{len(sent)} requests in five minutes, of {self.limit}")
        for closed_at, until in self._blocks:
            if closed_at + USE_WITHIN < call.at < until:
                self.breaks(7, f"{call.name} {until - call.at:.1f} s before the gate opens")

    def gate_closed(self, until: float) -> None:
        """Remember that a function closed the gate."""
        now = self.clock()
        self._blocks = [block for block in self._blocks if block[1] > now - WINDOW]
        self._blocks.append((now, until))

    def throttled(self, until: float, blocked_until: float) -> None:
        """Check invariant 7 after a function that got a 429: the gate is closed until then."""
        if blocked_until < until:
            self.breaks(7, f"a 429 until {until:.1f} did not close the gate")

    def _created(self, call: Call, key: tuple[str, str], leave: Leave) -> None:
        """Check invariant 5: between two creates there is a list, a delete or a refusal."""
        leave.creates += 1
        if not leave.given:
            self.breaks(5, f"{key} was created again without a look")
        leave.given = call.status in REFUSALS or call.fault is Fault.CANNOT_CONNECT
        leave.again += leave.given

    def _listed(self, call: Call, response: Response) -> None:
        uid = call.video_uid or ""
        listed = _downloads_in(response)
        if call.status == 404:
            listed = {}
        if listed is None:
            return
        for wanted in DownloadType:
            leave = self.leaves.get((uid, wanted))
            if leave and not leave.given and wanted not in listed:
                leave.given = True
                leave.again += 1
        for kind, said in listed.items():
            if said.get("status") == "ready" and isinstance(said.get("url"), str):
                self.listed_ready.setdefault((uid, kind), set()).add(str(said["url"]))

    def _deleted(self, call: Call) -> None:
        if call.fault is Fault.CANNOT_CONNECT or call.status in REFUSALS - {404}:
            return
        key = call.video_uid or "", call.download_type or "default"
        leave = self.leaves.setdefault(key, Leave())
        leave.again += not leave.given
        leave.given = True
        self.listed_ready.pop(key, None)

    # --- what is written ----------------------------------------------------------------------

    def wrote(self, actor: str, before: Download | None, after: Download) -> None:
        """Check a row that was written."""
        name = f"{after.video_uid}/{after.download_type}"
        self._moved(actor, before, after, name)
        self._published(before, after, name)
        self._is_whole(after, name)
        self.said(json.dumps(to_item(after)))

    def _moved(self, actor: str, before: Download | None, after: Download, name: str) -> None:
        """Check invariant 6: states never go back."""
        was = before.status if before else NEW
        actor = actor.partition(" ")[0]
        if was != after.status and actor not in MOVES.get((was, after.status), ()):
            self.breaks(6, f"{actor} made {name} {after.status}, which was {was}")
        if before and after.updated_at < before.updated_at:
            self.breaks(6, f"{name}: updated_at went back")
        reopened = was is Status.ERROR and after.status is Status.REQUESTED
        if before and reopened and actor in ("receive", "reconcile") and not before.reopens:
            self.breaks(6, f"{actor} opened {name}, which had ended: {before.error_code}")

    def _published(self, before: Download | None, after: Download, name: str) -> None:
        """Check invariant 4: a published URL was ready in an earlier list, on Cloudflare's host."""
        if (after.status is Status.READY) != (after.url is not None):
            self.breaks(4, f"{name} is {after.status} with the url {after.url}")
        if after.url is None or (before and before.url == after.url):
            return
        if after.url != download_url(after.video_uid, after.download_type):
            self.breaks(4, f"{name} was published as {after.url}")
        if after.url not in self.listed_ready.get((after.video_uid, after.download_type), ()):
            self.breaks(4, f"{name} was published, and no list has said ready: {after.url}")

    def _is_whole(self, row: Download, name: str) -> None:
        """Check invariant 2: a row is ready, deleted, in error with a reason, or still due."""
        if (row.step is None) != (row.due_at is None):
            self.breaks(2, f"{name}: step {row.step}, due at {row.due_at}")
        if row.step is None and row.status not in ENDS:
            self.breaks(2, f"{name} is {row.status}, and no step is left")
        wait = UPKEEP_WAITS_AT_MOST if row.status is Status.READY else WAITS_AT_MOST
        if row.due_at is not None and row.due_at > self.clock() + wait:
            self.breaks(2, f"{name} lies for {row.due_at - self.clock():.0f} s")
        if row.status is Status.ERROR and not (row.error_code and row.error_message):
            self.breaks(2, f"{name} is in error without a reason")
        if row.status is not Status.ERROR and (row.error_code or row.error_message):
            self.breaks(2, f"{name} is {row.status} with an error")

    # --- what is said -------------------------------------------------------------------------

    def said(self, text: str) -> None:
        """Check invariant 9: no secret is in a log line, an exception, an event or a row."""
        for secret in self.secrets:
            if secret in text:
                self.breaks(9, f"a secret is shown: {text[:200]}")
        if LOOKS_SECRET.search(text.lower()):
            self.breaks(9, f"what looks like a secret is shown: {text[:200]}")

    def sent_to(self, url: str, base_url: str) -> None:
        """Check invariant 9: the token goes to the API's host alone."""
        if not url.startswith(base_url + "/"):
            self.breaks(9, f"the token went to {url[:60]}")

    # --- how it ends --------------------------------------------------------------------------

    def answered_webhook(self, status: int, lacking: Iterable[str]) -> None:
        """Check invariant 1: after a 200 no type is ``lacking`` its row.

        With ``VideoEvents`` the bus must have the webhook, too: else ``lacking`` has ``event``.
        """
        if status == 200 and (missing := list(lacking)):
            self.breaks(1, f"200, and there is no {missing}")

    def ended(self, what: str, seconds: float, at_most: float) -> None:
        """Check invariant 11: nothing outlives its deadline."""
        if seconds > at_most:
            self.breaks(11, f"{what} took {seconds:.1f} s of {at_most:.1f}")

    def check(self) -> None:
        """Fail if anything is broken.

        Raises:
            AssertionError: something is broken; the text lists all of it.
        """
        assert not self.broken, "\n" + "\n".join(self.broken[:20])


def retry_after_of(headers: Mapping[str, str]) -> float:
    """Return the seconds for which a 429 closes the gate: 1 to 900, and 300 if it says none."""
    said = headers.get("retry-after", "")
    seconds = float(said) if re.fullmatch(r"\d+(\.\d+)?", said) else 300.0
    return min(900.0, max(1.0, seconds))


def _downloads_in(response: Response) -> dict[str, dict[str, object]] | None:
    """Return the downloads in the answer to a list; None if it is no valid answer."""
    is_json = response.headers.get("content-type") == "application/json"
    # A slow body is complete here, because the test's clock stands still.
    comes = response.wire in (Wire.WHOLE, Wire.SLOW_BODY)
    whole = comes and len(response.body) <= StreamClient.MAX_BYTES
    if response.status != 200 or not is_json or not whole:
        return None
    try:
        result = json.loads(response.body)["result"]
    except (ValueError, TypeError, KeyError):
        return None
    if result is None:
        return {}
    if not isinstance(result, dict):
        return None
    return {kind: said for kind, said in result.items() if isinstance(said, dict)}
