"""Draws the delays of both pollers: the part of the downloads with a URL after some seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench import report
from tests.bench.report import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The picture in the README shows a busy stack and a quiet one.
SHOWN = ("steady", "quiet")
COLORS = {report.SERVICE: "#0b6e4f", report.MINUTE_POLLER: "#c8553d"}
LONGEST_SHOWN = 65.0
STYLE: Any = {
    "font.size": 15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "delays",  # the same figures give the same file
}


def draw(file: Path, results: Sequence[Measured]) -> None:
    """Write the picture; the suffix of the file says in which format."""
    found = {name: [one for one in results if one.workload.name == name] for name in SHOWN}
    panels = [runs for runs in found.values() if runs] or [list(results)]
    with mpl.rc_context(STYLE):
        # Its own background, so that it can be read on a dark page.
        size = (7.5, 3.9 * len(panels))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        every_axes = figure.subplots(len(panels), squeeze=False).flat
        for axes, runs in zip(every_axes, panels, strict=True):
            _panel(axes, runs)
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, metadata=metadata)


def _panel(axes: Axes, runs: Sequence[Measured]) -> None:
    workload = runs[0].workload
    rate = f"{workload.rate:g} videos a minute" if workload.rate else f"{workload.videos} at once"
    if workload.rate and workload.rate < 1:
        rate = f"one video in {1 / workload.rate:g} minutes"
    axes.set_title(f"{workload.name}: {rate}", loc="left", weight="bold")
    for name, color in COLORS.items():
        delays = sorted(delay for one in runs for delay in one.delays[name])
        parts = [100 * (place + 1) / len(delays) for place in range(len(delays))]
        median = delays[len(delays) // 2]
        axes.plot(delays, parts, color=color, linewidth=3, label=f"{name}: half by {median:.0f} s")
    axes.set_xlim(0, LONGEST_SHOWN)
    axes.set_ylim(0, 101)
    axes.set_xlabel("seconds from ready at Cloudflare to URL in the table")
    axes.set_ylabel("% of the downloads")
    axes.grid(color="#dddddd")
    axes.legend(loc="lower right")
