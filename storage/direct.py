"""Writing a large file past the page cache, and reading it back from the device while it is still being written.

Reading back after the last byte is written costs as much time again as writing. Here a block is read back as soon as
the device has taken it, while the next ones are on their way: O_DIRECT, so that the bytes come from the device and
not from what the kernel remembers of them, and neither way takes the processor's time.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from dtscore import checksums, linux
from storage.element import Digest, Reader
from storage.file import FileWriter, sync_file
from storage.mapping import work_error

FROM = 64 << 20
"""Files of this size and larger, in bytes, are written so."""

ALGORITHM = "xxh3-128"
_BUFFER = 4 << 20
_BUFFERS = 4
_SECTOR = 4096
_NOT_OFFERED = frozenset({errno.EINVAL, errno.EOPNOTSUPP})


class _Worker:
    """A thread that works on the items of its queue and then lets go of each; the first error ends the work."""

    def __init__(self, name: str, work: Callable[[int, int], None], let_go: Callable[[int], object]) -> None:
        self._work = work
        self._let_go = let_go
        self._items: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self.error: Exception | None = None
        self._thread.start()

    def put(self, first: int, second: int) -> None:
        self._items.put((first, second))

    def join(self) -> None:
        self._items.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            try:
                if self.error is None:
                    self._work(*item)
            except Exception as error:  # raised again by whoever writes
                self.error = error
            finally:
                self._let_go(item[0])


class DirectWriter(FileWriter):
    """A new large file open for writing. What is written goes to one thread, and behind it another reads it back."""

    def __init__(self, element: str, path: str, descriptor: int, size: int) -> None:
        """Take over a descriptor that was opened for reading too; where it can not be direct, it is a plain writer."""
        super().__init__(element, path, descriptor, size)
        self._direct = _set_direct(descriptor, on=True)
        self._current = self._filled = self._begin = 0
        self._free: SimpleQueue[int] = SimpleQueue()
        self._buffers: list[mmap.mmap] = []
        self._workers: tuple[_Worker, ...] = ()
        self._hasher = checksums.new(ALGORITHM)
        self._read = 0
        self._reread = True

    def clone(self, source: Reader) -> bool:
        """Share the blocks of a file of the same file system, where that offers it."""
        if not super().clone(source):
            return False
        self._direct = False
        return True

    def write(self, data: memoryview, /) -> None:
        """Write all the bytes; they may reach the device later, and an error is raised by the call after."""
        if not self._workers:
            if not self._direct:
                super().write(data)
                return
            self._start()
        while data:
            count = min(len(data), _BUFFER - self._filled)
            self._buffers[self._current][self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == _BUFFER:
                self._pass_on()
                self._current = self._free.get()

    def _start(self) -> None:
        try:
            linux.reserve(self.descriptor, self._reserve)
        except OSError as error:
            raise self._told(error) from error
        self._buffers = [mmap.mmap(-1, _BUFFER) for _ in range(_BUFFERS + 1)]
        for number in range(1, _BUFFERS):
            self._free.put(number)
        self._reader = _Worker("dts-read-back", self._read_back, lambda begin: None)
        self._writer = _Worker("dts-direct", self._write_one, self._free.put)
        self._workers = (self._writer, self._reader)

    def _told(self, error: Exception) -> Exception:
        return work_error(error, self._element, f"writing {self._path!r}") if isinstance(error, OSError) else error

    def _pass_on(self) -> None:
        """Hand the current buffer over, or raise what went wrong with an earlier one."""
        for worker in self._workers:
            if worker.error is not None:
                raise self._told(worker.error) from worker.error
        self._writer.put(self._current, self._filled)
        self._filled = 0

    def _write_one(self, number: int, filled: int) -> None:
        """Write a buffer, of the last one as many whole sectors as it takes; `sync` cuts the file to its size."""
        done = 0
        while done < filled:
            view = memoryview(self._buffers[number])[done : -(-filled // _SECTOR) * _SECTOR]
            done += self._pwrite(view, self._begin + done)
        self._reader.put(self._begin, filled)
        self._begin += filled

    def _pwrite(self, view: memoryview, place: int) -> int:
        try:
            return os.pwrite(self.descriptor, view, place)
        except OSError as error:
            if error.errno not in _NOT_OFFERED or not self._direct:
                raise
            self._direct = False  # the file system opens files so, but does not write them so
            _set_direct(self.descriptor, on=False)
            return os.pwrite(self.descriptor, view, place)

    def _read_back(self, begin: int, count: int) -> None:
        buffer = memoryview(self._buffers[_BUFFERS])
        done = 0
        while self._direct and self._reread and done < count:
            wanted = -(-(count - done) // _SECTOR) * _SECTOR
            try:
                got = min(os.preadv(self.descriptor, [buffer[:wanted]], begin + done), count - done)
            except OSError as error:
                if error.errno not in _NOT_OFFERED:
                    raise
                self._reread = False
                return
            if got <= 0:
                return  # shorter than it was written: the sizes will differ
            self._hasher.update(buffer[:got])
            done += got
            self._read += got

    def sync(self) -> None:
        """Write what is left, wait until all is written and read back, and flush the file to its device."""
        if not self._workers:
            super().sync()
            return
        size = self._finish()
        try:
            os.ftruncate(self.descriptor, size)
        except OSError as error:
            raise self._told(error) from error
        sync_file(self.descriptor, self._element, f"writing {self._path!r}")
        with suppress(OSError):
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _finish(self) -> int:
        if self._filled:
            self._buffers[self._current][self._filled :] = bytes(_BUFFER - self._filled)
            self._pass_on()
        for worker in self._workers:
            worker.join()
            if worker.error is not None:
                raise self._told(worker.error) from worker.error
        return self._begin

    def read_again(self) -> Digest | None:
        """Return the digest of what was read back from the device, after `sync`; None: it was not read back."""
        if not (self._workers and self._direct and self._reread):
            return None
        return Digest(self._read, {ALGORITHM: self._hasher.hexdigest()})

    def close(self) -> None:
        """End the threads and close the descriptor."""
        for worker in self._workers:
            worker.join()
        self._workers, self._buffers = (), []
        super().close()


def _set_direct(descriptor: int, *, on: bool) -> bool:
    """Switch O_DIRECT of an open file; False where the file system does not offer it."""
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return True
