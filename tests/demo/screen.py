"""What the demo shows: a live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

import io
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.demo.scenario import Clip, Item, Key
    from tests.simulator import StreamSimulator

    Rows = Mapping[Key, Item]

PICTURE_WIDTH = 110
STYLES = {
    "requested": "yellow",
    "inprogress": "cyan",
    "ready": "green",
    "error": "red",
    "deleting": "magenta",
    "deleted": "magenta",
}
FILES = {"default": "MP4", "audio": "M4A"}


class Screen:
    """The terminal, or the file in its place.

    Attributes:
        live: whether what changes is drawn anew; if not, each change is a line.
    """

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self.live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._history: list[RenderableType] = []
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def title(self, text: str) -> None:
        """A heading."""
        self.show(f"\n{text}", "bold")

    def say(self, text: str) -> None:
        """A line with the time."""
        self._history.append(self._timed(text))
        self._say(text)

    def show(self, text: str, style: str = "") -> None:
        """Text that stays on the screen. Long lines are for the terminal to break, not for us."""
        folded = "\n".join(
            line[start : start + PICTURE_WIDTH]
            for line in text.split("\n")
            for start in range(0, max(len(line), 1), PICTURE_WIDTH)
        )
        self._history.append(Text(folded, style))
        self._console.print(Text(text, style), soft_wrap=True)

    def show_pairs(self, pairs: Mapping[str, str]) -> None:
        """Texts with their headings."""
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
        """Say what is being done, while it lasts and afterwards."""
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
            return Padding(downloads_table(downloads, cloudflare, latest), (1, 0, 0, 0))

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
        """Write all that was shown as an SVG."""
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
        line.add_row(Text(self._clock(), style="dim"), Text(text))
        return line

    def _clock(self) -> str:
        minutes, seconds = divmod(int(self.seconds), 60)
        return f"{minutes}:{seconds:02}"


class _Lines:
    """The downloads as plain lines: one for each change."""

    def __init__(self, downloads: Mapping[Key, Clip]) -> None:
        self._downloads = downloads
        self._said: dict[Key, str] = {}

    def changed(self, rows: Rows) -> Iterator[str]:
        """The lines of the rows that have changed since the last time."""
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


class Shortened:
    """A text that is cut to the room there is: a URL in the middle, anything else at the end."""

    def __init__(self, text: str, style: str) -> None:
        self._text, self._style = text, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(shortened(self._text, options.max_width), self._style, no_wrap=True)


def shortened(text: str, width: int) -> str:
    """A text in so many characters: of a URL the beginning and the end, of others the beginning."""
    if len(text) <= width:
        return text
    end = min(30, width * 2 // 3) if text.startswith("https://") else 0
    return f"{text[: width - end - 1]}…{text[len(text) - end :]}"


def downloads_table(
    downloads: Mapping[Key, Clip], cloudflare: StreamSimulator, rows: Rows
) -> Table:
    """The downloads in the order of their videos: what is true, and what the table knows of it."""
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="bold")
    for heading in ("Video", "File", "At Cloudflare", "In the table"):
        table.add_column(heading, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column("URL", ratio=1, no_wrap=True)
    for key, clip in downloads.items():
        row = rows.get(key, {"status": "no row yet"})
        style = STYLES.get(row["status"], "dim")
        made, known = progress(cloudflare, key), row.get("percent_complete")
        table.add_row(
            clip.name,
            FILES[key.download_type],
            "" if made is None else ProgressBar(completed=made, width=12, complete_style="cyan"),
            Text(row["status"], style),
            "" if known is None else f"{known:.0f} %",
            Shortened(outcome(row), style) if outcome(row) else Text(clip.note, "dim"),
        )
    return table


def progress(cloudflare: StreamSimulator, key: Key) -> float | None:
    """How far Cloudflare is with a download, 0 to 100; None if there is none."""
    download = cloudflare.videos[key.video_uid].downloads.get(key.download_type)
    return download.percent(cloudflare.clock()) if download else None


def outcome(row: Item) -> str:
    """The URL, or why there is none and never will be."""
    if row["status"] == "error":
        return f"{row['error_code']}: {row['error_message']}"
    return str(row.get("url", ""))
