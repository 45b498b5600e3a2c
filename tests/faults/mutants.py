"""Change the code in many small ways, one by one: a test has to fail with each.

    make mutants                                         all modules, and the broken builds
    python -m tests.faults.mutants [-j 1] NAME …         some: transitions, steps, breaks
    make mutants MUTANTS="--most 0"                      every change, in an hour

Of each module so many changes are drawn, by a seed that is printed and can be given.

The unchanged tests run first: all must pass, and each tells its time and the lines that it reaches.
Then the process forks for every mutant: the child changes the loaded code, and runs the tests that
reach the changed line until one fails: first the quick ones, and those that caught others of the
module. Nothing is written to disk. With a mutant as many of its tests run as took 15 seconds
unchanged, the quickest ones. A surviving change of a number that is a constant of its module is
marked as a tuning constant: it counts like any other.

A test that needs ten times its usual time of the processor has failed. A change with which a module
cannot be imported fails every test. One that cannot be applied, or that makes a test wait for ever,
is not caught: both are listed like a survivor. Ends with 1 if too many mutants of a module are not
caught, or one broken build (`tests.faults.breaks`).
"""

from __future__ import annotations

import argparse
import gc
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

import coverage
import hypothesis
import pytest
from _pytest.runner import runtestprotocol

import tests.conftest  # noqa: F401 - sets the environment, which the modules below read
from tests.faults.breaks import BREAKS
from tests.faults.mutations import (
    FILES,
    PACKAGE,
    CannotBeImported,
    Mutant,
    functions_of,
    module_of,
    mutants_of,
)

# The part of a module's mutants that may survive: equivalent ones, and constants that tune.
BOUNDS: Final = {
    **{f"domain/{path.name}": 0.2 for path in sorted(PACKAGE.glob("domain/[a-z]*.py"))},
    "domain/transitions.py": 0.1,
    "domain/request_budget.py": 0.1,
    "domain/signature.py": 0.1,
    "services/steps.py": 0.1,
    "services/poll.py": 0.2,
    "services/working_set.py": 0.2,
    "services/waker.py": 0.2,
    "services/reconcile.py": 0.2,
    "adapters/downloads_table.py": 0.2,
    "adapters/download_item.py": 0.2,
}
TESTS: Final = (
    "tests/unit",
    "tests/integration/test_downloads_table.py",
    "tests/integration/test_poll_downloads.py",
    "tests/integration/test_reconcile_library.py",
    "tests/integration/test_without_webhooks.py",
    "tests/integration/test_meta_downloads.py",
    "tests/integration/test_metrics.py",
    # Slow, or about something else.
    *(
        f"--ignore-glob=*/test_{name}.py"
        for name in ("*template", "simulator", "readme_shell", "observability", "documents")
    ),
    *(f"--ignore-glob=*/test_{name}.py" for name in ("links", "deploy", "makefile", "words")),
)


# Of the processor: what the tests of one mutant may take, all of which run if it survives.
SECONDS_FOR_EACH: Final = 15.0


class Attempt(NamedTuple):
    """One change, made in a process of its own, and the tests that may fail with it."""

    module: str
    description: str
    apply: Callable[[], None]
    tests: Sequence[pytest.Item]
    note: str = ""


