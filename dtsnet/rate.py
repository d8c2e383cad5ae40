"""A limit on bytes a second, shared by all that hold it: a transfer, a queue, a site."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

_BURST = 0.1
"""Seconds' worth of bytes that may go at once after a pause."""


class Rate:
    """Lets so many bytes a second pass; 0: no limit. The number may be changed while it is in use."""

    def __init__(self, bytes_per_second: float) -> None:
        """Begin with nothing owed."""
        self.bytes_per_second = bytes_per_second
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def book(self, count: int) -> float:
        """Book `count` bytes; return from when on (monotonic seconds) they may pass."""
        now = time.monotonic()
        if self.bytes_per_second <= 0:
            return now
        with self._lock:
            begin = max(self._free_at, now - _BURST)
            self._free_at = begin + count / self.bytes_per_second
        return begin


def pace(rates: Sequence[Rate]) -> Callable[[int], None] | None:
    """Return what waits until all of the rates let so many bytes pass; None where nothing limits."""
    if not rates:
        return None

    def wait(count: int) -> None:
        begin = max(rate.book(count) for rate in rates)
        pause = begin - time.monotonic()
        if pause > 0:
            time.sleep(pause)

    return wait
