"""The benchmark as a picture: how late, and how many requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from tests.bench.run import Result
from tests.bench.workloads import Workload
from tests.support.clock import START


def draw(file: str, results: Sequence[tuple[Workload, Result, Result]]) -> None:
    """Write the picture; the suffix of the file says in which format."""
    figure = Figure(figsize=(13, 3.4 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 2, squeeze=False)
    for (workload, minute_poller, service), (left, right) in zip(results, axes, strict=True):
        title = f"{workload.kind}, window {workload.window:.0f} s"
        for name, result in (("minute poller", minute_poller), ("stream-downloads", service)):
            _delays(left, name, result)
            _requests(right, name, result)
        left.set(title=title, xlabel="delay, seconds", ylabel="downloads, %")
        right.axhline(workload.limit, color="gray", linestyle=":", label="limit")
        right.set(title=title, xlabel="minutes", ylabel="requests in five minutes")
        left.set_xscale("symlog", linthresh=10)
        left.set_xlim(left=0)
        left.legend()
        right.legend()
    figure.savefig(file)


def _delays(axis: Any, name: str, result: Result) -> None:
    delays = sorted(result.delays)
    axis.plot(delays, [100 * (n + 1) / len(delays) for n in range(len(delays))], label=name)


def _requests(axis: Any, name: str, result: Result) -> None:
    """The requests of the last five minutes, at every half minute."""
    times = sorted(call.at - START for call in result.calls)
    window: deque[float] = deque()
    minutes, requests = [], []
    ends = [30.0 * n for n in range(int(times[-1] / 30) + 12)]
    waiting = deque(times)
    for _, end in pairwise([0.0, *ends]):
        while waiting and waiting[0] <= end:
            window.append(waiting.popleft())
        while window and window[0] <= end - 300:
            window.popleft()
        minutes.append(end / 60)
        requests.append(len(window))
    axis.plot(minutes, requests, label=name)
