"""The command line of the benchmark: what it runs, prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import main, parse_options, workloads
from tests.bench.targets import missed
from tests.bench.workloads import STEADY, WORKLOADS

FIGURES = {
    *("lists", "requests", "mean", "median", "p95", "p99", "max"),
    *("write_units", "read_units", "throttled", "most_in_five_minutes"),
}


def test_the_figures_of_each_seed_are_written_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = tmp_path / "found.json", tmp_path / "delays.svg"
    options = ["--workload", "steady", "burst", "--seeds", "1,2", "--videos", "12", "--markdown"]
    main([*options, "--processes", "1", "--json", str(file), "--plot", str(picture)])
    found = json.loads(file.read_text())
    names = [(one["workload"], one["seed"]) for one in found]
    assert names == [("steady", 1), ("steady", 2), ("burst", 1), ("burst", 2)]
    for one in found:
        for side in ("service", "minute_poller"):
            assert one[side].keys() >= FIGURES
            assert (one[side]["mean_of_floor"] is None) == (one["workload"] == "steady")
            assert (one[side]["last_of_floor"] is None) == (one["workload"] == "steady")
        assert one["service"]["write_units"] > 0
        assert one["minute_poller"]["write_units"] is None
    shown = capsys.readouterr().out
    assert "| steady | minute poller |" in shown
    assert max(map(len, shown.split("| workload |")[0].splitlines())) <= 80
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workload", "stedy"], "'stedy' (choose from 'steady', 'quiet'"),
        (["--seeds", "1;2"], "'1;2' is no list of seeds like 1,2,3"),
        (["--plot", "delays.gif"], "has to end in .svg, .png, .pdf"),
    ],
)
def test_a_wrong_option_says_what_is_possible(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_options(options)
    assert message in capsys.readouterr().err


def test_all_workloads_run_unless_some_are_named() -> None:
    assert workloads(parse_options([])) == list(WORKLOADS)
    chosen = workloads(parse_options(["--workload", "quiet", "--seeds", "3,4", "--window", "0"]))
    assert [(one.name, one.seed, one.window) for one in chosen] == [
        ("quiet", 3, 0.0),
        ("quiet", 4, 0.0),
    ]


def test_each_workload_has_a_name_of_its_own() -> None:
    names = [workload.name for workload in WORKLOADS]
    assert len(set(names)) == len(names)
    assert all(name.isalnum() and name.islower() for name in names)


def test_a_missed_target_names_the_workload_and_the_figure() -> None:
    fine = {"most_in_five_minutes": 600, "throttled": 0, "unfinished": 0, "mean": 3.0, "p95": None}
    assert missed({STEADY: fine}, {"steady": {"mean": 3.0, "p95": 5.0}}) == []
    assert missed({STEADY: fine | {"throttled": 1}}, {"steady": {"mean": 2.5}}) == [
        "steady: throttled is 1.00, the target is at most 0.00",
        "steady: mean is 3.00, the target is at most 2.50",
    ]
