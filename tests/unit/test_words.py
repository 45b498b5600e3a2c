"""Check the words of all docstrings and test names: plain ones, and a verb first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest

from tests.support.emulator import REPOSITORY

FILES: Final = sorted(
    path.relative_to(REPOSITORY)
    for folder in ("functions", "layers", "tests")
    for path in (REPOSITORY / folder).rglob("*.py")
)
# What no docstring begins with: it names an action and its result.
QUESTIONS: Final = "What Who Whoever Whatever Whether Which How Why When Where Is Are"
PRONOUNS: Final = "Somebody Someone Something Nobody Nothing Anybody Everybody Everything It Leave"
NOUNS: Final = "A An The One Two Three All Each Every Some Many Its"
OTHERS: Final = "As For From In Of On With Without While Unless Whose"
NO_QUESTION: Final = frozenset(f"{QUESTIONS} {PRONOUNS}".split())
NO_VERB: Final = NO_QUESTION | frozenset(f"{NOUNS} {OTHERS}".split())
# A caller or an operator, again, fixed, automatically, polls.
VAGUE: Final = re.compile(
    r"(?i)(?<![a-z])(somebody|someone|nobody|whoever|persons?|people|anew|afresh|aloud"
    r"|mend(s|ed|ing)?|by itself)(?![a-z])"
)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


@cache
def documented() -> list[tuple[str, Documented]]:
    """Return the modules, classes and functions of all files, each with its place."""
    return [
        (f"{path}:{getattr(node, 'lineno', 1)}", node)
        for path in FILES
        for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8")))
        if isinstance(node, Documented)
    ]


def docstrings() -> Iterator[tuple[str, Documented, str]]:
    """Yield every docstring with its place and its owner."""
    for place, node in documented():
        if text := ast.get_docstring(node):
            yield place, node, text


def test_no_docstring_begins_with_a_question_or_a_pronoun() -> None:
    found = [place for place, _, text in docstrings() if re.split(r"\W", text)[0] in NO_QUESTION]
    assert not found, "\n".join(found)


def test_the_docstring_of_a_function_begins_with_a_verb() -> None:
    found = [
        f"{place}: {text.splitlines()[0]}"
        for place, node, text in docstrings()
        if isinstance(node, ast.FunctionDef)
        and (not text[0].isupper() or re.split(r"\W", text)[0] in NO_VERB)
    ]
    assert not found, "\n".join(found)


def test_docstrings_and_names_of_tests_use_plain_terms() -> None:
    names = [(place, node.name) for place, node in documented() if not isinstance(node, ast.Module)]
    texts = [(place, text) for place, _, text in docstrings()]
    found = [
        f"{place}: {match[0]}" for place, text in names + texts if (match := VAGUE.search(text))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["test_it_is_mended", "Somebody else's rows", "looked at anew"])
def test_a_vague_term_is_found(text: str) -> None:
    assert VAGUE.search(text)


@pytest.mark.parametrize("text", ["amended", "recommended", "wherever a peopled place is"])
def test_a_part_of_a_word_is_no_term(text: str) -> None:
    assert not VAGUE.search(text)
