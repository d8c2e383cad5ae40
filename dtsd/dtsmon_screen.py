"""Watching on a terminal: sites one below the other, with bars, queues and errors, drawn to fit whatever its size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from dtscore.output import cell
from dtscore.units import show_size
from dtsd.dtsmon_link import Heard
from dtsd.dtsmon_state import SiteView, Transfer, number_of, text_of
from reqdb.scene import span

_EACH = 0.5
"""Seconds between two pictures."""

_COLOURS = {
    "done": "green", "running": "cyan", "failed": "red", "cancelled": "yellow", "waiting": "",
    "paused": "yellow", "stopped": "red", "connected": "green", "connecting": "yellow", "lost": "yellow",
    "refused": "red",
}  # fmt: skip
_NARROW = 90
"""Columns below which rates and times left are given less room."""


class Screen:
    """Draws what is known twice a second, until it is closed; then the terminal is as it was."""

    def __init__(self, sites: Sequence[str], console: Console | None = None) -> None:
        """Take the whole terminal."""
        self.views = {name: SiteView(name) for name in sites}
        self._drawn = 0.0
        console = console or Console()
        self._live = Live(Picture(self.views), console=console, auto_refresh=False, screen=True)
        self._live.start(refresh=True)

    def hear(self, heard: Heard, now: float) -> None:
        """Take an event; it shows in the next picture."""
        self.views.setdefault(heard.site, SiteView(heard.site)).take(heard, now)

    def tick(self, now: float) -> None:
        """Draw, if it is time."""
        if now - self._drawn >= _EACH:
            self._drawn = now
            for view in self.views.values():
                view.forget(now)
            self._live.refresh()

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()


class Picture:
    """All sites, drawn to the size that the terminal has at that moment."""

    def __init__(self, views: dict[str, SiteView], clock: Callable[[], float] = time.time) -> None:
        """Draw these views whenever asked; `clock` gives the time of day."""
        self._views = views
        self._clock = clock

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw within the terminal's width and height; what does not fit is counted."""
        height = options.height or console.size.height
        views = list(self._views.values())
        room = max(3, (height - 1) // max(1, len(views)))
        parts: list[RenderableType] = []
        for view in views:
            parts += site(view, room, narrow=options.max_width < _NARROW)
        moment = datetime.fromtimestamp(self._clock(), timezone.utc)
        parts.append(_line(Text(f"{moment:%H:%M:%S}Z   Ctrl-C ends watching; what is watched goes on", style="dim")))
        yield Group(*parts)


def site(view: SiteView, room: int, *, narrow: bool = False) -> list[RenderableType]:
    """Return a site in at most `room` lines: its head, transfers, queues and the latest errors."""
    left = room - 1
    parts: list[RenderableType] = [_head(view)]
    if view.link != "connected" and view.message and left > 0:
        parts.append(_line(Text(view.message, style=_COLOURS.get(view.link, ""))))
        left -= 1
    errors = min(len(view.errors), 3 if left >= 8 else 1, max(0, left))
    queues = min(len(view.queues), max(0, left - errors) // 2)
    queues = max(queues, min(len(view.queues), left - errors - len(view.transfers)))
    transfers = max(0, left - errors - queues)
    if view.transfers and transfers:
        parts.append(_transfers(list(view.transfers.values()), transfers, narrow=narrow))
    if queues > 0:
        parts.append(_queues(list(view.queues.values()), queues))
    parts += [_error(event) for event in list(view.errors)[len(view.errors) - errors :]]
    return parts


def _line(text: Text) -> Text:
    """Return a text that takes one line, however narrow the terminal is."""
    return Text(cell(text.plain), style=text.style, no_wrap=True, overflow="ellipsis")


def _head(view: SiteView) -> RenderableType:
    running = sum(not one.ended for one in view.transfers.values())
    parts = [f"{running} running" if running else "", f"{show_size(view.rate)}/s" if view.rate else ""]
    parts += [f"{view.done:,} done" if view.done else "", f"{view.failed:,} failed" if view.failed else ""]
    parts += [_facts(view.facts), f"{view.lost:,} lines lost" if view.lost else ""]
    line = Text(f"{cell(view.name)}  ", style="bold")
    line.append(cell(view.link), style=f"bold {_COLOURS.get(view.link, '')}")
    line.append("".join(f" · {part}" for part in parts if part), style="not bold")
    return Rule(line, align="left", style="dim", characters="─")


def _facts(facts: dict[str, object]) -> str:
    """Return what the daemon tells about its site now and then: room left, requests under way."""
    free, waiting, running = (number_of(facts, key) for key in ("free", "waiting", "working"))
    parts = [f"{waiting:,.0f} files wait" if waiting else "", f"{running:,.0f} in work" if running else ""]
    parts.append(f"{show_size(free)} free" if free is not None else "")
    return " · ".join(part for part in parts if part)


def _transfers(transfers: list[Transfer], room: int, *, narrow: bool) -> RenderableType:
    transfers.sort(key=lambda one: (one.ended, -one.at if one.ended else 0.0))
    shown = transfers if len(transfers) <= room else transfers[: room - 1]
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=2, no_wrap=True, overflow="ellipsis")
    grid.add_column(ratio=1, no_wrap=True, min_width=6)
    for width in (5, 0 if narrow else 8, 10, 0 if narrow else 11):  # fixed, so that the bars keep their length
        grid.add_column(justify="right", no_wrap=True, min_width=width)
    for one in shown:
        grid.add_row(*_transfer(one, narrow=narrow))
    if len(shown) < len(transfers):
        more = f"and {len(transfers) - len(shown):,} more"
        grid.add_row(Text(more, style="dim"), *[""] * 5)
    return grid


def _transfer(one: Transfer, *, narrow: bool) -> list[RenderableType]:
    colour = _COLOURS.get(one.state, "cyan")
    arrow = "←" if one.direction == "receive" else "→"
    name = Text(_shortened(cell(one.path or f"transfer {one.number}"), 40 if narrow else 56), style=colour)
    name.append(f" {arrow} {cell(one.peer)}" if one.peer else "", style="dim")
    share = 100.0 * one.bytes / one.size if one.size and one.size > 0 else None
    if one.state == "done":
        share = 100.0  # what was there already, of an earlier attempt, was not sent again
    bar: RenderableType = Text(cell(one.state) if one.ended or share is None else "", style=colour)
    if share is not None and one.state in ("running", "done"):
        bar = ProgressBar(total=100.0, completed=min(100.0, share), complete_style=colour, finished_style="green")
    percent = f"{min(100.0, share):.0f} %" if share is not None else ""
    size = show_size(one.size if one.size and one.size > 0 else one.bytes)
    rate = f"{show_size(one.rate)}/s" if one.rate else ""
    eta = "" if one.eta is None else span(min(one.eta, 1e7))
    return [name, bar, percent, "" if narrow else size, rate, "" if narrow else one.state if one.ended else eta]


def _shortened(path: str, longest: int) -> str:
    """Return the end of a long name: it is there that names differ."""
    return path if len(path) <= longest else f"…{path[-longest + 1 :]}"


def _queues(queues: list[dict[str, object]], room: int) -> RenderableType:
    queues.sort(key=lambda one: (text_of(one, "state") == "running", text_of(one, "name")))
    shown = queues if len(queues) <= room else queues[: max(0, room - 1)]
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in range(2):
        grid.add_column(no_wrap=True, min_width=8)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for one in shown:
        state = text_of(one, "state")
        counts = [
            f"{number:,.0f} {word}" for word in ("waiting", "running", "failed") if (number := number_of(one, word))
        ]
        rest = " · ".join([*counts, *([cell(text_of(one, "reason"))] if text_of(one, "reason") else [])])
        name = Text(f"queue {cell(text_of(one, 'name'))}")
        grid.add_row(name, Text(cell(state), style=_COLOURS.get(state, "")), Text(rest, style="dim"))
    if len(shown) < len(queues):
        grid.add_row(Text(f"and {len(queues) - len(shown)} more", style="dim"), "", "")
    return grid


def _error(event: dict[str, object]) -> Text:
    at = number_of(event, "at")
    moment = f"{datetime.fromtimestamp(at, timezone.utc):%H:%M:%S}Z " if at is not None and 0 <= at < 4e9 else ""
    what = text_of(event, "what")
    return _line(Text(f"{moment}{f'{what}: ' if what else ''}{text_of(event, 'message')}", style="red"))
