"""Signs of life: a stream on which a side has nothing to say carries a PING from time to time.

So that silence means a dead connection and not a disk that takes its time, however long that is.
"""

from __future__ import annotations

import threading
import time

from dtsnet.frames import Stream


class Pulse:
    """One thread that looks after all the streams of one side of a session; it runs while there are any."""

    def __init__(self) -> None:
        """Begin without streams and without a thread."""
        self._streams: set[Stream] = set()
        self._changed = threading.Condition()
        self._running = False

    def add(self, stream: Stream) -> None:
        """Look after a stream."""
        with self._changed:
            self._streams.add(stream)
            self._changed.notify()
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def remove(self, stream: Stream) -> None:
        """Let a stream go, before it is closed."""
        with self._changed:
            self._streams.discard(stream)
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._streams:
                quiet = time.monotonic()
                for stream in self._streams:
                    if stream.said_at < quiet - stream.idle / 4:
                        stream.ping()
                self._changed.wait(min(stream.idle for stream in self._streams) / 4)
            self._running = False
