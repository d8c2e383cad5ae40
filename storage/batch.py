"""Landing many small files together: each step for all of them before the next, so that they share what it costs.

What is promised for each file is what is promised for one alone. No file of a batch has landed before the names of all
are durable; an error is one file's own, unless it is met at a folder that several share.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dtscore.errors import FileMissingError, Scope, WorkError
from storage.element import ElementBatch, StorageElement
from storage.landing import Landed, Landing
from storage.roles import vanished

SMALL = 1 << 20
"""Bytes of the largest file that lands together with others."""

MANY = 50
"""Files in one batch at most: each keeps a file open."""

_PATIENCE = 1.0
"""Seconds that a batch waits for its turn at most: a disk that hangs holds up what works on it, and only that."""

_turns: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
"""What the batches between two local elements take turns by, for threads that only compute hinder each other."""

_QUIET = (Landing.open, Landing.sync)
"""Steps that do not ask the guard themselves."""

Ending = Landed | Exception | None
"""How a landing ended; None: it was not begun."""


def land_many(landings: Sequence[Landing]) -> list[Ending]:
    """Take landings from the first one on, at most `MANY`; return the ending of each, never raising an Exception.

    All have one target, and all elements give batches. The first file is always ended; what comes after the
    first that is not small, or after an outage, is not begun. `seconds` of what landed are those of all together.
    """
    if not landings:
        return []
    batch = _Batch(landings)
    try:
        batch.run()
    finally:
        batch.close()
    return [batch.endings.get(number) for number in range(len(landings))]


class _Batch:
    """Landings under way, and how the others ended."""

    def __init__(self, landings: Sequence[Landing]) -> None:
        self.landings = landings
        self.source, self.target = landings[0].source, landings[0].target
        self.endings: dict[int, Ending] = {}
        self.alive: dict[int, Landing] = {}
        self.elements: dict[str, ElementBatch] = {}

    def run(self) -> None:
        with self._turn():
            for number, landing in enumerate(self.landings[:MANY]):
                self.alive[number] = landing
                if not self._begin(number, landing):
                    break
        for element in self.elements.values():
            element.flush()
        with self._turn():
            for step in (Landing.sync, Landing.read_back, Landing.publish):
                for number in list(self.alive):
                    self._try(number, step)
        self._settle()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Between local elements let one batch work at a time, while others wait for the disk or the database."""
        if not (self.source.local and self.target.local):
            yield
            return
        lock = _turns[self.source.name, self.target.name]
        mine = lock.acquire(timeout=_PATIENCE)
        try:
            yield
        finally:
            if mine:
                lock.release()

    def _begin(self, number: int, landing: Landing) -> bool:
        """Write one file; return whether the next one is to be begun as well."""
        alone = landing.source, landing.target
        landing.source, landing.target = map(self._batch, alone)
        self._try(number, Landing.open)
        if number not in self.alive:
            return not getattr(self.endings[number], "outage", False)
        if landing.size <= SMALL:
            self._try(number, Landing.copy)
            return not getattr(self.endings.get(number), "outage", False)
        landing.source, landing.target = alone
        if number == 0:
            self._try(number, Landing.go_on)
        else:
            self.alive.pop(number).close()
        return False

    def _batch(self, element: StorageElement) -> ElementBatch:
        if element.name not in self.elements:
            self.elements[element.name] = element.batch()
        return self.elements[element.name]

    def _try(self, number: int, step: Callable[[Landing], Landed | None]) -> None:
        landing = self.alive[number]
        try:
            if step in _QUIET:
                landing.pump.tick()
            landed = step(landing)
        except Exception as error:  # one file's defect is not to be that of its neighbours: its caller is told
            self._end(number, error)
        else:
            if landed is not None:
                self._end(number, landed)

    def _end(self, number: int, ending: Ending) -> None:
        self.endings[number] = ending
        self.alive.pop(number).close()

    def _settle(self) -> None:
        """Make the names durable; what was published in a folder that cannot be has not landed."""
        for element in self.elements.values():
            for folder, error in element.settle().items():
                for number, ending in self.endings.items():
                    landing = self.landings[number]
                    if isinstance(ending, Landed) and landing.target is element and landing.folder == folder:
                        self.endings[number] = _at_target(error)

    def close(self) -> None:
        for landing in self.alive.values():
            landing.close()
        for element in self.elements.values():
            element.close()


def _at_target(error: WorkError) -> WorkError:
    if isinstance(error, FileMissingError):
        return vanished(error)
    error.scope = Scope.TARGET
    return error
