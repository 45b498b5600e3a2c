"""Run the short version of ``make load``."""

from __future__ import annotations

from tests.bench.load import put_load_on
from tests.e2e.deployed import Deployed


def test_every_webhook_is_taken_and_kept_amid_a_flood_of_others(plain: Deployed) -> None:
    load = put_load_on(plain, clients=4, seconds=3.0)
    assert load.is_good, load
    assert load.signed[200] > 10
    assert load.unsigned[403] > 10
