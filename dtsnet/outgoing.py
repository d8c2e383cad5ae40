"""The files that a sender sends: opened once, cut into pieces, their checksums collected as they go."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dtscore.errors import DtsError, SourceChangedError
from dtsnet.frames import BLOCK, LONGEST_CHUNK, PAGE
from dtsnet.sums import ChunkSum, RunningSum, combine

_MOST_PIECES = 65_536
_LEAST_HOLE = 64 * 1024
"""Zeros that are not stored travel as a hole from so many bytes on."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file to send: its name at the receiver, and how to open it for reading (returns a descriptor).

    `overwrite`: it replaces what has its name there. `folder`: only a folder of this name is made, `open` is not used.
    """

    path: str
    open: Callable[[], int]
    overwrite: bool = False
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """How a file ended: its size and checksums where it landed, else the error's class, message and hint.

    `resumed` bytes were there already: of an attempt before, or since the same file was.
    """

    path: str
    size: int
    checksums: Mapping[str, str]
    resumed: int = 0
    error_class: str = ""
    message: str = ""
    hint: str = ""


class SendingFile:
    """A file on its way."""

    def __init__(self, number: int, outgoing: Outgoing) -> None:
        """Open the file and see how large it is; raises OSError."""
        self.number = number
        self.outgoing = outgoing
        self.resumed = 0
        self.damaged = 0
        self.anyway = False
        self.failure: DtsError | None = None
        self.there: Mapping[str, Any] = {}
        self.held: dict[int, ChunkSum] = {}
        self._sums: dict[int, ChunkSum] = {}
        self._lock = threading.Lock()
        self._users = 0
        self._ended = False
        self._descriptor = -1 if outgoing.folder else outgoing.open()
        self._stamp = (0, 0, 0, 0) if outgoing.folder else _stamp(self._descriptor)
        self.size = self._stamp[0]
        self.stored = 0 if outgoing.folder else os.fstat(self._descriptor).st_blocks * 512
        self._left = self.size
        self._data_until = 0

    def description(self) -> dict[str, Any]:
        """Return what the receiver is told first."""
        digest = hashlib.blake2b(repr(self._stamp).encode(), digest_size=8).digest()
        return {
            "path": self.outgoing.path, "size": self.size, "stored": self.stored,
            "identity": int.from_bytes(digest, "big"), "overwrite": self.outgoing.overwrite,
            "folder": self.outgoing.folder,
        }  # fmt: skip

    def open(self) -> int:
        """Return a descriptor that stays open until `let_go`, -1 where the file has ended. Raises OSError.

        Raises SourceChangedError where the file was closed since, and is another one now.
        """
        with self._lock:
            if self._ended:
                return -1
            if self._descriptor < 0:
                self._descriptor = self.outgoing.open()
                if _stamp(self._descriptor) != self._stamp:
                    raise SourceChangedError(f"{self.outgoing.path!r} changed", "submit files only when complete")
            self._users += 1
            return self._descriptor

    def let_go(self, *, close: bool = False) -> None:
        """End one use; the last one closes the file where it has ended, or if `close` and it can be opened again."""
        with self._lock:
            self._users -= 1
            if not self._users and (self._ended or close):
                self._close()

    def end(self) -> None:
        """The file has landed or will not: it is closed as soon as nobody reads it."""
        with self._lock:
            self._ended = True
            if not self._users:
                self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def unchanged(self) -> bool:
        """Whether an open file is still what it was at the beginning."""
        return _stamp(self._descriptor) == self._stamp

    def pieces(self, chunk: Callable[[], int]) -> Iterator[tuple[int, int, bool]]:
        """Yield offset, length and whether it is a hole of all that is to be sent; `chunk` says how long pieces are.

        What the receiver holds already is a piece for itself. Used by one thread at a time.
        """
        marks = sorted(self.held)
        least = -(-self.size // _MOST_PIECES // PAGE) * PAGE
        offset, mark = 0, 0
        while offset < self.size:
            while mark < len(marks) and marks[mark] < offset:
                mark += 1
            if mark < len(marks) and marks[mark] == offset:
                length, hole = self.held[offset].length, False
            else:
                end = marks[mark] if mark < len(marks) else self.size
                length, hole = self._stretch(offset, min(end, self.size), max(least, chunk()))
            yield offset, length, hole
            offset += length

    def _stretch(self, offset: int, end: int, chunk: int) -> tuple[int, bool]:
        """Return how long the next piece is, and whether it is a hole, in whole pages unless it reaches to the end."""
        if offset >= self._data_until:
            data = self._seek(offset, os.SEEK_DATA)
            if data >= end:
                return end - offset, True
            if (hole := (data - offset) // PAGE * PAGE) >= _LEAST_HOLE:
                return hole, True
            # Asked once for each stretch of data: tmpfs looks at every page up to the next hole.
            self._data_until = -(-self._seek(data, os.SEEK_HOLE) // PAGE) * PAGE
        next_hole = self._data_until
        limit = min(chunk, LONGEST_CHUNK)
        return min(end - offset, limit, max(next_hole - offset, _LEAST_HOLE)), False

    def _seek(self, offset: int, what: int) -> int:
        with self._lock:
            if self._descriptor < 0:
                return self.size
            try:
                return os.lseek(self._descriptor, offset, what)
            except OSError as error:
                # ENXIO: nothing but a hole up to the end. Else nobody knows of holes here, and all of it is data.
                return self.size if error.errno == errno.ENXIO or what == os.SEEK_HOLE else offset

    def note(self, chunk: ChunkSum) -> None:
        """Keep the checksums of a piece that was read."""
        with self._lock:
            self._sums[chunk.offset] = chunk

    def confirm(self, length: int) -> bool:
        """Keep that so many bytes are there, once for each piece; whether these were the last."""
        with self._lock:
            self._left -= length
            return not self._left

    def checksums(self) -> dict[str, str]:
        """Return the checksums of the whole file; raises ValueError while pieces are missing."""
        with self._lock:
            return combine(list(self._sums.values()))


def _stamp(descriptor: int) -> tuple[int, int, int, int]:
    """Return what changes when a file does: size, time of change (ns), inode, device."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def read_sum(descriptor: int, offset: int, length: int, buffer: memoryview) -> ChunkSum:
    """Return the checksums of a stretch of a file, shorter where the file ends; raises OSError."""
    running = RunningSum(offset)
    while running.length < length:
        wanted = min(BLOCK, len(buffer), length - running.length)
        count = os.preadv(descriptor, [buffer[:wanted]], offset + running.length)
        if not count:
            break
        running.add(buffer[:count])
    return running.sum()
