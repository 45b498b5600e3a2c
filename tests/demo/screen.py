"""Show a live table in a terminal, plain lines anywhere else; end in order when interrupted."""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tests.demo.scenario import Clip, Item, Key
from tests.simulator import StreamSimulator

Rows = Mapping[Key, Item]

PICTURE_WIDTH = WIDE = 110
STYLES = {
    "requested": "yellow",
    "inprogress": "cyan",
    "ready": "green",
    "error": "red",
    "deleting": "magenta",
    "deleted": "magenta",
}
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FILES = {"default": "MP4", "audio": "M4A"}


def interrupts_end_it() -> None:
    """Raise KeyboardInterrupt at the first Ctrl-C, SIGTERM or closed terminal, and only then.

    A shell that starts a program in the background has it ignore SIGINT: this one does not.
    """

    def interrupt(*_: object) -> None:
        ignore_interrupts()  # what ends now ends within seconds
        raise KeyboardInterrupt

    for each in INTERRUPTS:
        signal.signal(each, interrupt)


def ignore_interrupts() -> None:
    """Let no further interrupt disturb what cleans up."""
    for each in INTERRUPTS:
        signal.signal(each, signal.SIG_IGN)


class Screen:
    """Writes to the terminal, or to the file in its place.

    Attributes:
        live: True if the table is drawn again with each change; else each change is a line.
    """

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self.live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._history: list[RenderableType] = []
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._began

    def title(self, text: str) -> None:
        """Write a heading."""
        self.tell(f"\n{text}", "bold")

    def say(self, text: str) -> None:
        """Write a line with the time."""
        self._history.append(self._timed(text))
        self._say(text)

    def tell(self, text: str, style: str = "") -> None:
        """Write prose: a terminal gets no line longer than it is wide."""
        self._history.append(Text(text, style))
        self._console.print(Text(text, style), soft_wrap=not self.live)

    def show(self, text: str, style: str = "") -> None:
        """Write a text to be copied: the terminal wraps long lines, and copies them whole."""
        folded = "\n".join(
            line[start : start + PICTURE_WIDTH]
            for line in text.split("\n")
            for start in range(0, max(len(line), 1), PICTURE_WIDTH)
        )
        self._history.append(Text(folded, style))
        self._console.print(Text(text, style), soft_wrap=True)

    def show_pairs(self, pairs: Mapping[str, str]) -> None:
        """Write texts with their headings."""
        width = max(len(heading) for heading in pairs)
        grid = Table.grid(padding=(0, 2))
        for heading, text in pairs.items():
            grid.add_row(Text(heading, style="bold"), Text(text))
            if not self.live:
                self._console.print(f"{heading:<{width}}  {text}", markup=False, soft_wrap=True)
        self._history.append(grid)
        if self.live:
            self._console.print(grid)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Write the present task, during it and afterwards."""
        started = self.seconds
        if self.live:
            with self._console.status(text):
                yield
            self.say(f"{text} ({self.seconds - started:.0f} s)")
        else:
            self.say(text)
            yield

    @contextmanager
    def table(
        self, downloads: Mapping[Key, Clip], cloudflare: StreamSimulator
    ) -> Iterator[Callable[[Rows], None]]:
        """Show the downloads as they are at Cloudflare, and in the table.

        Args:
            downloads: what to show.
            cloudflare: where they are made.

        Yields:
            A function that is told the rows of the table whenever they have been read.
        """
        latest: Rows = {}
        lines = _Lines(downloads)

        def drawn() -> RenderableType:
            table = Fitting(
                lambda width: downloads_table(downloads, cloudflare, latest, wide=width >= WIDE)
            )
            return Padding(table, (1, 0, 0, 0))  # after an empty line

        def update(rows: Rows) -> None:
            nonlocal latest
            latest = rows
            if not self.live:
                for line in lines.changed(rows):
                    self._say(line)

        if self.live:
            with Live(console=self._console, get_renderable=drawn, refresh_per_second=8):
                yield update
        else:
            yield update
        self._history.append(drawn())

    def save(self, picture: Path) -> None:
        """Write the shown screen to an SVG file."""
        console = Console(
            file=io.StringIO(),
            record=True,
            width=PICTURE_WIDTH,
            force_terminal=True,
            color_system="truecolor",
            highlight=False,
            legacy_windows=False,
        )
        console.print(Group(*self._history))
        console.save_svg(str(picture), title="make demo")

    def _say(self, text: str) -> None:
        if self.live:
            self._console.print(self._timed(text))
        else:
            self._console.print(f"{self._clock()}  {text}", markup=False, soft_wrap=True)

    def _timed(self, text: str) -> Table:
        line = Table.grid(padding=(0, 2))
        line.add_column()
        line.add_column(overflow="fold")
        line.add_row(Text(self._clock(), style="dim"), Text(text))
        return line

    def _clock(self) -> str:
        minutes, seconds = divmod(int(self.seconds), 60)
        return f"{minutes}:{seconds:02}"


class _Lines:
    """Describes the downloads in plain lines: one for each change."""

    def __init__(self, downloads: Mapping[Key, Clip]) -> None:
        self._downloads = downloads
        self._said: dict[Key, str] = {}

    def changed(self, rows: Rows) -> Iterator[str]:
        """Return the lines of the rows that have changed since the last time."""
        for key, clip in self._downloads.items():
            row = rows.get(key)
            if row is None:
                continue
            text = f"{row['status']:<10}  {clip.name} {FILES[key.download_type]}"
            if row["status"] == "inprogress":
                text += f"  {row['percent_complete']:.0f} %"
            elif outcome(row):
                text += f"  {outcome(row)}"
            if self._said.get(key) != text:
                self._said[key] = text
                yield text


class Fitting:
    """Draws an element that depends on the available width."""

    def __init__(self, drawn: Callable[[int], RenderableType]) -> None:
        self._drawn = drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._drawn(options.max_width)


def fitting_url(url: str, style: str) -> Fitting:
    """Return a URL that is cut in the middle to the available width."""
    return Fitting(lambda width: Text(shortened(url, width), style, no_wrap=True))


def shortened(text: str, width: int) -> str:
    """Return a URL in so many characters: its end says which file it is."""
    if len(text) <= width:
        return text
    end = max(min(30, width * 2 // 3), min(len("/downloads/default.mp4"), width - 1))
    return f"{text[: width - end - 1]}…{text[len(text) - end :]}"


def downloads_table(
    downloads: Mapping[Key, Clip], cloudflare: StreamSimulator, rows: Rows, *, wide: bool
) -> Table:
    """Return the downloads in the order of their videos: as they are, and as the table has them.

    Args:
        downloads: what to show.
        cloudflare: where they are made.
        rows: the table's.
        wide: whether there is room for what is special about each.
    """
    gap = 2 if wide else 1
    table = Table(
        box=None, padding=(0, gap, 0, 0), pad_edge=False, expand=True, header_style="bold"
    )
    for heading in ("Video", "File", "At Cloudflare", "In the table"):
        table.add_column(heading, no_wrap=True)
    table.add_column("URL", ratio=1, no_wrap=True)
    if wide:
        table.add_column(no_wrap=True)
    for key, clip in downloads.items():
        row = rows.get(key, {"status": "no row yet"})
        style = STYLES.get(row["status"], "dim")
        made, state = progress(cloudflare, key), row["status"]
        if state == "inprogress":
            state += f" {row['percent_complete']:.0f} %"
        table.add_row(
            clip.name,
            FILES[key.download_type],
            "" if made is None else ProgressBar(completed=made, width=12, complete_style="cyan"),
            Text(state, style),
            fitting_url(row.get("url", ""), style),
            *([Text(clip.note, "dim")] if wide else []),
        )
    return table


def progress(cloudflare: StreamSimulator, key: Key) -> float | None:
    """Return the percentage that Cloudflare has done of a download; None if there is none."""
    download = cloudflare.videos[key.video_uid].downloads.get(key.download_type)
    return download.percent(cloudflare.clock()) if download else None


def outcome(row: Item) -> str:
    """Return the URL, or the reason why there will be none."""
    if row["status"] == "error":
        return f"{row['error_code']}: {row['error_message']}"
    return str(row.get("url", ""))
