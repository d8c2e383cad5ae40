"""Watching in a pipe: lines of text for people and logs, lines of JSON for programs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

import click

from dtscore.output import cell, print_json
from dtscore.units import show_size
from dtsd.dtsmon_link import Event, Heard
from dtsd.dtsmon_state import ENDED, SiteView, number_of, text_of
from reqdb.scene import span

EVERY = 5.0
"""Seconds between two lines about one transfer that runs."""


class JsonLines:
    """Each event as one JSON object with its `site`; only `alive` is left out."""

    def hear(self, heard: Heard, _now: float) -> None:
        """Print an event."""
        if heard.name != "alive":
            print_json({"site": heard.site, **heard.event}, lines=True)

    def tick(self, _now: float) -> None:
        """Nothing is shown between events."""

    def close(self) -> None:
        """Nothing is left open."""


class TextLines:
    """A line for each event; of a transfer that runs and of a queue only what changed, and not too often."""

    def __init__(self, every: float = EVERY) -> None:
        """Begin with nothing shown."""
        self._every = every
        self._views: dict[str, SiteView] = {}
        self._shown: dict[tuple[str, str], tuple[float, str]] = {}

    def hear(self, heard: Heard, now: float) -> None:
        """Print an event, if it is its turn."""
        view = self._views.setdefault(heard.site, SiteView(heard.site))
        view.take(heard, now)
        text = _TEXTS.get(heard.name, other)(heard.event, view)
        if text and self._is_due(heard, text, now):
            at = number_of(heard.event, "at")
            click.echo(cell(f"{_moment(at)} {heard.site} {text}"))

    def _is_due(self, heard: Heard, text: str, now: float) -> bool:
        if heard.name == "site":
            return False
        if heard.name not in ("transfer", "queue"):
            return True
        key = (heard.site, f"{heard.name} {heard.event.get('number', heard.event.get('name'))}")
        shown = self._shown.get(key)
        if heard.event.get("state") in ENDED:
            self._shown.pop(key, None)
            return True
        if shown is not None and (shown[1] == text or (now - shown[0] < self._every and heard.name == "transfer")):
            return False
        self._shown[key] = (now, text)
        return True

    def tick(self, now: float) -> None:
        """Forget what ended."""
        for view in self._views.values():
            view.forget(now)
        old = now - 3600.0
        self._shown = {key: shown for key, shown in self._shown.items() if shown[0] > old}

    def close(self) -> None:
        """Nothing is left open."""


def _moment(at: float | None) -> str:
    try:
        moment = datetime.now(timezone.utc) if at is None else datetime.fromtimestamp(at, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return "--:--:--Z"
    return f"{moment:%H:%M:%S}Z"


def transfer(event: Event, view: SiteView) -> str:
    """Return where a transfer stands."""
    one = view.transfers.get(text_of(event, "number"))
    if one is None:
        return ""  # gone: how it ended, the `files` of its agent say
    arrow = "←" if one.direction == "receive" else "→"
    head = f"transfer {one.number} {one.path}{f' {arrow} {one.peer}' if one.peer else ''}"
    rate = f"{show_size(one.rate)}/s" if one.rate else ""
    if one.state == "done":
        return f"{head} done: {show_size(one.bytes)}{f' ({rate})' if rate else ''}"
    if one.ended:
        return f"{head} {one.state}{f': {one.error}' if one.error else ''}"
    return (
        f"{head} {one.state}: {', '.join(part for part in (volume(one.bytes, one.size), rate, _left(one.eta)) if part)}"
    )


def volume(moved: float, size: float | None) -> str:
    """Return how far a transfer is: `45 % of 3 GiB`."""
    if not size or size < 0:
        return show_size(moved)
    return f"{min(100.0, 100.0 * moved / size):.0f} % of {show_size(size)}"


def _left(eta: float | None) -> str:
    return "" if eta is None else f"{span(min(eta, 1e7))} left"


def queue(event: Event, _view: SiteView) -> str:
    """Return where a queue stands."""
    reason = text_of(event, "reason")
    counts = ", ".join(
        f"{number:,.0f} {word}" for word in ("waiting", "running", "failed") if (number := number_of(event, word))
    )
    state = f"queue {text_of(event, 'name')} {text_of(event, 'state')}"
    return f"{state}{f' ({reason})' if reason else ''}{f': {counts}' if counts else ''}"


def files(event: Event, _view: SiteView) -> str:
    """Return what an agent has just ended."""
    counts = ", ".join(
        f"{number:,.0f} {word.capitalize()}"
        for word in ("done", "failed", "cancelled", "again")
        if (number := number_of(event, word))
    )
    size = number_of(event, "bytes")
    text = f"{text_of(event, 'agent')} → {text_of(event, 'target')}: {counts}{f', {show_size(size)}' if size else ''}"
    why = text_of(event, "error")
    return f"{text}; {text_of(event, 'example')}: {why}" if why else f"{text} {text_of(event, 'example')}".rstrip()


def error(event: Event, _view: SiteView) -> str:
    """Return what went wrong."""
    what = text_of(event, "what")
    return f"error {what}: {text_of(event, 'message')}" if what else f"error: {text_of(event, 'message')}"


def link(event: Event, _view: SiteView) -> str:
    """Return how the connection stands."""
    state, message, again = text_of(event, "state"), text_of(event, "message"), number_of(event, "again_in")
    if state == "connected":
        return f"connected to {message}"
    if state == "refused":
        return f"not watched: {message}; {text_of(event, 'hint')}"
    return f"not connected: {message}; trying again in {span(again or 0.0)}"


def lost(event: Event, _view: SiteView) -> str:
    """Return how many lines were lost."""
    return f"{number_of(event, 'lines') or 0:,.0f} lines were lost: this watcher was too slow"


def exposure(event: Event, _view: SiteView) -> str:
    """Return where an exposure stands."""
    number = number_of(event, "detectors")
    rest = [text_of(event, key) for key in ("camera", "path", "pan")]
    rest += [f"{number:,.0f} detectors" if number else "", text_of(event, "node")]
    head = f"exposure {text_of(event, 'exposure')} {text_of(event, 'state')}"
    return ", ".join([head, *(part for part in rest if part)])


def other(event: Event, _view: SiteView) -> str:
    """Return any event as its fields."""
    fields = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("event", "at"))
    return f"{text_of(event, 'event')} {fields}".rstrip()


def nothing(_event: Event, _view: SiteView) -> str:
    """Return nothing: the event is for programs."""
    return ""


_TEXTS: dict[str, Callable[[Event, SiteView], str]] = {
    "transfer": transfer, "queue": queue, "files": files, "error": error, "link": link, "lost": lost, "alive": nothing,
    "exposure": exposure,
}  # fmt: skip
