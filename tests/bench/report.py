"""Writes what was measured: tables for a terminal, Markdown for the documents, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.box import SIMPLE
from rich.table import Table

from tests.bench.targets import Numbers
from tests.bench.workloads import Workload

SERVICE = "stream-downloads"
MINUTE_POLLER = "minute poller"
COLUMNS = {name: name for name in ("lists", "mean", "median", "p95", "p99", "max")}
COLUMNS |= {"write_units": "writes", "read_units": "reads"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one workload, with one seed or averaged over its seeds."""

    workload: Workload
    service: Numbers
    minute_poller: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Figures):
    """The figures of one workload with one seed, and the delays of its downloads in seconds."""

    delays: Mapping[str, Sequence[float]]

    def as_json(self) -> dict[str, object]:
        """Return the object for a file of results."""
        return {
            "workload": self.workload.name,
            "seed": self.workload.seed,
            "service": self.service,
            "minute_poller": self.minute_poller,
        }


def averages(results: Iterable[Measured]) -> list[Figures]:
    """Return the averages by workload, in the order of the results."""
    by_name: dict[str, list[Measured]] = {}
    for measured in results:
        by_name.setdefault(measured.workload.name, []).append(measured)
    return [
        Figures(
            workload=found[0].workload,
            service=_average([measured.service for measured in found]),
            minute_poller=_average([measured.minute_poller for measured in found]),
        )
        for found in by_name.values()
    ]


def _average(found: Sequence[Numbers]) -> Numbers:
    """Return the mean of each figure; of bounds that must never be passed, the largest value."""
    means: dict[str, float | None] = {}
    for name in found[0]:
        values = [value for numbers in found if (value := numbers[name]) is not None]
        worst = name in ("throttled", "most_in_five_minutes", "unfinished")
        means[name] = (max(values) if worst else fmean(values)) if values else None
    return means


def summary(found: Iterable[Figures]) -> Table:
    """Return the averages as a table of at most 80 columns."""
    table = Table(title="Per download, delays in seconds", title_justify="left", box=SIMPLE)
    table.padding = (0, 1, 0, 0)
    table.add_column("")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for average in found:
        table.add_row(average.workload.name, *_cells(average.service))
        table.add_row(f"  {MINUTE_POLLER}", *_cells(average.minute_poller), style="dim")
    return table


def other_figures(found: Iterable[Figures]) -> Iterator[str]:
    """Yield a line for each workload that is judged by the time from webhook to URL."""
    for average in found:
        numbers, theirs = average.service, average.minute_poller
        if numbers["mean_of_floor"] is not None:
            yield (
                f"{average.workload.name}, from webhook to URL: mean "
                f"{_number(numbers['mean_of_floor'])}, last {_number(numbers['last_of_floor'])} "
                f"of the floor of {average.workload.floor:,.0f} s"
            )
        elif not average.workload.videos:
            yield (
                f"{average.workload.name}, from request to URL: mean "
                f"{_number(numbers['mean_wait'])} s, "
                f"{MINUTE_POLLER} {_number(theirs['mean_wait'])} s"
            )


def markdown(found: Iterable[Figures]) -> str:
    """Return the averages as a Markdown table."""
    lines = [
        f"| workload | | {' | '.join(COLUMNS.values())} |",
        f"|---|---|{'--:|' * len(COLUMNS)}",
    ]
    for average in found:
        name = average.workload.name
        lines.append(f"| {name} | {MINUTE_POLLER} | {' | '.join(_cells(average.minute_poller))} |")
        lines.append(f"| {name} | {SERVICE} | {' | '.join(_cells(average.service))} |")
    return "\n".join(lines)


def _cells(numbers: Numbers) -> list[str]:
    return [_number(numbers[name]) for name in COLUMNS]


def _number(value: float | None) -> str:
    """Return a figure with its significant decimals."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
