"""The proof of the tests keeps up with the code; the proof itself is run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.broken_builds import BREAKS, REPOSITORY, Break, applies


@pytest.mark.parametrize("one", BREAKS, ids=[one.name for one in BREAKS])
def test_a_broken_build_still_applies(one: Break) -> None:
    assert applies(one)
    assert one.new != one.old
    assert all(Path(REPOSITORY, test).is_file() for test in one.tests)


def test_every_invariant_has_a_broken_build() -> None:
    assert {one.invariant for one in BREAKS} == set(range(1, 12))
