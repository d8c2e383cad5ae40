"""Equal shares: who has received more than another whose pixels wait to be read gives way before the next block.

The kernel and the interpreter alone share out time as they like: of five PANs on two CPUs one could be a fifth ahead.
A PAN that is slow by itself has no bytes waiting, and holds nobody up.
"""

from __future__ import annotations

import fcntl
import struct
import termios
import threading
import time
from dataclasses import dataclass

_PAUSE = 0.002
_LONGEST = 0.5
"""Seconds that a block gives way at most: nobody stands still because another's thread hangs."""
_FORGET = 1.0
"""Seconds without a block after which a connection has no claim on what others got meanwhile."""


@dataclass(slots=True, eq=False)
class Share:
    """What one connection got, in bytes; `descriptor` is its socket's."""

    descriptor: int
    got: int = 0
    at: float = float("-inf")

    def waiting(self) -> bool:
        """Whether bytes wait in the socket to be read."""
        raw = fcntl.ioctl(self.descriptor, termios.FIONREAD, b"\0\0\0\0")
        return bool(struct.unpack("i", raw)[0])


class Shares:
    """The shares of all connections of a node; any thread may call."""

    def __init__(self) -> None:
        """Begin with no connection."""
        self._changed = threading.Condition()
        self._shares: set[Share] = set()

    def enter(self, share: Share) -> None:
        """Take part."""
        with self._changed:
            self._shares.add(share)

    def leave(self, share: Share) -> None:
        """Take part no more; to be called before the socket is closed."""
        with self._changed:
            self._shares.discard(share)
            self._changed.notify_all()

    def turn(self, share: Share, size: int) -> None:
        """Wait until a block of `size` bytes may be read, then count it."""
        now = time.monotonic()
        deadline = now + _LONGEST
        with self._changed:
            if now - share.at > _FORGET:
                others = [one.got for one in self._shares if one is not share and now - one.at <= _FORGET]
                share.got = max(share.got, min(others, default=0))
            while self._ahead(share, size) and time.monotonic() < deadline:
                self._changed.wait(_PAUSE)
            share.got += size
            share.at = time.monotonic()
            self._changed.notify_all()

    def _ahead(self, share: Share, size: int) -> bool:
        return any(one.got + size <= share.got and one.waiting() for one in self._shares if one is not share)