class Mutants:
    """A plugin that runs the collected tests unchanged, then some of them for every change."""

    def __init__(self, modules: Sequence[str], at_once: int, most: int, seed: int) -> None:
        """Keep what to change, and how many processes there may be at once.

        Args:
            modules: the names of those to change; all if there are none.
            at_once: how many processes.
            most: changes of each module, 0 for all.
            seed: draws these.
        """
        self.most = most
        self.chance = random.Random(seed)  # noqa: S311
        self.files = [file for file in BOUNDS if not modules or Path(file).stem in modules]
        self.breaks = BREAKS if not modules or "breaks" in modules else ()
        self.at_once = at_once
        self.seconds: dict[str, float] = {}
        self.tests_of: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.catches: Counter[tuple[str, str]] = Counter()  # by module and test

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        began = time.monotonic()
        faults = [item for item in session.items if item.nodeid.startswith("tests/faults")]
        others = [item for item in session.items if item not in faults and not shares_fixture(item)]
        self.run_unchanged(others if self.files else [])
        prefixes = tuple(test for one in self.breaks for test in one.tests)
        for item in session.items:
            if item.nodeid.startswith(prefixes) and item.nodeid not in self.seconds:
                self.run_alone(item)
        print(f"{len(self.seconds)} tests pass unchanged, {time.monotonic() - began:.0f} s")
        drawn = [one for file in self.files for one in self.drawn(mutants_of(file))]
        attempts = [self.attempt(one, others) for one in drawn]
        for one in self.breaks:
            description = f"invariant {one.invariant}: {one.name}"
            tests = [item for item in session.items if item.nodeid.startswith(one.tests)]
            attempts.append(Attempt("breaks", description, one.apply, self.quick_first(tests)))
        gc.unfreeze()  # the functions are searched among all that can be collected
        for file in self.files:
            assert functions_of(module_of(file)), f"nothing is found to change in {file}"
        gc.freeze()  # the children neither search nor copy what is loaded
        session.testsfailed = report(attempts, self.run(attempts))
        print(f"{time.monotonic() - began:.0f} s")
        return True

    def drawn(self, mutants: Iterable[Mutant]) -> list[Mutant]:
        """Return the mutants of a module to try, in the order of its lines."""
        every = list(mutants)
        most = min(self.most or len(every), len(every))
        return [every[number] for number in sorted(self.chance.sample(range(len(every)), most))]

    def run_unchanged(self, items: Sequence[pytest.Item]) -> None:
        """Run the tests once, and keep which lines each of them reaches."""
        paths = {str(path.resolve()): str(path.relative_to(PACKAGE)) for path in FILES}
        measure = coverage.Coverage(data_file=None, include=list(paths), config_file=False)
        for item in items:
            measure.start()
            measure.switch_context(item.nodeid)
            self.run_alone(item)
            measure.stop()
        data = measure.get_data()
        for path, file in paths.items():
            for line, contexts in data.contexts_by_lineno(path).items():
                self.tests_of[file, line] = {one for one in contexts if one}

    def run_alone(self, item: pytest.Item) -> None:
        """Run a test, which must pass, and keep its time of the processor."""
        began = time.process_time()
        if is_failed(item):
            pytest.exit(f"Without any change, this test fails: {item.nodeid}", 1)
        self.seconds[item.nodeid] = time.process_time() - began

    def quick_first(self, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """Return the tests in the order of their time."""
        return sorted(items, key=lambda item: self.seconds[item.nodeid])

    def attempt(self, mutant: Mutant, items: Sequence[pytest.Item]) -> Attempt:
        """Pair a mutant with the tests that reach it, or a function that uses the constant."""
        reached = {test for line in mutant.reached_by() for test in self.tests_of.get(line, ())}
        tests = self.quick_first([item for item in items if item.nodeid in reached])
        spent = accumulate(self.seconds[item.nodeid] for item in tests)
        tests = [item for item, by in zip(tests, spent, strict=True) if by < SECONDS_FOR_EACH]
        note = " (tuning constant)" if mutant.is_tuning else ""
        description = f"{mutant.place}\n    {mutant.diff()}"
        return Attempt(mutant.file, description, mutant.apply, tests, note)

    def run(self, attempts: Sequence[Attempt]) -> dict[int, str]:
        """Try each; return the numbers of those that no test caught, and the reasons."""
        running: dict[int, int] = {}
        uncaught: dict[int, str] = {}
        # The children write here which test caught the change.
        caught_by = memoryview(mmap.mmap(-1, 4 * len(attempts))).cast("i")
        for number in range(len(attempts) + self.at_once):
            if number < len(attempts):
                if (child := os.fork()) == 0:
                    self.be(attempts[number], caught_by[number:])
                running[child] = number
            if running and (number >= len(attempts) or len(running) >= self.at_once):
                child, status = os.wait()
                one = running.pop(child)
                attempt = attempts[one]
                if reason := uncaught_because(os.waitstatus_to_exitcode(status)):
                    uncaught[one] = reason + attempt.note
                elif attempt.tests:
                    self.catches[attempt.module, attempt.tests[caught_by[one]].nodeid] += 1
            if number % 50 == 49:
                print(f"{number + 1} of {len(attempts)}, {len(uncaught)} not caught", flush=True)
        return uncaught

    def be(self, attempt: Attempt, caught_by: memoryview[int]) -> None:
        """End this process with `SURVIVED`, `CAUGHT` or `FAILED`; a signal ends what takes long."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        status = FAILED
        try:
            attempt.apply()
            for number, item in sorted(enumerate(attempt.tests), key=partial(self.cost, attempt)):
                caught_by[0] = number
                limit = 2 + 10 * self.seconds[item.nodeid]
                signal.setitimer(signal.ITIMER_VIRTUAL, limit)  # of the processor
                signal.setitimer(signal.ITIMER_REAL, 60 + 10 * limit)
                if is_failed(item):
                    os._exit(CAUGHT)
            status = SURVIVED
        except CannotBeImported:
            status = CAUGHT
        finally:
            os._exit(status)

    def cost(self, attempt: Attempt, test: tuple[int, pytest.Item]) -> float:
        """Return the time of a test for each mutant of the module that it has caught, and one."""
        name = test[1].nodeid
        return self.seconds[name] / (1 + self.catches[attempt.module, name])


SURVIVED, CAUGHT, FAILED = range(3)


def shares_fixture(item: pytest.Item) -> bool:
    """Return True for a test of a fixture that a module makes once: a child would make it again."""
    fixtures = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - not public
    return any(one[-1].scope == "module" for one in fixtures)


def is_failed(item: pytest.Item) -> bool:
    """Run a test; return True if it fails."""
    return any(one.failed for one in runtestprotocol(item, log=False, nextitem=None))


def uncaught_because(exit_code: int) -> str:
    """Return why the end of a child means that no test caught the change; else an empty text."""
    if exit_code in (CAUGHT, -signal.SIGVTALRM):
        return ""
    reasons = {SURVIVED: "survives", FAILED: "cannot be applied", -signal.SIGALRM: "hangs"}
    return reasons.get(exit_code, f"ends with {exit_code}")


def report(attempts: Sequence[Attempt], uncaught: Mapping[int, str]) -> int:
    """Print what was not caught, and each module's rate; return how many are over their bound."""
    too_many = 0
    for module in dict.fromkeys(attempt.module for attempt in attempts):
        numbers = [number for number, one in enumerate(attempts) if one.module == module]
        reasons = Counter(uncaught[number] for number in numbers if number in uncaught)
        for number in numbers:
            if number in uncaught:
                unreached = "" if attempts[number].tests else ", no test reaches it"
                print(f"{attempts[number].description}\n    {uncaught[number]}{unreached}")
        rate, bound = reasons.total() / len(numbers), BOUNDS.get(module, 0.0)
        too_many += rate > bound
        print(
            f"{module}: {reasons.total()} of {len(numbers)} not caught, {rate:.1%}; "
            f"at most {bound:.0%}{'  TOO MANY' if rate > bound else ''} {dict(reasons) or ''}",
            flush=True,
        )
    return too_many


def main() -> int:
    """Run what was asked for; 1 if too much survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-j", type=int, default=2, dest="at_once", help="processes at once")
    parser.add_argument("--most", type=int, default=80, help="changes of each module; 0: all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("-t", nargs="+", dest="tests", help="the tests; the quick ones otherwise")
    parser.add_argument("modules", nargs="*", help="transitions, steps, ..., breaks")
    arguments = parser.parse_args()
    os.environ["COVERAGE_CORE"] = "ctrace"  # the one that knows which test is running
    # The same examples each time, however slow; no file of former ones, no search for the simplest.
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("mutants")
    faults = sorted({test.partition("::")[0] for one in BREAKS for test in one.tests})
    chosen = arguments.tests or (faults if arguments.modules == ["breaks"] else [*TESTS, *faults])
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    print(f"seed {arguments.seed}, at most {arguments.most or 'all'} changes of each module")
    drawn_by = arguments.most, arguments.seed
    return int(
        pytest.main([*options, *chosen], [Mutants(arguments.modules, arguments.at_once, *drawn_by)])
    )


if __name__ == "__main__":
    sys.exit(main())
