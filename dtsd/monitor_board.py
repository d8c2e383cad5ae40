"""What is known of a site just now, and the watchers who are told: nobody who tells ever waits for one who watches."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence

from dtscore.monitoring import Field, line

BUFFER = 1024 * 1024
"""Bytes of lines that are kept for a watcher who is behind."""

_MOST_KNOWN = 1024
_FORGOTTEN = 120.0
"""Seconds after which a transfer of which nothing more was heard is no longer told to who comes."""

KEYS = {"transfer": "number", "queue": "name", "site": "name"}
"""Events that say how something stands, and the field that names it; others only happen."""

_ENDED = ("done", "failed", "cancelled", "gone")


class Buffer:
    """Lines for one watcher, at most so many bytes: of one who is behind the oldest are dropped and counted."""

    def __init__(self, lines: Sequence[bytes] = (), most: int = BUFFER) -> None:
        """Begin with lines that are to be sent first."""
        self._most = most
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._changed = threading.Condition()
        self.closed = False
        for one in lines:
            self.put(one)

    def put(self, one: bytes) -> None:
        """Take a line; never waits for the watcher."""
        with self._changed:
            self._lines.append(one)
            self._bytes += len(one) + 1
            while self._bytes > self._most:
                self._bytes -= len(self._lines.popleft()) + 1
                self._lost += 1
            self._changed.notify()

    def take(self, seconds: float, most: int = 65536) -> bytes:
        """Wait for lines and return some, each with its line feed; how many were lost comes first.

        Returns nothing when none came in so many seconds, or the buffer was closed and is empty.
        """
        with self._changed:
            if not self._lines and not self.closed:
                self._changed.wait(seconds)
            taken, size = [], 0
            if self._lost:
                taken.append(line("lost", {"lines": self._lost}))
                self._lost = 0
            while self._lines and (not taken or size + len(self._lines[0]) < most):
                one = self._lines.popleft()
                size += len(one) + 1
                taken.append(one)
            self._bytes -= size
        return b"".join(one + b"\n" for one in taken)

    def close(self) -> None:
        """Wake whoever waits; what is kept can still be taken."""
        with self._changed:
            self.closed = True
            self._changed.notify()


class Again:
    """Says now and then that what stands still is to be told once more, so that nobody takes it for gone."""

    def __init__(self, every: float = _FORGOTTEN / 4) -> None:
        """`every` in seconds."""
        self._every = every
        self._at = time.monotonic()

    def __call__(self) -> bool:
        """Whether it is time."""
        if time.monotonic() - self._at < self._every:
            return False
        self._at = time.monotonic()
        return True


class Board:
    """The latest of each transfer and queue, and the buffers of all watchers."""

    def __init__(self) -> None:
        """Begin with nothing known and nobody watching."""
        self._lock = threading.Lock()
        self._buffers: tuple[Buffer, ...] = ()
        self._known: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()

    @property
    def watched(self) -> bool:
        """Whether anybody watches: what costs a look is told only then."""
        return bool(self._buffers)

    def tell(self, event: str, **fields: Field) -> None:
        """Tell all watchers of an event with the fields of `dtscore.monitoring.say`; never waits.

        Raises ValueError and TypeError for what is no event.
        """
        self.pass_on(event, fields.get(KEYS.get(event, "")), fields.get("state"), line(event, fields))

    def pass_on(self, event: str, key: object, state: object, told: bytes) -> None:
        """Hand a line to all watchers; keep it for those who come, where it says how something stands."""
        with self._lock:
            if event in KEYS and key is not None:
                self._keep((event, str(key)), None if state in _ENDED else told)
            for buffer in self._buffers:
                buffer.put(told)

    def _keep(self, key: tuple[str, str], told: bytes | None) -> None:
        self._known.pop(key, None)
        if told is not None:
            self._known[key] = (time.monotonic(), told)
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)

    def attach(self, buffer_bytes: int = BUFFER) -> Buffer:
        """Return the buffer of a new watcher, with what is known just now."""
        with self._lock:
            buffer = Buffer(self._known_now(), buffer_bytes)
            self._buffers = (*self._buffers, buffer)
        return buffer

    def _known_now(self) -> list[bytes]:
        old = time.monotonic() - _FORGOTTEN
        for key in [key for key, (at, _) in self._known.items() if key[0] == "transfer" and at < old]:
            del self._known[key]
        return [told for _, told in self._known.values()]

    def detach(self, buffer: Buffer) -> None:
        """Forget a watcher."""
        with self._lock:
            self._buffers = tuple(one for one in self._buffers if one is not buffer)
        buffer.close()
