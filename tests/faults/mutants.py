"""The proof of the tests: changes the code in many small ways, one by one; a test has to notice.

    make mutants                                         all modules, and the broken builds
    python -m tests.faults.mutants [-j 1] NAME …         some: transitions, steps, breaks

The tests run once and tell which lines each of them reaches. Then the process forks for every
mutant: the child changes the loaded code, and runs the tests that reach the changed line, quick
ones first, until one fails. Nothing is written to disk. Ends with 1 if too many mutants of a module
survive, or one broken build (`tests.faults.breaks`).
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

import coverage
import hypothesis
import pytest
from _pytest.runner import runtestprotocol

from tests.faults.breaks import BREAKS, replace_everywhere

PACKAGE: Final = Path("layers/stream_downloads/stream_downloads")
# The part of a module's mutants that may survive: equivalent ones, and constants that tune.
BOUNDS: Final = {
    **{f"domain/{path.name}": 0.2 for path in sorted(PACKAGE.glob("domain/[a-z]*.py"))},
    "domain/transitions.py": 0.1,
    "domain/request_budget.py": 0.1,
    "domain/signature.py": 0.1,
    "services/steps.py": 0.1,
    "services/poll.py": 0.2,
    "services/reconcile.py": 0.2,
    "adapters/downloads_table.py": 0.2,
    "adapters/download_item.py": 0.2,
}
TESTS: Final = (
    "tests/unit",
    "tests/integration/test_downloads_table.py",
    "tests/integration/test_poll_downloads.py",
    "tests/integration/test_reconcile_library.py",
    # Slow, or about something else.
    *(f"--ignore-glob=*/test_{name}.py" for name in ("*template", "simulator", "readme_shell")),
    *(f"--ignore-glob=*/test_{name}.py" for name in ("observability", "budget_property")),
)

# --- The changes ------------------------------------------------------------------------------

SWAPS: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.Break: ast.Continue,
    ast.Continue: ast.Break,
}
NAMES: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
CONDITIONS: Final = ("test", "guard", "if")
OPERATORS: Final = (ast.Compare, ast.BoolOp, ast.UnaryOp)  # what has changes of its own
# No changes are made to log lines, metrics, what is raised, texts (with a space in them),
# docstrings, annotations and decorators: no behaviour. Nor to what a class body says (fields,
# enumerations, protocols): those are the fixed names of the contract, and mypy checks them.
LEFT_OUT: Final = re.compile(r"logger\.|record\(|cast\(|if TYPE_CHECKING|raise |import |from ")
UNREAD: Final = ("annotation", "returns", "decorator_list", "type_params")


class Mutant(NamedTuple):
    """One change: a field of a node of the syntax tree, and its new value."""

    file: str
    tree: ast.Module
    statement: ast.stmt
    node: ast.AST
    field: str
    value: object

    @property
    def place(self) -> str:
        """Return the file and the line."""
        return f"{PACKAGE / self.file}:{getattr(self.node, 'lineno', self.statement.lineno)}"

    def lines(self) -> range:
        """Return the lines of the statement; of one with a body, those above the body."""
        inner = [one for one in ast.walk(self.statement) if isinstance(one, ast.stmt)][1:]
        end = min((one.lineno for one in inner), default=(self.statement.end_lineno or 0) + 1)
        return range(self.statement.lineno, max(end, self.statement.lineno + 1))

    def diff(self) -> str:
        """Return what the statement says, and what it becomes."""
        before = ast.unparse(self.statement)
        old = getattr(self.node, self.field)
        after = ast.unparse(self.changed())
        setattr(self.node, self.field, old)
        pairs = zip(before.splitlines(), [*after.splitlines(), ""], strict=False)
        return next(
            (f"- {one.strip()}\n    + {two.strip()}" for one, two in pairs if one != two), ""
        )

    def changed(self) -> ast.stmt:
        """Change the tree; return the statement."""
        setattr(self.node, self.field, self.value)
        ast.fix_missing_locations(self.tree)
        return self.statement

    def apply(self) -> None:
        """Change the functions and the constants of the loaded module."""
        self.changed()
        module = module_of(self.file)
        code = compile(self.tree, str(module.__file__), "exec", dont_inherit=True)
        changed = ModuleType(module.__name__)
        exec(code, vars(changed))  # noqa: S102 - our own code, changed by us
        loaded = functions_of(module)  # kept since before the fork
        for key, function in functions_of(changed).items():
            for part in ("__code__", "__defaults__", "__kwdefaults__"):
                if key in loaded and getattr(function, part) != getattr(loaded[key], part):
                    setattr(loaded[key], part, getattr(function, part))
        for key, value in vars(changed).items():
            old = vars(module).get(key)
            if not key.startswith("__") and isinstance(value, PLAIN) and value != old:
                replace_everywhere(key, old, value)


PLAIN: Final = (int, float, str, tuple, dict, frozenset, set, re.Pattern)


def module_of(file: str) -> ModuleType:
    """Return the loaded module."""
    return importlib.import_module(f"stream_downloads.{file[:-3].replace('/', '.')}")


@cache
def functions_of(module: ModuleType) -> dict[str, FunctionType]:
    """Return the functions and methods that a module defines."""
    return {
        one.__qualname__: one
        for one in gc.get_objects()
        if type(one) is FunctionType
        and one.__globals__ is vars(module)
        and "<" not in one.__qualname__
    }


def mutants_of(file: str) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    for statement, node in nodes(tree, tree.body[0]):
        for field, old in ast.iter_fields(node):
            for new in [] if field in UNREAD else replacements(node, field, old):
                yield Mutant(file, tree, statement, node, field, new)


def nodes(node: ast.AST, statement: ast.stmt) -> Iterator[tuple[ast.stmt, ast.AST]]:
    """Yield the nodes that may be changed, each with its statement."""
    yield statement, node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in UNREAD and not is_left_out(node, child):
                yield from nodes(child, child if isinstance(child, ast.stmt) else statement)


def is_left_out(parent: ast.AST, node: ast.AST) -> bool:
    """Return True if nothing in a node is changed."""
    if isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ):
        return True
    if isinstance(parent, ast.ClassDef) and not isinstance(node, ast.FunctionDef):
        return True
    return isinstance(node, ast.stmt | ast.Call) and bool(LEFT_OUT.match(ast.unparse(node)))


def replacements(node: ast.AST, field: str, old: Any) -> Iterator[object]:
    """Yield what a field of a node may become."""
    if isinstance(old, list):
        for number, one in enumerate(old):
            before, after = old[:number], old[number + 1 :]
            yield from ([*before, new, *after] for new in replacements(node, field[:-1], one))
            if isinstance(one, ast.keyword) and one.arg:
                yield [*before, *after]
    elif type(old) in SWAPS:
        yield SWAPS[type(old)]()
    elif isinstance(old, ast.UnaryOp) and isinstance(old.op, ast.Not | ast.USub):
        yield old.operand
    elif isinstance(old, ast.expr) and field in CONDITIONS and not isinstance(old, OPERATORS):
        yield ast.UnaryOp(ast.Not(), old)
    elif isinstance(node, ast.Expr) and isinstance(old, ast.Call | ast.Yield):
        yield ast.Constant(None)
    elif isinstance(node, ast.Name) and old in NAMES:
        yield NAMES[old]
    elif isinstance(node, ast.Constant) and field == "value":
        yield from other_values(old)


def other_values(old: object) -> Iterator[object]:
    """Yield what a constant may become."""
    if isinstance(old, bool):
        yield not old
    elif isinstance(old, int | float):
        yield old + 1
    elif isinstance(old, str) and (" " not in old or "#" in old):  # not a text
        yield old + "X"


# --- The tests --------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """One thing to try in a process of its own: a change, and the tests that may notice it."""

    module: str
    apply: Callable[[], None]
    tests: Sequence[pytest.Item]
    told: Callable[[], str]


class Mutants:
    """A plugin that runs the collected tests once, then some of them for every mutant."""

    def __init__(self, modules: Sequence[str], at_once: int) -> None:
        """Keep what to change, and how many processes there may be at once."""
        self.modules = modules
        self.at_once = at_once
        self.seconds: dict[str, float] = {}
        self.tests_of: dict[tuple[str, int], set[str]] = defaultdict(set)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        began = time.monotonic()
        files = [file for file in BOUNDS if not self.modules or Path(file).stem in self.modules]
        items = [item for item in session.items if not item.nodeid.startswith("tests/faults")]
        self.run_unchanged(items, files)
        print(f"{len(items)} tests pass unchanged, {time.monotonic() - began:.0f} s", flush=True)
        attempts = [self.attempt(one, items) for file in files for one in mutants_of(file)]
        if not self.modules or "breaks" in self.modules:
            attempts += [
                Attempt(
                    "breaks",
                    one.apply,
                    [item for item in session.items if item.nodeid.startswith(one.tests)],
                    lambda one=one: f"invariant {one.invariant}: {one.name}",  # type: ignore[misc]
                )
                for one in BREAKS
            ]
        for file in files:
            functions_of(module_of(file))
        gc.freeze()  # the children neither search nor copy what is loaded
        survivors = self.run(attempts)
        print(f"{time.monotonic() - began:.0f} s")
        session.testsfailed = report(attempts, survivors)
        return True

    def run_unchanged(self, items: list[pytest.Item], files: Sequence[str]) -> None:
        """Run the tests once, and remember what each of them reaches and how long it takes."""
        paths = {str((PACKAGE / file).resolve()): file for file in files}
        measure = coverage.Coverage(data_file=None, include=list(paths), config_file=False)
        for item in items if files else []:
            measure.start()
            measure.switch_context(item.nodeid)
            began = time.process_time()
            reports = runtestprotocol(item, log=False, nextitem=None)
            self.seconds[item.nodeid] = time.process_time() - began
            measure.stop()
            if any(one.failed for one in reports):
                pytest.exit(f"Without any change, this test fails: {item.nodeid}", 1)
        data = measure.get_data()
        for path, file in paths.items():
            for line, contexts in data.contexts_by_lineno(path).items():
                self.tests_of[file, line] = {one for one in contexts if one}

    def attempt(self, mutant: Mutant, items: Sequence[pytest.Item]) -> Attempt:
        """Pair a mutant with the tests that reach it; a constant's are those of the module."""
        lines = mutant.lines()
        in_function = any(
            isinstance(one, ast.FunctionDef) and one.lineno < lines[0] <= (one.end_lineno or 0)
            for one in ast.walk(mutant.tree)
        )
        reached = {
            test
            for (file, line), tests in self.tests_of.items()
            if file == mutant.file and (line in lines or not in_function)
            for test in tests
        }
        tests = [item for item in items if item.nodeid in reached]
        tests.sort(key=lambda item: self.seconds[item.nodeid])
        told = lambda: f"{mutant.place}\n    {mutant.diff()}"  # noqa: E731
        return Attempt(mutant.file, mutant.apply, tests, told)

    def run(self, attempts: Sequence[Attempt]) -> set[int]:
        """Try each; return the numbers of those that no test noticed."""
        running: dict[int, int] = {}
        survivors: set[int] = set()
        for number in range(len(attempts) + self.at_once):
            if number < len(attempts):
                if (child := os.fork()) == 0:
                    self.be(attempts[number])
                running[child] = number
            if running and (number >= len(attempts) or len(running) >= self.at_once):
                child, status = os.wait()
                if status == 0:
                    survivors.add(running[child])
                del running[child]
            if number % 10 == 9:
                print(f"{number + 1} of {len(attempts)}, {len(survivors)} survive", flush=True)
        return survivors

    def be(self, attempt: Attempt) -> None:
        """End this process with 1 if a test notices, else with 0; a signal ends what hangs."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            attempt.apply()
            for item in attempt.tests:
                seconds = self.seconds.get(item.nodeid, 60.0)
                signal.setitimer(signal.ITIMER_VIRTUAL, 2 + 10 * seconds)  # of the processor
                signal.setitimer(signal.ITIMER_REAL, 60 + 10 * seconds)
                if any(one.failed for one in runtestprotocol(item, log=False, nextitem=None)):
                    os._exit(1)
        except BaseException:  # noqa: BLE001 - the code cannot even be loaded
            os._exit(1)
        os._exit(0)


def report(attempts: Sequence[Attempt], survivors: set[int]) -> int:
    """Print the survivors and each module's rate; return how many modules are over their bound."""
    too_many = 0
    for module in dict.fromkeys(attempt.module for attempt in attempts):
        numbers = [number for number, one in enumerate(attempts) if one.module == module]
        alive = [number for number in numbers if number in survivors]
        for number in alive:
            unreached = "" if attempts[number].tests else "  (no test reaches it)"
            print(attempts[number].told() + unreached)
        bound = BOUNDS.get(module, 0.0)
        over = len(alive) > bound * len(numbers)
        too_many += over
        print(
            f"{module}: {len(alive)} of {len(numbers)} survive, {len(alive) / len(numbers):.1%}; "
            f"at most {bound:.0%}{'  TOO MANY' if over else ''}",
            flush=True,
        )
    return too_many


def main() -> int:
    """Run what was asked for; 1 if too much survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-j", type=int, default=2, dest="at_once", help="processes at once")
    parser.add_argument("-t", nargs="+", dest="tests", help="the tests; the quick ones otherwise")
    parser.add_argument("modules", nargs="*", help="transitions, steps, ..., breaks")
    arguments = parser.parse_args()
    os.environ["COVERAGE_CORE"] = "ctrace"  # the one that knows which test is running
    # The same examples each time, no file of former ones, and no search for the simplest.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
    hypothesis.settings.load_profile("mutants")
    faults = sorted({test.partition("::")[0] for one in BREAKS for test in one.tests})
    chosen = arguments.tests or (faults if arguments.modules == ["breaks"] else [*TESTS, *faults])
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*options, *chosen], [Mutants(arguments.modules, arguments.at_once)]))


if __name__ == "__main__":
    sys.exit(main())
