"""Yield the small changes of a module of the service, each of which some test has to notice."""

from __future__ import annotations

import ast
import gc
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import NormalDist
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

from tests.faults.breaks import replace_everywhere

PACKAGE: Final = Path("layers/stream_downloads/stream_downloads")
FILES: Final = sorted(PACKAGE.glob("*/*.py"))
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
# No changes are made to log lines and their `details`, metrics, what is raised, texts (with a space
# in them), docstrings, annotations, names of types and decorators: no behaviour. Nor to what a
# class body says (fields, enumerations, protocols): those are the fixed names of
# docs/reference.md, checked by mypy. Nor to `strict` of a zip, which states that lists are alike.
LEFT_OUT: Final = re.compile(
    r"logger\.|details\b.* = \{|record\(|cast\(|if TYPE_CHECKING|raise |import |from "
    r"|[A-Z][a-z]\w+ = \w+\["
)
UNREAD: Final = ("annotation", "returns", "decorator_list", "type_params")


class CannotBeImported(Exception):
    """A changed module cannot be imported: no test that uses it would pass."""


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

    @property
    def is_tuning(self) -> bool:
        """Return True for a change of a number that the module names as a constant."""
        value = getattr(self.statement, "value", None)
        return is_constant(self.statement) and (
            isinstance(value, ast.BinOp)
            or (isinstance(value, ast.Constant) and isinstance(value.value, int | float))
        )

    def lines(self) -> range:
        """Return the lines of the statement; of one with a body, those above the body."""
        inner = [one for one in ast.walk(self.statement) if isinstance(one, ast.stmt)][1:]
        end = min((one.lineno for one in inner), default=(self.statement.end_lineno or 0) + 1)
        return range(self.statement.lineno, max(end, self.statement.lineno + 1))

    def reached_by(self) -> set[tuple[str, int]]:
        """Return the lines, with their files, that a test has to reach if it is to notice."""
        if isinstance(self.statement, ast.FunctionDef):
            lines = range(self.statement.lineno, (self.statement.end_lineno or 0) + 1)
        else:
            lines = self.lines()
        here = {(self.file, line) for line in lines}
        if any(lines.start in one for one in functions_at(self.file)):
            return here
        stored = [one for one in ast.walk(self.statement) if isinstance(one, ast.Name)]
        return here.union(*(users_of(one.id) for one in stored if isinstance(one.ctx, ast.Store)))

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
        """Change the functions and the constants of the loaded module.

        Raises:
            CannotBeImported: the changed module raises an exception, so that every test fails.
        """
        self.changed()
        module = module_of(self.file)
        code = compile(self.tree, str(module.__file__), "exec", dont_inherit=True)
        changed = ModuleType(module.__name__)
        try:
            exec(code, vars(changed))  # noqa: S102 - our own code, changed by us
        except Exception as error:
            raise CannotBeImported from error
        loaded = functions_of(module)  # kept since before the fork
        for key, function in functions_of(changed).items():
            for part in ("__code__", "__defaults__", "__kwdefaults__"):
                if key in loaded and getattr(function, part) != getattr(loaded[key], part):
                    setattr(loaded[key], part, getattr(function, part))
        for key, value in vars(changed).items():
            old = vars(module).get(key)
            if not key.startswith("__") and isinstance(value, PLAIN) and value != old:
                replace_everywhere(key, old, value)


@cache
def nodes_of(file: str) -> list[ast.AST]:
    """Return the nodes of the syntax tree of a module."""
    return list(ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))))


@cache
def functions_at(file: str) -> list[range]:
    """Return the lines of the functions of a module."""
    functions = [one for one in nodes_of(file) if isinstance(one, ast.FunctionDef)]
    return [range(one.lineno, (one.end_lineno or 0) + 1) for one in functions]


@cache
def users_of(name: str) -> set[tuple[str, int]]:
    """Return the lines of the functions that use a name; all of a module that does so elsewhere."""
    lines = set()
    for file in (str(path.relative_to(PACKAGE)) for path in FILES):
        for node in nodes_of(file):
            if not isinstance(node, ast.Name | ast.Attribute) or isinstance(node.ctx, ast.Store):
                continue
            if name == (node.id if isinstance(node, ast.Name) else node.attr):
                around = [one for one in functions_at(file) if node.lineno in one]
                lines |= {(file, line) for one in around or [range(10_000)] for line in one}
    return lines


PLAIN: Final = (int, float, str, tuple, dict, frozenset, set, re.Pattern, NormalDist)


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
    if is_computed_constant(parent, node):
        return True  # it is changed as a whole
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    return isinstance(node, ast.stmt | ast.Call) and bool(LEFT_OUT.match(ast.unparse(node)))


def is_constant(node: ast.AST) -> bool:
    """Return True for the statement that binds a constant of a module."""
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("Final")


def is_computed_constant(node: ast.AST, value: object) -> bool:
    """Return True for the value of a constant that is computed, such as seven days in seconds.

    Of two factors, a second more in one says nothing that the whole value does not say better.
    """
    return is_constant(node) and isinstance(value, ast.BinOp)


def replacements(node: ast.AST, field: str, old: Any) -> Iterator[object]:
    """Yield what a field of a node may become."""
    if isinstance(old, list):
        yield from other_lists(node, field, old)
    elif type(old) in SWAPS:
        yield SWAPS[type(old)]()
    elif isinstance(old, ast.UnaryOp) and isinstance(old.op, ast.Not | ast.USub):
        yield old.operand
    elif isinstance(old, ast.expr) and field in CONDITIONS and not isinstance(old, OPERATORS):
        yield ast.UnaryOp(ast.Not(), old)
    elif isinstance(node, ast.Expr) and isinstance(old, ast.Call | ast.Yield):
        receiver = getattr(getattr(old, "func", None), "value", None)  # of super().__init__()
        yield receiver if isinstance(receiver, ast.Call) else ast.Constant(None)
    elif is_computed_constant(node, old):
        yield ast.BinOp(old, ast.Mult(), ast.Constant(2))
    elif isinstance(node, ast.Name) and old in NAMES:
        yield NAMES[old]
    elif isinstance(node, ast.Constant) and field == "value":
        yield from other_values(old)


def other_lists(node: ast.AST, field: str, old: list[Any]) -> Iterator[list[Any]]:
    """Yield what a list of nodes may become: with one changed, or without one keyword."""
    for number, one in enumerate(old):
        before, after = old[:number], old[number + 1 :]
        yield from ([*before, new, *after] for new in replacements(node, field[:-1], one))
        if isinstance(one, ast.keyword) and one.arg not in (None, "strict"):
            yield [*before, *after]


def other_values(old: object) -> Iterator[object]:
    """Yield what a constant may become."""
    if isinstance(old, bool):
        yield not old
    elif isinstance(old, int | float):
        yield old + 1
    elif isinstance(old, str) and (" " not in old or "#" in old):  # not a text
        yield old + "X"
