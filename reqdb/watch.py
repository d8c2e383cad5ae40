"""Following a request until it ends: read, smooth the rates, show, wait, again."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError
from reqdb.progress import progress, time_left
from reqdb.states import ENDED, State
from reqdb.views import Counts, Progress

_MEMORY_SECONDS = 15.0
_DONE, _FAILED, _PARTLY = 0, 1, 3


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown at once: where the request stands, with smoothed rates, and for how long (s) nothing has moved."""

    progress: Progress
    still: float
    ended: bool


class Display(Protocol):
    """Somewhere to show frames: a terminal, lines of text, lines of JSON."""

    def show(self, frame: Frame) -> None:
        """Show a frame; the last one has `ended` set, unless the watch is broken off."""

    def away(self, message: str) -> None:
        """Say that the database cannot be read just now; the watch goes on."""

    def close(self) -> None:
        """Leave what was shown last."""


class Smoother:
    """A rate that forgets: an exponential mean over the last quarter of a minute, right from its first value on."""

    def __init__(self, memory: float = _MEMORY_SECONDS) -> None:
        """Begin with nothing known; `memory` is the time constant in seconds."""
        self._memory = memory
        self._rate = 0.0
        self._weight = 0.0
        self._last: tuple[float, float] | None = None

    def update(self, at: float, position: float) -> float | None:
        """Take a position at a moment of the monotonic clock (s); return the rate (1/s), None if nothing moves.

        A position that falls, as when an attempt at a file failed, counts as standing still.
        """
        if self._last is not None and at > self._last[0]:
            seconds = at - self._last[0]
            share = 1.0 - math.exp(-seconds / self._memory)
            self._rate += share * (max(0.0, position - self._last[1]) / seconds - self._rate)
            self._weight += share * (1.0 - self._weight)
        if self._last is None or at > self._last[0]:
            self._last = (at, position)
        rate = self._rate / self._weight if self._weight else 0.0
        return rate if rate > 1e-6 else None


class _Rates:
    """Replaces the mean rates of a progress by smoothed ones, and knows when it last moved."""

    def __init__(self) -> None:
        self._files = Smoother()
        self._bytes = Smoother()
        self._seen: object = None
        self._moved_at = 0.0

    def frame(self, at: float, now: Progress) -> Frame:
        ended = State(now.state) in ENDED
        position = now.bytes_done + now.bytes_in_flight
        files = self._files.update(at, now.counts.ended)
        size = self._bytes.update(at, position)
        seen = (now.state, now.counts, position)
        if seen != self._seen:
            self._seen, self._moved_at = seen, at
        if not ended:
            left = None if now.percent_bytes is None else now.bytes_total - position
            eta = time_left(now.counts, left, files, size)
            now = dataclasses.replace(now, files_per_second=files, bytes_per_second=size, eta=eta)
        return Frame(now, at - self._moved_at, ended)


def watch(
    database: Database,
    request_id: int,
    display: Display,
    *,
    interval: float = 0.5,
    timeout: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int | None:
    """Show a request on `display` until it ends; return its exit code, None when `timeout` seconds passed first.

    Reads once each `interval` seconds and never writes. A database that is away once the watch has begun is waited
    for. Raises NotFoundError, and DatabaseUnavailableError when the first read fails.
    """
    started = clock()
    rates = _Rates()
    frame: Frame | None = None
    try:
        while True:
            try:
                with database.read() as connection:
                    now = progress(connection, request_id)
                frame = rates.frame(clock(), now)
                display.show(frame)
            except DatabaseUnavailableError as error:
                if frame is None:
                    raise
                display.away(error.message)
            if frame.ended:
                return exit_code(frame.progress.counts)
            left = math.inf if timeout is None else timeout - (clock() - started)
            if left <= 0:
                return None
            sleep(min(interval, left))
    finally:
        display.close()


def exit_code(counts: Counts) -> int:
    """Return the exit code of an ended request: 0 all Done, 1 nothing Done, 3 partly Done."""
    if counts.done == counts.total:
        return _DONE
    return _PARTLY if counts.done else _FAILED
