"""Files of a `dts` element as they are read: the beginning by a call, the rest in order out of striped connections."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from dtscore import linux
from dtscore.errors import DtsError, ElementUnavailableError, StorageFaultError, TransferCorruptedError
from dtsnet.arriving import Description, Standing
from dtsnet.carriage import carried_from
from dtsnet.fetching import Reception
from dtsnet.journal import Journal
from dtsnet.sums import ChunkSum, RunningSum, combine, sum_of
from storage.element import FileStat

if TYPE_CHECKING:
    from storage.dts import DtsElement

FIRST = 288 * 1024
"""Bytes that come with the call that opens a file: one hundred blocks of a FITS header."""

SMALL = 1 << 20
"""Bytes up to which a file comes by calls alone."""

_WINDOW = 48 << 20
"""Bytes that may have come and wait to be read, unless what is read next has not come yet."""


class _Notes(Journal):
    """In place of a journal: tells a window which pieces have come, and remembers nothing."""

    def __init__(self, came: Callable[[ChunkSum], None]) -> None:
        self._came = came

    def entries(self) -> list[ChunkSum]:
        """Nothing was here before."""
        return []

    def note(self, chunk: ChunkSum) -> None:
        """Take note of bytes that have come whole and right."""
        self._came(chunk)

    def close(self) -> None:
        """Nothing is open."""
        return None


class Window:
    """What has come of one file and was not read yet, in memory that is given back behind the reader."""

    def __init__(self, done: int) -> None:
        """Begin empty; `done` bytes at the beginning are not wanted."""
        self.journal: Journal = _Notes(self._note)
        self.whole: Mapping[str, str] = {}
        self._descriptor = os.memfd_create("dts-window", os.MFD_CLOEXEC)
        self._came: dict[int, int] = {}
        self._ready = 0
        self._done = done
        self._starving = False
        self._over = False
        self._changed = threading.Condition()

    # what the receiver asks for

    def write(self, view: memoryview, offset: int) -> None:
        """Keep bytes; waits while too much waits to be read."""
        ahead = offset + len(view) - _WINDOW
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._starving or self._done >= ahead)
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], offset + written)

    def read(self, length: int, offset: int) -> bytes:
        """Return bytes that came."""
        return os.pread(self._descriptor, length, offset)

    def clear(self, offset: int, length: int) -> None:
        """Nothing was written there: memory that was not is zero."""
        with self._changed:
            self._came[offset] = offset + length
        self._tell()

    def _note(self, chunk: ChunkSum) -> None:
        with self._changed:
            self._came[chunk.offset] = chunk.offset + chunk.length
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            while (end := self._came.pop(self._ready, None)) is not None:
                self._ready = end
            self._changed.notify_all()

    def publish(self, checksums: Mapping[str, str]) -> None:
        """All is there, and has these checksums."""
        with self._changed:
            self.whole = dict(checksums)
            self._changed.notify_all()

    def discard(self) -> None:
        """Nothing is kept anyway."""
        return None

    def close(self) -> None:
        """The connections let go; what came can still be read."""
        return None

    # what the reader asks for

    def take(self, buffer: memoryview, seconds: float) -> int | None:
        """Fill the buffer with what comes next; None where nothing came for so long."""
        with self._changed:
            self._starving = self._ready <= self._done
            if self._starving:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._ready > self._done or bool(self.whole), seconds)
                self._starving = False
            count = min(len(buffer), self._ready - self._done)
        if count <= 0:
            return 0 if self.whole else None
        count = os.preadv(self._descriptor, [buffer[:count]], self._done)
        linux.punch(self._descriptor, self._done, count)
        with self._changed:
            self._done += count
            self._changed.notify_all()
        return count

    def begin(self, size: int) -> None:
        """The file has so many bytes."""
        os.ftruncate(self._descriptor, size)

    def free(self) -> None:
        """Let those go who wait to write."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def __del__(self) -> None:
        """Give the memory back when no connection writes into it any more."""
        with suppress(OSError):
            os.close(self._descriptor)


class OneFile:
    """A target that takes one file, into a window."""

    def __init__(self, window: Window) -> None:
        """Keep the window."""
        self._window = window

    def standing(self, description: Description) -> Standing | None:
        """Nothing stands there."""
        return None

    def accept(self, description: Description, there: Standing) -> None:
        """Nothing stands there."""
        return None

    def begin(self, description: Description) -> Window:
        """Take the file."""
        self._window.begin(description.size)
        return self._window

    def land(self, files: Sequence[tuple[Description, memoryview]]) -> list[DtsError | None]:
        """Take the file, which has become small."""
        for description, content in files:
            self._window.begin(description.size)
            self._window.write(content, 0)
            self._window.journal.note(ChunkSum(0, len(content), 0, 0))
            self._window.publish(combine([sum_of(content, 0)]))
        return [None] * len(files)


class DtsReader:
    """A file of a `dts` element open for reading."""

    def __init__(self, element: DtsElement, path: str, first: bytes, found: FileStat) -> None:
        """Keep what the opening call has brought."""
        self.element = element
        self.path = path
        self.first = first
        self.found = found
        self._done = 0
        self._window: Window | None = None
        self._reception: Reception | None = None
        self._job: tuple[int, str] = (0, "")
        self._sum = RunningSum(0)

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer's beginning with the next bytes."""
        if self._done < len(self.first):
            data = memoryview(self.first)[self._done : self._done + len(buffer)]
        elif self._done >= self.found.size and self._window is None:
            return 0
        elif self.found.size <= SMALL:
            data = memoryview(self.element.read_some(self.path, self._done, min(len(buffer), SMALL))[0])
        else:
            return self._from_streams(buffer)
        buffer[: len(data)] = data
        self._sum.add(data)
        self._done += len(data)
        return len(data)

    def _from_streams(self, buffer: memoryview) -> int:
        if self._window is None:
            self._window = Window(self._done)
            self._reception = Reception(OneFile(self._window))
            self._job = self.element.pull_into(self._reception, self.path)
        until = time.monotonic() + self.element.idle
        while (count := self._window.take(buffer, 0.25)) is None:
            if self._reception is not None and self._reception.ended.is_set() and not self._window.whole:
                raise self._failure()
            if time.monotonic() > until:
                what = f"element {self.element.name!r}: reading {self.path!r}: nothing came for too long"
                raise ElementUnavailableError(what, "see the daemon there", element=self.element.name)
        if not count and combine([self._sum.sum()]) != self._window.whole:
            name = self.element.name
            what = f"element {name!r}: {self.path!r}: other bytes were read than its site has sent"
            raise TransferCorruptedError(what, "if this comes again, have the memory checked", element=name)
        self._sum.add(buffer[:count])
        self._done += count
        return count

    def _failure(self) -> DtsError:
        """Return why the sender has ended without the whole file: it says so itself."""
        for one in self.element.end_transfer(*self._job)["results"]:
            if (error := carried_from(one).error) is not None:
                return self.element.mapped(error)
        what = f"element {self.element.name!r}: {self.path!r} ended before its end"
        return StorageFaultError(what, "see the daemon there", element=self.element.name)

    def stat(self) -> FileStat:
        """Return size, time and identity of the file as they are now."""
        return self.element.stat(self.path)

    def close(self) -> None:
        """Let go of the connections; never raises."""
        window, reception = self._window, self._reception
        self._window = self._reception = None
        if window is not None:
            window.free()
        if reception is not None:
            reception.close()
            self.element.forget(*self._job)
