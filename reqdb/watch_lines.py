"""Following a request in a pipe: lines of text for people and logs, lines of JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from dtscore.output import cell, note, print_json
from dtscore.units import show_size
from reqdb.scene import files_word, span
from reqdb.views import Counts, Failure, Progress
from reqdb.watch import Frame

STILL_SECONDS = 15.0
"""A request that has not moved for so long is pointed out."""


class _Paced:
    """Lets a frame by when it is the first or last, or has moved and the last one was shown long enough ago."""

    def __init__(self, every: float, clock: Callable[[], float]) -> None:
        self._every = every
        self._clock = clock
        self._shown: tuple[float, Frame] | None = None
        self._away = False

    def show(self, frame: Frame) -> None:
        """Show the frame if it is its turn."""
        if self._away:
            self._away = False
            note("the database is back")
        at = self._clock()
        if frame.ended or self._is_due(at, frame):
            self._shown = (at, frame)
            self.write(frame)

    def _is_due(self, at: float, frame: Frame) -> bool:
        if self._shown is None:
            return True
        shown_at, shown = self._shown
        return at - shown_at >= self._every and _position(frame) != _position(shown)

    def write(self, frame: Frame) -> None:
        """Write a frame."""
        raise NotImplementedError

    def away(self, message: str) -> None:
        """Say once that the database is away."""
        if not self._away:
            self._away = True
            note(f"{message}; still trying")

    def close(self) -> None:
        """Nothing is left open."""


def _position(frame: Frame) -> object:
    now = frame.progress
    return (now.state, now.counts, now.bytes_done + now.bytes_in_flight)


class JsonLines(_Paced):
    """One JSON object for each change, at most one each `every` seconds: a Progress."""

    def __init__(self, every: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing shown."""
        super().__init__(every, clock)

    def write(self, frame: Frame) -> None:
        """Print the progress on one line."""
        print_json(frame.progress, lines=True)


class TextLines(_Paced):
    """One line for each change, at most one each `every` seconds, and one for each new reason of failure."""

    def __init__(self, every: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing shown."""
        super().__init__(every, clock)
        self._told: set[tuple[str, str]] = set()

    def write(self, frame: Frame) -> None:
        """Print the line, and the reasons not yet told."""
        now = frame.progress
        moment = f"{now.at:%H:%M:%S}Z"
        for failure in now.failures:
            if (failure.error_class, failure.error) not in self._told:
                self._told.add((failure.error_class, failure.error))
                click.echo(f"{moment} failed: {failure_text(failure)}")
        click.echo(f"{moment} {closing(now) if frame.ended else summary(now)}")


def summary(now: Progress) -> str:
    """Return where a request stands, in one line."""
    parts = [f"{now.percent_files:.1f} % ({now.counts.done:,} of {files_word(now.counts.total)})", volume(now)]
    if now.bytes_per_second:
        parts.append(f"{show_size(now.bytes_per_second)}/s")
    parts.append(f"{span(now.eta)} left" if now.eta is not None else "")
    parts.append(states(now.counts))
    return f"request {now.request_id} {now.state}: {', '.join(part for part in parts if part)}"


def volume(now: Progress) -> str:
    """Return the bytes done so far, and in all where that is known: `1.5 GiB of 3 GiB`."""
    so_far = now.bytes_done + now.bytes_in_flight
    if now.percent_bytes is None or not now.bytes_total:
        return show_size(so_far) if so_far else ""
    return f"{show_size(so_far)} of {show_size(now.bytes_total)}"


def states(counts: Counts) -> str:
    """Return the states other than Done that files are in: `3 Running, 12 ToDo, 1 Failed`."""
    named = {
        "Running": counts.running, "ToDo": counts.todo, "Queued": counts.queued,
        "Failed": counts.failed, "Cancelled": counts.cancelled,
    }  # fmt: skip
    return ", ".join(f"{number:,} {name}" for name, number in named.items() if number)


def closing(now: Progress) -> str:
    """Return how a request ended, and what to do if it did not end well."""
    counts = now.counts
    text = f"request {now.request_id} {now.state}: {counts.done:,} of {files_word(counts.total)} Done"
    rest = states(counts)
    text += f", {rest}" if rest else ""
    text += f"; {show_size(now.bytes_done)}" if now.bytes_done else ""
    text += f" ({show_size(now.bytes_per_second)}/s)" if now.bytes_per_second else ""
    if counts.done == counts.total:
        return text
    return f"{text}; why: dts-request explain {now.request_id}; again: dts-request retry {now.request_id}"


def failure_text(failure: Failure) -> str:
    """Return a reason of failure in one line: how many files, why, and one of them."""
    target = f" → {failure.target}" if failure.target else ""
    return cell(f"{files_word(failure.count)}: {failure.error} [{failure.error_class}] as {failure.lfn}{target}")
