"""Checks the links of all Markdown files: `python -m tests.links`.

Ends with 1 if a file, or an anchor in a Markdown file, does not exist. Asks no other machine: a
link with a scheme, such as https, is left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

from tests.support.emulator import REPOSITORY

_FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_LINK = re.compile(r"\]\(\s*<?([^()\s<>]*(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]^]+\]:\s*<?(\S+?)>?(?:\s|$)", re.MULTILINE)
_SOURCE = re.compile(r"""<(?:a|img)\b[^>]*?\s(?:href|src)=["']([^"']+)""", re.IGNORECASE)
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE)
_NAMED = re.compile(r"""<[a-z]+\b[^>]*?\s(?:id|name)=["']([^"']+)""", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def main(repository: Path = REPOSITORY) -> int:
    """Check every Markdown file that git knows or would add; 1 if a link is broken."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True)
    files = [path for name in listed.stdout.splitlines() if (path := repository / name).exists()]
    broken = [line for path in files for line in broken_links(path, repository)]
    print("\n".join(broken) or f"The links of {len(files)} Markdown files are good.")
    return 1 if broken or not files else 0


def broken_links(document: Path, repository: Path) -> list[str]:
    """Return a line for each link of a document that leads nowhere.

    Args:
        document: a Markdown file.
        repository: the folder that a link must not leave, and that ``/`` stands for.
    """
    broken = []
    for link in links(document.read_text(encoding="utf-8")):
        place, _, anchor = unquote(link).partition("#")
        start = repository if place.startswith("/") else document.parent
        target = (start / place.lstrip("/")).resolve() if place else document
        if not target.is_relative_to(repository) or not target.exists():
            reason = f"there is no {place}"
        elif anchor and target.suffix != ".md":
            reason = f"{place} has no anchors"
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            reason = f"{target.name} has no heading #{anchor}"
        else:
            continue
        broken.append(f"{document.relative_to(repository)}: ({link}) {reason}")
    return broken


def links(text: str) -> list[str]:
    """Return where the links and pictures of a Markdown text lead within the repository."""
    prose = _CODE.sub("", _FENCE.sub("", text))
    found = [*_LINK.findall(prose), *_REFERENCE.findall(prose), *_SOURCE.findall(prose)]
    return [link for link in found if not _SCHEME.match(link)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a Markdown text.

    A heading's words in lower case, with hyphens for spaces and without punctuation; the second
    heading with the same words ends in ``-1`` (https://docs.github.com/en/get-started/
    writing-on-github/getting-started-with-writing-and-formatting-on-github/basic-writing-and-formatting-syntax#section-links).
    """
    prose = _FENCE.sub("", text)
    seen: Counter[str] = Counter()
    found = set(_NAMED.findall(prose))
    for heading in _HEADING.findall(prose):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


if __name__ == "__main__":
    sys.exit(main())
