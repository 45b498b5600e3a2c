"""The benchmark: the real handlers in virtual time, next to a poller that polls every minute."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from moto import mock_aws
from rich.console import Console

from tests.bench import report, targets
from tests.bench.capacity import poller_run
from tests.bench.report import Measured
from tests.bench.run import quiet, run_minute_poller, run_service
from tests.bench.workloads import WORKLOADS, Workload, short

PICTURES = (".svg", ".png", ".pdf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen workloads; return 1 if a target is missed."""
    options = parse_options(arguments)
    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
    started = time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        runs = [pool.submit(read_units_of_a_run, *rows) for rows in options.capacity]
        results = list(pool.map(measure, workloads(options)))
        units = [run.result() for run in runs]
    found = report.averages(results)
    console.print(report.summary(found))
    for line in report.other_figures(found):
        console.print(line)
    missed = targets.missed({average.workload: average.service for average in found})
    if len(set(units)) > 1:
        missed.append(f"a run of the poller reads {units} units in tables of {options.capacity}")
    if options.json:
        text = json.dumps([measured.as_json() for measured in results], indent=1)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    if options.markdown:
        console.out(report.markdown(found))
    if options.plot:
        from tests.bench.plot import draw  # noqa: PLC0415 - matplotlib takes a second to import

        draw(options.plot, results)
    for line in missed:
        console.print(f"[bold red]missed:[/] {line}")
    console.print(f"{time.monotonic() - started:.0f} s")
    return 1 if missed else 0


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument(
        "--workload", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    parser.add_argument(
        "--seeds",
        type=seeds,
        default=[1],
        metavar="1,2,3",
        help="average over these; 1 if not given",
    )
    parser.add_argument("--videos", type=int, help="with a webhook")
    parser.add_argument("--rate", type=float, help="videos a minute")
    parser.add_argument("--limit", type=int, help="CloudflareRequestLimit")
    parser.add_argument("--window", type=float, help="PollWindowSeconds")
    parser.add_argument("--price", type=float, help="of a poll, in seconds, whatever the load")
    parser.add_argument("--short", action="store_true", help="at most 300 videos")
    parser.add_argument("--processes", type=int, help="at once; one for each core if not given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", action="store_true", help="print a table for the documents")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the delays, as .svg, .png or .pdf"
    )
    options = parser.parse_args(arguments)
    if options.plot and options.plot.suffix not in PICTURES:
        parser.error(f"--plot {options.plot}: its name has to end in {', '.join(PICTURES)}")
    options.capacity = []
    if options.workload is None:
        due = 100 if options.short else 1000
        options.capacity = [(due, due), (due, 20 * due)]
    return options


def seeds(text: str) -> list[int]:
    """Return the seeds of a list like ``1,2,3``."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds like 1,2,3") from None


def workloads(options: argparse.Namespace) -> list[Workload]:
    """Return the workloads that are asked for, with the numbers that are given."""
    names = ("videos", "rate", "limit", "window", "price")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}

    def changed(workload: Workload, seed: int) -> Workload:
        started_from = short(workload) if options.short else workload
        changes = given if workload.videos else given | {"videos": 0}
        return replace(started_from, seed=seed, **changes)

    return [
        changed(workload, seed)
        for workload in WORKLOADS
        if options.workload is None or workload.name in options.workload
        for seed in options.seeds
    ]


def measure(workload: Workload) -> Measured:
    """Run both pollers over a workload."""
    service, minute_poller = run_service(workload), run_minute_poller(workload)
    return Measured(
        workload=workload,
        service=service.numbers(),
        minute_poller=minute_poller.numbers(),
        delays={report.SERVICE: service.delays, report.MINUTE_POLLER: minute_poller.delays},
    )


def read_units_of_a_run(due: int, total: int) -> float:
    """Return the read units of a run of the poller, in a process in which moto replaces AWS."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    with mock_aws(), quiet():
        summary, units = poller_run(due, total)
    if summary.ready != due:
        raise RuntimeError(f"The run has found {summary.ready} of {due} downloads ready")
    return units


if __name__ == "__main__":
    sys.exit(main())
