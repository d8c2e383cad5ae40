"""Moving bytes from a reader to a writer while hashing them; the next block is read while the last is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias

from dtscore import checksums
from storage.element import BLOCK, Digest, Reader, Writer

HEAD = 288_000
"""Bytes kept from the beginning of a file: one hundred blocks of a FITS header."""

_TICK_SECONDS = 0.1

Roles: TypeAlias = tuple[AbstractContextManager[None], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Pumped:
    """Size and checksums of what went by, its first bytes, and whether it was cloned instead of copied."""

    digest: Digest
    head: bytes
    cloned: bool = False


class _Meter:
    """Hashes, counts and keeps the head of what goes by."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        self.hashers = {name: checksums.new(name) for name in algorithms}
        self.head: list[bytes] = []
        self.size = 0

    def update(self, block: memoryview) -> None:
        for hasher in self.hashers.values():
            hasher.update(block)
        if self.size < HEAD:
            self.head.append(bytes(block[: HEAD - self.size]))
        self.size += len(block)

    def result(self, *, cloned: bool = False) -> Pumped:
        values = {name: hasher.hexdigest() for name, hasher in self.hashers.items()}
        return Pumped(Digest(self.size, values), b"".join(self.head), cloned)


class Pump:
    """Moves bytes, and calls the guard and the progress some ten times a second on the way."""

    def __init__(self, guard: Callable[[], None], progress: Callable[[int], None]) -> None:
        """Keep what is called on the way."""
        self._guard = guard
        self._progress = progress
        self._last = 0.0

    def tick(self, copied: int | None = None) -> None:
        """Call the guard, and the progress if bytes were copied, unless that was a moment ago."""
        moment = time.monotonic()
        if moment - self._last >= _TICK_SECONDS:
            self._last = moment
            self._guard()
            if copied is not None:
                self._progress(copied)

    def done(self, copied: int) -> None:
        """Call the progress at the end of all bytes."""
        self._progress(copied)

    def hash(
        self, reader: Reader, algorithms: Sequence[str], size: int, *, cloned: bool = False, close: bool = True
    ) -> Pumped:
        """Read on to the end and return the digest; the guard is called, the progress is not.

        `size` is what is expected: reading stops once there is more, as then all is lost anyway.
        """
        meter = _Meter(algorithms)
        view = _buffer(size)
        try:
            while meter.size <= size and (count := reader.readinto(view)):
                meter.update(view[:count])
                self.tick()
        finally:
            if close:
                reader.close()
        return meter.result(cloned=cloned)

    def copy(self, reader: Reader, writer: Writer, algorithms: Sequence[str], size: int, roles: Roles) -> Pumped:
        """Copy all bytes; `roles` are entered around reading and writing, so that errors are told apart.

        `size` is what is expected, as in `hash`.
        """
        meter = _Meter(algorithms)
        if size <= BLOCK:
            self._copy_in_turn(reader, writer, meter, size, roles)
        else:
            self._copy_at_once(reader, writer, meter, size, roles)
        self._progress(meter.size)
        return meter.result()

    def _copy_in_turn(self, reader: Reader, writer: Writer, meter: _Meter, size: int, roles: Roles) -> None:
        at_source, at_target = roles
        buffer = _buffer(size)
        while True:
            with at_source:
                block = buffer[: reader.readinto(buffer)]
            meter.update(block)
            self.tick(meter.size)
            if not block or meter.size > size:
                return
            with at_target:
                writer.write(block)

    def _copy_at_once(self, reader: Reader, writer: Writer, meter: _Meter, size: int, roles: Roles) -> None:
        """Write one buffer by a thread while the other is filled and hashed."""
        at_source, at_target = roles
        pending: Future[None] | None = None
        with ThreadPoolExecutor(1, "dts-write") as pool:
            for buffer in cycle([_buffer(size), memoryview(bytearray(BLOCK))]):
                with at_source:
                    block = buffer[: reader.readinto(buffer)]
                meter.update(block)
                self.tick(meter.size)
                with at_target:
                    if pending is not None:
                        pending.result()
                    if not block or meter.size > size:
                        return
                    pending = pool.submit(writer.write, block)


_own = threading.local()


def _buffer(size: int) -> memoryview:
    """Return this thread's buffer: one block, or as much of it as holds the whole file and one byte more.

    It is kept, as the kernel clears each page of a new one, which for small files takes longer than copying them.
    """
    if not hasattr(_own, "block"):
        _own.block = memoryview(bytearray(BLOCK))
    block: memoryview = _own.block
    return block[: size + 1]
