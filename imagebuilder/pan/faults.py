"""What a simulated PAN does wrong on purpose: it drops connections, crawls, corrupts blocks, dies in mid-frame."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dtscore.errors import DtsError
from imagebuilder import wire
from imagebuilder.pan.client import PanClient
from imagebuilder.pan.link import Identity, Link, Take
from imagebuilder.wire import Buffer, Kind


@dataclass(frozen=True, slots=True)
class Faults:
    """How often things go wrong: the chance of a drop or a corruption for each block, of a death for each exposure.

    `rate` in bytes a second is how fast a PAN sends at most (0: as fast as it can); a dead PAN comes back after `late`
    seconds with all its pixels (0: never).
    """

    drop: float = 0.0
    corrupt: float = 0.0
    die: float = 0.0
    rate: float = 0.0
    late: float = 0.0


NO_FAULTS = Faults()


class PanDiedError(DtsError):
    """The simulated PAN is dead in the middle of a frame."""


class FaultyLink(Link):
    """A connection that goes wrong as its client wishes."""

    def __init__(
        self, owner: FaultyClient, address: tuple[str, int], identity: Identity, take: Take, timeout: float
    ) -> None:
        """Connect for a client that says what goes wrong."""
        self._owner = owner
        super().__init__(address, identity, take, timeout)

    def send(self, kind: Kind, body: Mapping[str, object] | None = None, data: Buffer = b"") -> int:
        """Send a frame, or what becomes of it."""
        fault = self._owner.next_fault(len(data)) if kind is Kind.BLOCK else ""
        if not fault:
            return super().send(kind, body, data)
        number, self._sequence = self._sequence, self._sequence + 1
        head, content = wire.head(kind, number, body, data), bytearray(data)
        if fault == "corrupt":
            content[len(content) // 2] ^= 0x10
            self._transmit([memoryview(head), memoryview(content)])
            return number
        self._transmit([memoryview(head), memoryview(content)[: len(content) // 2]])
        if fault == "die":
            self._close()
            raise PanDiedError("the PAN dies, as it was asked to")
        raise self._lost("dropped on purpose")


class FaultyClient(PanClient):
    """A PAN whose blocks go wrong by chance, the same for the same seed; `death` is the block at which it dies."""

    faults = NO_FAULTS
    chance = random.Random(0)
    death = -1
    blocks = 0
    struck = 0

    def connect(self, address: tuple[str, int]) -> Link:
        """Connect to a supervisor or node."""
        return FaultyLink(self, address, self._identity, self._take, self._timeout)

    def next_fault(self, size: int) -> str:
        """Return what happens to the next block of so many bytes: nothing, drop, corrupt or die."""
        self.blocks += 1
        if self.faults.rate:
            time.sleep(size / self.faults.rate)
        if self.blocks == self.death:
            return "die"
        drawn = self.chance.random()
        fault = "drop" if drawn < self.faults.drop else ""
        if not fault and drawn < self.faults.drop + self.faults.corrupt:
            fault = "corrupt"
        self.struck += bool(fault)
        return fault
