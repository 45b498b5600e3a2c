"""The benchmark: the real handlers in virtual time, next to a poller that asks every minute."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from moto import mock_aws
from rich.console import Console
from rich.table import Table

from tests.bench.capacity import poller_run
from tests.bench.run import Result, quiet, run_minute_poller, run_service
from tests.bench.targets import Figure, figures
from tests.bench.workloads import DEFAULT, SHORT, Workload

Compared = tuple[Workload, Result, Result]


def main() -> int:
    """Run what is asked for; 1 if a target is missed."""
    options = parse_options()
    console = Console(width=None if sys.stdout.isatty() else 110)
    started = time.monotonic()
    reached = True
    results: list[Compared] = []
    with ProcessPoolExecutor() as pool:
        chosen = workloads(options)
        minute_pollers = pool.map(run_minute_poller, chosen)
        services = pool.map(run_service, chosen)
        runs = [pool.submit(read_units_of_a_run, *rows) for rows in options.capacity]
        for workload, minute_poller, service in zip(chosen, minute_pollers, services, strict=True):
            results.append((workload, minute_poller, service))
            shown = list(figures(workload, minute_poller, service))
            console.print(comparison(workload, shown), "")
            reached &= all(figure.reached for figure in shown)
        if runs:
            units = [run.result() for run in runs]
            console.print(capacity(options.capacity, units), "")
            reached &= len(set(units)) == 1
    if options.plot:
        from tests.bench.plot import draw  # noqa: PLC0415 - matplotlib takes a second to import

        draw(options.plot, results)
        console.print(f"Drawn in {options.plot}")
    console.print(f"{time.monotonic() - started:.0f} s")
    return 0 if reached else 1


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    kinds = list(dict.fromkeys(workload.kind for workload in DEFAULT))
    parser.add_argument("--workload", choices=[*kinds, "all"], default="all")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--videos", type=int)
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=float, help="videos a minute")
    pace.add_argument("--burst", action="store_true", help="all videos at once")
    parser.add_argument("--median", type=float, help="seconds that a download takes")
    parser.add_argument("--sigma", type=float, help="deviation of their logarithm")
    parser.add_argument("--limit", type=int, help="CloudflareRequestLimit")
    parser.add_argument("--window", type=float, help="PollWindowSeconds")
    parser.add_argument("--plot", metavar="FILE", help="draw delays and requests, as PNG, SVG, …")
    parser.add_argument("--short", action="store_true", help="fewer videos")
    options = parser.parse_args()
    options.capacity = []
    if options.workload == "all":
        due = 100 if options.short else 1000
        options.capacity = [(due, due), (due, 20 * due)]
    return options


def workloads(options: argparse.Namespace) -> list[Workload]:
    """The workloads that are asked for, with the numbers that are."""
    names = ("seed", "videos", "rate", "median", "sigma", "limit", "window")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.burst:
        given["rate"] = None
    chosen = [
        replace(workload, **given)
        for workload in (SHORT if options.short else DEFAULT)
        if options.workload in (workload.kind, "all")
    ]
    return list(dict.fromkeys(chosen))  # two that a given window has made the same are one


def comparison(workload: Workload, shown: Sequence[Figure]) -> Table:
    """The figures of a workload as a table."""
    pace = f"{workload.rate:g} a minute" if workload.rate else "at once"
    table = Table(
        title=f"{workload.kind}: {workload.videos:,} videos {pace}, median {workload.median:g} s, "
        f"sigma {workload.sigma:g}, limit {workload.limit}, window {workload.window:g} s, "
        f"seed {workload.seed}",
        title_justify="left",
    )
    table.add_column("")
    for name in ("minute poller", "stream-downloads", "compared", "target", ""):
        table.add_column(name, justify="right")
    for figure in shown:
        verdict = "[green]reached[/]" if figure.reached else "[bold red]missed[/]"
        table.add_row(
            figure.name,
            number(figure.minute_poller),
            number(figure.service),
            f"{number(figure.compared)} x {figure.to}" if figure.to else "",
            "" if figure.at_most is None else f"≤ {number(figure.at_most)}",
            "" if figure.at_most is None else verdict,
        )
    return table


def capacity(rows: Sequence[tuple[int, int]], units: Sequence[float]) -> Table:
    """What a run of the poller reads, as a table."""
    same = "[green]the same[/]" if len(set(units)) == 1 else "[bold red]not the same[/]"
    table = Table(title="One run of the poller", title_justify="left")
    for name in ("due rows", "rows of the table", "read units", ""):
        table.add_column(name, justify="right")
    for (due, total), amount in zip(rows, units, strict=True):
        table.add_row(f"{due:,}", f"{total:,}", f"{amount:,.1f}", same)
    return table


def number(value: float | None) -> str:
    """For people: two decimals where they say something."""
    if value is None:
        return ""
    return f"{value:,.2f}" if value < 100 and value != int(value) else f"{value:,.0f}"


def read_units_of_a_run(due: int, total: int) -> float:
    """In a process of its own: moto stands in for DynamoDB, and nothing is asked of AWS."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    with mock_aws(), quiet():
        summary, units = poller_run(due, total)
    if summary.ready != due:
        raise RuntimeError(f"The run has found {summary.ready} of {due} downloads ready")
    return units


if __name__ == "__main__":
    sys.exit(main())
