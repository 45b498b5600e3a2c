"""Writes a report of Cloudflare's answers, without anything that belongs to the user.

Only the shape of a body is kept, and the texts that are Cloudflare's own. Of these, everything that
looks like an identifier, a token, an address or a host is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.smoke.cloudflare import Answer

# Whose texts are Cloudflare's own.
KEPT: Final = frozenset({"status", "state", "message", "result", "pctComplete"})
INTRODUCTION: Final = (
    "Written by `make smoke` of stream-downloads, to be attached to an issue. Identifiers, tokens,"
    " addresses and texts of yours are left out."
)
LONGEST: Final = 300
MOST_ENTRIES: Final = 3
PATTERNS: Final = (
    (re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE), "(url)"),
    (re.compile(r"\S+@\S+"), "(e-mail)"),
    (re.compile(r"\b[0-9a-f]{8,}(-[0-9a-f]{4,})*\b", re.IGNORECASE), "(id)"),
    (re.compile(r"\b(\d{1,3}\.){3}\d{1,3}\b|\b([\w-]+\.)+[a-z]{2,}\b", re.IGNORECASE), "(host)"),
    (re.compile(r"[\w.~+/=-]{20,}"), "(redacted)"),
)
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z?")


@dataclass(frozen=True, slots=True)
class Note:
    """One question to Cloudflare, and the answer.

    Attributes:
        question: the description of what was tried.
        request: the request, without identifiers.
        answer: the answer; the reason, if there was none.
    """

    question: str
    request: str
    answer: Answer | str


@dataclass(slots=True)
class Report:
    """The measurements and notes of a smoke test.

    Attributes:
        steps: each step with the seconds that it took.
        notes: the questions.
    """

    steps: list[tuple[str, float]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def text(self, secrets: Collection[str]) -> str:
        """Return the report as Markdown.

        Args:
            secrets: texts that must not be in it, such as the token and the account's id.

        Raises:
            ValueError: one of ``secrets`` is in the report.
        """
        lines = [
            "# How Cloudflare Stream answers",
            "",
            INTRODUCTION,
            "",
            "| step | seconds |",
            "|---|---|",
            *(f"| {step} | {seconds:.1f} |" for step, seconds in self.steps),
        ]
        for note in self.notes:
            lines += ["", f"## {note.question}", "", *told(note, secrets)]
        text = "\n".join(lines) + "\n"
        if any(secret in text for secret in secrets):
            raise ValueError("something that must not be shown is in the report")
        return text


def told(note: Note, secrets: Collection[str]) -> Sequence[str]:
    """Return the lines about one note."""
    if isinstance(note.answer, str):
        return [f"`{note.request}`: {redacted(note.answer, secrets)}"]
    headers = [
        f"- `{name}: {redacted(value, secrets)}`" for name, value in note.answer.headers.items()
    ]
    body = json.dumps(shape(note.answer.body, secrets), indent=2, ensure_ascii=False)
    return [f"`{note.request}` → {note.answer.status}", "", *headers, "", "```json", body, "```"]


def shape(value: Any, secrets: Collection[str], key: str = "") -> Any:
    """Return a JSON value with placeholders for the texts that are not Cloudflare's own."""
    match value:
        case dict():
            return {
                redacted(name, secrets): shape(entry, secrets, name)
                for name, entry in value.items()
            }
        case list():
            return [shape(entry, secrets, key) for entry in value[:MOST_ENTRIES]]
        case str() if key in KEPT or not value:
            return redacted(value, secrets)
        case str():
            return placeholder(value)
    return value


def placeholder(text: str) -> str:
    """Return a placeholder that names the kind of a text."""
    if "://" in text:
        return "(url)"
    return "(time)" if TIME.fullmatch(text) else "(text)"


def redacted(text: str, secrets: Collection[str]) -> str:
    """Return a text without secrets, and without what looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "(redacted)")
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text[:LONGEST]
