"""Compare the state diagram of docs/design.md with the one that the fault tests enforce."""

from __future__ import annotations

import re

from tests.faults.invariants import MOVES
from tests.support.emulator import REPOSITORY


def test_the_diagram_shows_the_moves_that_are_allowed() -> None:
    text = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    shown = re.findall(r"^    (\S+) --> (\w+):", text, re.MULTILINE)
    allowed = {(before or "[*]", str(after)) for before, after in MOVES}
    assert {(str(before), after) for before, after in shown} == allowed
