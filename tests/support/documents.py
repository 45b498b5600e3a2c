"""The documents of the project, and what is in them."""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import Final

from tests.support.emulator import REPOSITORY

# In the order in which their commands can be run.
DOCUMENTS: Final = (
    "README.md",
    *sorted(
        (str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("docs/*.md")), reverse=True
    ),
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
# Those of this machine.
SHELLS: Final = [shell for shell in ("bash", "dash", "zsh") if shutil.which(shell)]


def read(document: str) -> str:
    """Return the text of a document, by its path from the repository."""
    return (REPOSITORY / document).read_text(encoding="utf-8")


def blocks(document: str, language: str = "sh", containing: str = "") -> list[str]:
    """Return the blocks of code of a document in one language that contain a text."""
    fenced = rf"^ *```{language}\n(.*?)^ *```$"
    found = re.findall(fenced, read(document), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found if containing in block]


def block(document: str, language: str, containing: str = "") -> str:
    """Return the one block of a document that contains a text."""
    (only,) = blocks(document, language, containing)
    return only


def section(document: str, heading: str) -> str:
    """Return the text under a heading, up to the next one of its level."""
    level = heading.partition(" ")[0]
    return read(document).partition(f"\n{heading}\n")[2].partition(f"\n{level} ")[0]


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the Markdown tables in a text, headings included."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named(text: str) -> set[str]:
    """Return the names in backquotes in the first column of the Markdown tables in a text."""
    return set(re.findall(r"`(\w+)`", " ".join(row[0] for row in table_rows(text))))
