"""The proof of the tests: breaks the code in many ways, one by one, and sees each one caught.

    make broken                                        all of them
    python -m tests.faults.broken_builds "NAME" …      some

Each break is made in a copy of the repository; the part of the suite that has to notice runs
there, and stops at the first test that fails. Unbroken, the same tests must pass. Ends with 1 if
a break is not noticed, or no longer applies.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parent.parent.parent
PACKAGE = "layers/stream_downloads/stream_downloads"
COPIED = ("functions", "layers", "tests", "events", "template.yaml", "pyproject.toml")
AT_ONCE = 2

CRASHES = "tests/faults/test_crashes.py"
OVERLAPS = "tests/faults/test_overlaps.py"
CHAOS = "tests/faults/test_chaos.py"
CATALOGUE = "tests/faults/test_catalogue.py"


class Break(NamedTuple):
    """One way to break the code: the text that is replaced, once, and who has to notice.

    ``invariant`` is the number of the one that no longer holds, as in `tests.faults.invariants`.
    """

    name: str
    invariant: int
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


BREAKS: tuple[Break, ...] = (
    Break(
        "a row is saved over whatever version is there",
        6,
        "tests/support/memory.py",
        "there is None or there.version != row.version",
        "there is None",
        (OVERLAPS,),
    ),
    Break(
        "DynamoDB's condition on the version is dropped",
        6,
        f"{PACKAGE}/adapters/downloads_table.py",
        '            "#version = :version",\n',
        '            "attribute_exists(#version) OR :version = :version",\n',
        ("tests/integration/test_downloads_table.py",),
    ),
    Break(
        "a create publishes",
        4,
        f"{PACKAGE}/services/steps.py",
        "        return transitions.create_accepted(row, percent",
        "        if state and state.url:\n"
        "            return self._listed_ready(row, state.url, now)\n"
        "        return transitions.create_accepted(row, percent",
        (CRASHES,),
    ),
    Break(
        "nothing is written before a create is sent",
        5,
        f"{PACKAGE}/services/steps.py",
        "row = self.downloads.save(transitions.create_sent(row, self.clock()))",
        "row = transitions.create_sent(row, self.clock())",
        (CRASHES,),
    ),
    Break(
        "an ambiguous create is followed by another",
        5,
        f"{PACKAGE}/services/steps.py",
        "return transitions.try_again(row, max(retry_at, row.due_at or 0.0), reason, now)",
        "return transitions.create_not_sent(row, retry_at)",
        (CRASHES,),
    ),
    Break(
        "the gate is not closed after a 429",
        7,
        f"{PACKAGE}/services/gateway.py",
        "            self._budget.close(refusal.retry_after)\n",
        "",
        (CRASHES,),
    ),
    Break(
        "the gate is not looked at",
        7,
        f"{PACKAGE}/domain/request_budget.py",
        "        if self.is_blocked:\n            return 0\n",
        "",
        (CRASHES,),
    ),
    Break(
        "the gate opens as soon as Cloudflare says, however absurd",
        7,
        f"{PACKAGE}/domain/request_budget.py",
        "seconds = BLOCK_WITHOUT_RETRY_AFTER if retry_after is None else retry_after",
        "seconds = 0.0 if retry_after is None else retry_after",
        (CRASHES,),
    ),
    Break(
        "the budget forgets what it granted",
        7,
        f"{PACKAGE}/domain/request_budget.py",
        "granted={**self.granted, start: Permits(webhooks, others)}",
        "granted={start: Permits(webhooks, others)}",
        (CHAOS, "tests/unit/test_budget.py"),
    ),
    Break(
        "a lost race for the budget counts as won",
        7,
        f"{PACKAGE}/adapters/shared_state.py",
        "            if self._write(allowance.grant(count, asker), version):",
        "            if self._write(allowance.grant(count, asker), version) or True:",
        ("tests/unit/test_budget.py",),
    ),
    Break(
        "a grant is used however old it is",
        7,
        f"{PACKAGE}/adapters/shared_state.py",
        "return self._monotonic() <= grant.use_by",
        "return True",
        (CATALOGUE, "tests/unit/test_budget.py"),
    ),
    Break(
        "the lease is forgotten",
        6,
        f"{PACKAGE}/adapters/shared_state.py",
        '        if held and record.value.get("owner") != self._owner:\n            return False\n',
        "",
        (OVERLAPS, CATALOGUE, "tests/unit/test_budget.py"),
    ),
    Break(
        "any host is accepted",
        4,
        f"{PACKAGE}/domain/download.py",
        r'r"https://(?:[a-z0-9-]+\.)?(?:cloudflarestream\.com|videodelivery\.net)"',
        'r"https?://[^/]+"',
        (CATALOGUE,),
    ),
    Break(
        "a lookalike host is accepted",
        4,
        f"{PACKAGE}/domain/download.py",
        r"(?:[a-z0-9-]+\.)?(?:cloudflarestream",
        r"(?:[a-z0-9-]+\.?)?(?:cloudflarestream",
        (CATALOGUE,),
    ),
    Break(
        "another video's url is accepted",
        4,
        f"{PACKAGE}/domain/download.py",
        "found.groups() == (video_uid, _FILE_NAMES[download_type])",
        "found[2] == _FILE_NAMES[download_type]",
        (CATALOGUE,),
    ),
    Break(
        "the url stays while the download is deleted",
        4,
        f"{PACKAGE}/domain/transitions.py",
        "return _become(row, Status.DELETING, now, work=",
        "return _become(row, Status.DELETING, now, url=row.url, work=",
        (CRASHES,),
    ),
    Break(
        "a webhook revives a tombstone",
        6,
        f"{PACKAGE}/domain/transitions.py",
        "    if row.reopens:\n        return request_again(row, now, video=video, lane=lane)\n",
        "    if not row.url:\n        return request_again(row, now, video=video, lane=lane)\n",
        (CRASHES,),
    ),
    Break(
        "a delete does not wait for a create on its way",
        6,
        f"{PACKAGE}/domain/transitions.py",
        "    return max(now, row.creation.sent_at + CREATE_SETTLES_AFTER)\n",
        "    return now\n",
        ("tests/unit/test_transitions.py",),
    ),
    Break(
        "a request by hand does not clear what is still there",
        2,
        f"{PACKAGE}/domain/transitions.py",
        "step = Step.DELETE if clear_first else Step.CREATE",
        "step = Step.CREATE",
        (CRASHES, "tests/unit/test_transitions.py"),
    ),
    Break(
        "a failed download is created again over the old one",
        2,
        f"{PACKAGE}/domain/transitions.py",
        "work = Work(Step.DELETE, now + RECREATE_PAUSES[row.recreations])",
        "work = Work(Step.CREATE, now + RECREATE_PAUSES[row.recreations])",
        (CRASHES,),
    ),
    Break(
        "the signature's comparison is left out",
        8,
        f"{PACKAGE}/domain/signature.py",
        "    if not any(matches):\n        raise Unauthentic(UnauthenticReason.MISMATCH)\n",
        "",
        (CHAOS, "tests/unit/test_signature.py"),
    ),
    Break(
        "a stale signature is taken",
        8,
        f"{PACKAGE}/domain/signature.py",
        "    if age > tolerance:\n        raise Unauthentic(UnauthenticReason.TOO_OLD)\n",
        "",
        ("tests/unit/test_signature.py",),
    ),
    Break(
        "a webhook is answered before the intent is written",
        1,
        "layers/stream_downloads/stream_downloads/services/receive.py",
        "        rows = record_intent(service, video, now)\n",
        "        rows = []\n",
        (CRASHES,),
    ),
    Break(
        "a table that fails is answered 200",
        1,
        "layers/stream_downloads/stream_downloads/services/receive.py",
        '        return answer(500, "failed", error)\n',
        '        return answer(200, "failed", error)\n',
        (CRASHES,),
    ),
    Break(
        "a refused signature is not tried with the rotated secret",
        1,
        "layers/stream_downloads/stream_downloads/services/receive.py",
        "        fresh = secrets.refresh()\n",
        "        fresh = None\n",
        (CATALOGUE,),
    ),
    Break(
        "credentials are not read again when refused",
        2,
        f"{PACKAGE}/services/gateway.py",
        "changed = self._credentials.refresh()",
        "changed = False",
        (CRASHES,),
    ),
    Break(
        "the token is logged",
        9,
        f"{PACKAGE}/adapters/stream_api.py",
        "        headers = _checked_headers(self._authorization())\n",
        "        headers = _checked_headers(self._authorization())\n"
        "        from stream_downloads.adapters.observability import logger\n"
        '        logger.info("sending", extra={"token": headers["Authorization"].split(" ")[1]})\n',
        (CRASHES,),
    ),
    Break(
        "the signature is logged",
        9,
        "layers/stream_downloads/stream_downloads/services/receive.py",
        "        verify(delivery, secrets, now)\n",
        "        verify(delivery, secrets, now)\n"
        '        logger.info("verified", extra={"by": str(delivery.signature)[-64:]})\n',
        (CRASHES,),
    ),
    Break(
        "an unforeseen error of one row ends the run",
        10,
        f"{PACKAGE}/services/poll.py",
        "        except Exception:  # noqa: BLE001 - one bad row blocks no other\n",
        "        except KeyError:\n",
        (CHAOS, CATALOGUE),
    ),
    Break(
        "reconciliation takes a video with one row for complete",
        3,
        f"{PACKAGE}/services/reconcile.py",
        "        if any((video.uid, kind) not in settled for kind in download_types)\n",
        "        if all((video.uid, kind) not in settled for kind in download_types)\n",
        (CRASHES,),
    ),
    Break(
        "a video that is gone is believed at once",
        2,
        f"{PACKAGE}/domain/transitions.py",
        "    if now - trouble.since < GONE_GRACE:\n",
        "    if now < trouble.since:\n",
        (CATALOGUE, "tests/unit/test_transitions.py"),
    ),
    Break(
        "an accepted create is never polled",
        2,
        f"{PACKAGE}/domain/transitions.py",
        "        work=Work(Step.LIST, poll_at),\n        creation=Creation(sent_at",
        "        work=None,\n        creation=Creation(sent_at",
        (CRASHES,),
    ),
    Break(
        "a backfill remembers a page before it has recorded its videos",
        3,
        "layers/stream_downloads/stream_downloads/services/reconcile.py",
        "            self._record(walk.take(page), lane, known)\n",
        "            new = walk.take(page)\n            remember()\n"
        "            self._record(new, lane, known)\n",
        (CRASHES, "tests/integration/test_reconcile_library.py"),
    ),
    Break(
        "an answer may drip for ever",
        11,
        f"{PACKAGE}/adapters/stream_api.py",
        "                if self._monotonic() >= deadline:\n",
        "                if self._monotonic() >= math.inf:\n",
        ("tests/integration/test_cloudflare_against_simulator.py",),
    ),
    Break(
        "a connection waits for as long as the other side likes",
        11,
        f"{PACKAGE}/adapters/http.py",
        "        remaining = self._deadline - time.monotonic()\n",
        "        remaining = READ_SECONDS\n",
        ("tests/integration/test_cloudflare_against_simulator.py",),
    ),
    Break(
        "a run does not care for the time that its function has left",
        11,
        f"{PACKAGE}/services/poll.py",
        "if self._remaining() <= STOP_BEFORE_TIMEOUT:",
        "if self._remaining() <= -1e9:",
        (CATALOGUE, "tests/unit/test_poller.py"),
    ),
    Break(
        "webhooks may use all of the limit",
        2,
        f"{PACKAGE}/domain/request_budget.py",
        "return max(0, self.limit // 2 - (self.used - webhooks))",
        "return 0",
        ("tests/unit/test_budget.py",),
    ),
)


def main() -> int:
    """Run what was asked for; 1 if anything was not noticed."""
    wanted = [one for one in BREAKS if not sys.argv[1:] or one.name in sys.argv[1:]]
    tests = sorted({test for one in wanted for test in one.tests})
    print(f"Unbroken, {len(tests)} files of tests have to pass ...", flush=True)
    if failed := failing_test(None, tuple(tests)):
        print(f"They do not: {failed}")
        return 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = list(pool.map(tried, wanted))
    missed = verdicts.count(False)
    print(f"{len(wanted)} broken builds, {len(wanted) - missed} caught, {missed} not")
    proven = sorted({one.invariant for one, caught in zip(wanted, verdicts, strict=True) if caught})
    print(f"invariants whose tests are proven: {', '.join(map(str, proven))}")
    return 1 if missed else 0


def tried(one: Break) -> bool:
    """Whether a break is noticed."""
    began = time.monotonic()
    verdict, by = "no longer applies", ""
    if applies(one):
        try:
            by = failing_test(one, one.tests)
            verdict = "caught" if by else "NOT CAUGHT"
        except RuntimeError as error:
            verdict, by = "DOES NOT RUN", str(error)
    print(f"{verdict:<18}{time.monotonic() - began:4.0f} s  {one.name}", flush=True)
    if by:
        print(f"{'':<25}by {by}", flush=True)
    return verdict == "caught"


def applies(one: Break) -> bool:
    """Whether the code still holds what is to be broken, once."""
    return (REPOSITORY / one.file).read_text(encoding="utf-8").count(one.old) == 1


def failing_test(one: Break | None, tests: tuple[str, ...]) -> str:
    """The first test that fails in a copy of the repository with this break in it, if one does."""
    with tempfile.TemporaryDirectory(prefix="broken-build-") as folder:
        copy = Path(folder)
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(
                    source, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".aws-sam")
                )
            else:
                shutil.copy(source, copy / name)
        if one:
            path = copy / one.file
            path.write_text(path.read_text("utf-8").replace(one.old, one.new), "utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    if done.returncode != 1:  # neither passed nor failed: the break is none
        raise RuntimeError(f"{one and one.name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return failed[0].removeprefix("FAILED ").partition(" - ")[0]


if __name__ == "__main__":
    sys.exit(main())
