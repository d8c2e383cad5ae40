"""Read the catalog as users and agents do, again and again, and say how long each call took."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from benchmarks.children import serve
from catalog import store
from dtscore.database import Database

_CALLS = 10


def quantile(values: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Reader:
    """Reads a catalog of so many files that `benchmarks.stage.fill_catalog` has filled; always in the same order."""

    def __init__(self, url: str, files: int, calls: int) -> None:
        """Connect, and warm up what an agent has warm."""
        self._database, self._files, self._calls = Database(url), files, calls
        self._chance = random.Random(1)
        self._one(20)

    def work(self) -> dict[str, Any]:
        """Return the seconds of each kind of call."""
        one = self._one(self._calls)
        return {
            "one": quantile(one, 0.99), "one_median": statistics.median(one),
            "thousand": statistics.median(self._thousand()), "listing": statistics.median(self._listing()),
            "search": statistics.median(self._search()),
        }  # fmt: skip

    def _one(self, calls: int) -> list[float]:
        return self._timed([lambda connection: store.lookup(connection, self._lfns(1))] * calls, 1)

    def _thousand(self) -> list[float]:
        chosen = [self._lfns(min(1000, self._files)) for _ in range(_CALLS)]
        return self._timed([partial(store.lookup, lfns=lfns) for lfns in chosen], len(chosen[0]))

    def _listing(self) -> list[float]:
        def ask(connection: Connection) -> Any:
            folder = f"/sky/{self._chance.randrange(max(1, self._files // 1000)):04d}"
            return store.list_folder(connection, folder).entries

        return self._timed([ask] * _CALLS, min(1000, self._files))

    def _search(self) -> list[float]:
        wanted = "night = 2026-01-02 and filter = 'g'"
        expected = min(100, max(1, self._files // 5000))
        return self._timed([lambda connection: store.find(connection, wanted, 100)] * _CALLS, expected)

    def _lfns(self, count: int) -> list[str]:
        return [f"/sky/{n // 1000:04d}/{n:08d}.fits" for n in self._chance.sample(range(self._files), count)]

    def _timed(self, asks: Sequence[Callable[[Connection], Any]], expected: int) -> list[float]:
        """Return the seconds of each call; RuntimeError where it finds another number than expected."""
        seconds = []
        for ask in asks:
            begun = time.monotonic()
            with self._database.read() as connection:
                found = ask(connection)
            seconds.append(time.monotonic() - begun)
            if len(found) != expected:
                raise RuntimeError(f"{len(found)} found, {expected} expected")
        return seconds


def main(url: str, files: str, calls: str) -> None:
    """Look at the catalog at `url`, `calls` times for one file."""
    serve(Reader(url, int(files), int(calls)).work)


if __name__ == "__main__":
    main(*sys.argv[1:])
