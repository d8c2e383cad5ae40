"""Following a request on a terminal: bars, rates, what is being worked on, and why files failed."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dtscore.output import cell
from dtscore.units import show_size
from reqdb.scene import files_word, span
from reqdb.views import Current, Failure, Progress
from reqdb.watch import Frame
from reqdb.watch_lines import STILL_SECONDS, closing, states, volume

_MOST_CURRENT = 8
_MOST_FAILURES = 5
_COLOURS = {"Done": "green", "Failed": "red", "Cancelled": "yellow", "Running": "cyan"}


class LiveDisplay:
    """Redraws one picture in place; the last one stays."""

    def __init__(self, console: Console | None = None) -> None:
        """Take over the lines below the cursor."""
        self._frame: Frame | None = None
        self._live = Live(console=console or Console(), auto_refresh=False, vertical_overflow="ellipsis")
        self._live.start()

    def show(self, frame: Frame) -> None:
        """Draw a frame."""
        self._frame = frame
        self._live.update(picture(frame), refresh=True)

    def away(self, message: str) -> None:
        """Draw the last frame with the message below it."""
        if self._frame is not None:
            told = Text(f"{cell(message)}; still trying", style="yellow")
            self._live.update(Group(picture(self._frame), told), refresh=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()


def picture(frame: Frame) -> RenderableType:
    """Return the whole picture of one frame."""
    now = frame.progress
    parts: list[RenderableType] = [_head(now), _bars(now)]
    if frame.ended:
        parts.append(Text(closing(now), style=_COLOURS.get(now.state, "")))
    else:
        parts.append(_left(frame))
    if now.current:
        parts.append(_current(now.current))
    if now.failures:
        parts.append(_failures(now.failures))
    return Group(*parts)


def _head(now: Progress) -> RenderableType:
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    line.add_row(Text(f"request {now.request_id}  {cell(now.name)}", style="bold"), _state(now.state))
    return line


def _state(state: str) -> Text:
    return Text(state, style=f"bold {_COLOURS.get(state, '')}")


def _bars(now: Progress) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    for width in (7, 20, 11):  # fixed, so that the bars keep their length
        grid.add_column(justify="right", no_wrap=True, min_width=width)
    files_rate = f"{now.files_per_second:.3g}/s" if now.files_per_second else ""
    bytes_rate = f"{show_size(now.bytes_per_second)}/s" if now.bytes_per_second else ""
    done = f"{now.counts.done:,} of {now.counts.total:,}"
    grid.add_row("files", _bar(now.percent_files, now.state), f"{now.percent_files:.1f} %", done, files_rate)
    if now.percent_bytes is not None:
        grid.add_row("bytes", _bar(now.percent_bytes, now.state), f"{now.percent_bytes:.1f} %", volume(now), bytes_rate)
    else:
        grid.add_row("bytes", Text("sizes not known in advance", style="dim"), "", volume(now), bytes_rate)
    return grid


def _bar(percent: float, state: str) -> RenderableType:
    colour = _COLOURS.get(state, "cyan")
    return ProgressBar(total=100.0, completed=percent, complete_style=colour, finished_style="green")


def _left(frame: Frame) -> RenderableType:
    now = frame.progress
    line = Text()
    if frame.still >= STILL_SECONDS:
        why = f"dts-request explain {now.request_id}"
        line.append(f"nothing has moved for {span(frame.still)}; why: {why}\n", style="yellow")
    line.append(f"{span(now.eta)} left   " if now.eta is not None else "")
    line.append(states(now.counts), style="dim")
    return line


def _current(current: tuple[Current, ...]) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for _ in range(2):
        grid.add_column(justify="right", no_wrap=True)
    for file in current[:_MOST_CURRENT]:
        target = f"→ {file.target}" if file.target else file.type
        share = f"{min(100.0, 100.0 * file.bytes_now / file.size):.0f} %" if file.size else show_size(file.bytes_now)
        grid.add_row(Text(_shortened(cell(file.lfn)), style="cyan"), cell(target), share)
    if len(current) > _MOST_CURRENT:
        grid.add_row(Text(f"and {len(current) - _MOST_CURRENT} more", style="dim"), "", "")
    return grid


def _shortened(lfn: str, longest: int = 56) -> str:
    """Return the end of a long name: it is there that names differ."""
    return lfn if len(lfn) <= longest else f"…{lfn[-longest + 1 :]}"


def _failures(failures: tuple[Failure, ...]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", no_wrap=True, style="red")
    grid.add_column(overflow="fold")
    for failure in failures[:_MOST_FAILURES]:
        target = f" → {failure.target}" if failure.target else ""
        told = Text(f"{cell(failure.error)} [{failure.error_class}]")
        told.append(f"\n{'as ' if failure.count > 1 else ''}{_shortened(cell(failure.lfn))}{cell(target)}", style="dim")
        grid.add_row(f"{files_word(failure.count)} failed", told)
    return grid
