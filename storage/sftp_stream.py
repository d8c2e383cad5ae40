"""Reading and writing over SFTP with many requests under way, but never more than a bounded number of bytes."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import paramiko

from dtscore.errors import WorkError
from storage.element import FileStat, Reader
from storage.sftp_client import READ, WRITE, Attributes, SftpClient, in_step, string
from storage.sftp_pool import Lease

_UNDER_WAY = 4 << 20
"""Bytes asked for or sent and not answered yet."""

_EARLY = 64 << 20
"""After each so many bytes the server's disk is set to work, so that fsync need not wait for the whole file at last."""

ToStat = Callable[[Attributes], FileStat]


@dataclass(frozen=True, slots=True)
class File:
    """An open handle on a leased channel, how its errors are explained, and what takes the channel back."""

    lease: Lease
    handle: bytes
    what: str
    explain: Callable[[SftpClient, Exception, str], WorkError]
    give_back: Callable[[Lease], None]


class _Stream:
    """An open file on a leased channel."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._client = file.lease.client
        self._handle = string(file.handle)
        self._open = True

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        lease = self._file.lease
        try:
            yield
        except (paramiko.SSHException, OSError, EOFError) as error:
            lease.broken = lease.broken or not in_step(error)
            raise self._file.explain(self._client, error, self._file.what) from error

    def _forget(self) -> None:
        """Leave the channel to its next user: no answer and no bytes of this file may reach it."""

    def close(self) -> None:
        """Close the remote handle and give the channel back."""
        if not self._open:
            return
        self._open = False
        lease = self._file.lease
        if not lease.broken:
            try:
                self._forget()
                self._client.send_close(self._file.handle)  # nothing depends on the answer, and fsync had its own
            except (paramiko.SSHException, OSError, EOFError):
                lease.broken = True
        self._file.give_back(lease)


class SftpReader(_Stream):
    """A remote file open for reading, asked for ahead; its bytes go from the channel right into the buffers."""

    def __init__(self, file: File, to_stat: ToStat, size: int) -> None:
        """Take over an open handle; `size` is how far to ask ahead."""
        super().__init__(file)
        self._to_stat = to_stat
        self._chunk = self._client.read_size
        self._size = size
        self._asked = 0
        self._queue: deque[tuple[int, int, int]] = deque()  # number, offset, length; in the order of the file
        self._rest = memoryview(b"")
        self._coming = 0  # bytes of the file that come next from the channel

    def _forget(self) -> None:
        if self._coming:
            self._absorb()
        for number, _, _ in self._queue:
            self._client.drop(number)

    def _absorb(self) -> None:
        """Take from the channel what stands in the way of other answers."""
        self._client.unread = None
        self._rest = memoryview(self._client.channel.read(self._coming))
        self._coming = 0

    def _ask(self) -> None:
        limit = max(2, _UNDER_WAY // self._chunk)
        while len(self._queue) < limit and self._asked < self._size:
            length = min(self._chunk, self._size - self._asked)
            self._request(self._asked, length, self._queue.append)
            self._asked += length

    def _request(self, offset: int, length: int, enter: Callable[[tuple[int, int, int]], None]) -> None:
        number = self._client.send(READ, self._handle + struct.pack(">QI", offset, length))
        enter((number, offset, length))

    def _next(self) -> bool:
        """Come to the next bytes of the file; False at its end."""
        if not self._queue:
            return False
        number, offset, length = self._queue.popleft()
        here, self._coming = self._client.data(number)
        self._client.unread = self._absorb if self._coming else None
        self._rest = memoryview(here)
        got = len(here) + self._coming
        if got > length:
            raise EOFError("the server sent more than it was asked for")
        if 0 < got < length:  # a server may answer less than was asked: ask for the rest, first in line
            self._request(offset + got, length - got, self._queue.appendleft)
        return got > 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer as far as the file goes."""
        filled = 0
        with self._guarded():
            self._ask()
            while filled < len(buffer):
                if self._coming:
                    count = self._client.channel.read_into(buffer[filled : filled + self._coming])
                    self._coming -= count
                    if not self._coming:
                        self._client.unread = None
                elif self._rest:
                    count = min(len(buffer) - filled, len(self._rest))
                    buffer[filled : filled + count] = self._rest[:count]
                    self._rest = self._rest[count:]
                elif self._next():
                    count = 0
                    self._ask()
                else:
                    break
                filled += count
        return filled

    def stat(self) -> FileStat:
        """Ask the server for size and time of the open file."""
        with self._guarded():
            return self._to_stat(self._client.fstat(self._file.handle))


class SftpWriter(_Stream):
    """A new remote file open for writing; several writes are under way at once."""

    def __init__(self, file: File, path: str) -> None:
        """Take over an open handle of an empty file; `path` is what the server calls it."""
        super().__init__(file)
        self._path = path
        self._early = _EARLY
        self._chunk = self._client.write_size
        self._limit = max(1, _UNDER_WAY // self._chunk)
        self._offset = 0
        self._sent: deque[int] = deque()

    def _forget(self) -> None:
        for number in self._sent:
            self._client.drop(number)

    def write(self, data: memoryview, /) -> None:
        """Send the bytes; waits for answers only when too many are under way."""
        with self._guarded():
            for start in range(0, len(data), self._chunk):
                block = data[start : start + self._chunk]
                while len(self._sent) >= self._limit:
                    self._client.done(self._sent.popleft())
                place = self._handle + struct.pack(">QI", self._offset, len(block))
                self._sent.append(self._client.send(WRITE, place, block))
                self._offset += len(block)
        if self._offset >= self._early:
            self._early += _EARLY
            self._file.lease.link.begin_writing(self._path)

    def clone(self, source: Reader) -> bool:
        """Not offered."""
        return False

    def ask_sync(self) -> None:
        """Ask for fsync where the server offers it, and do not wait: it works in order, after the writes."""
        with self._guarded():
            number = self._client.send_fsync(self._file.handle)
            if number is not None:
                self._sent.append(number)

    def sync(self) -> None:
        """Make the file durable where the server offers fsync, and wait for all answers."""
        self.ask_sync()
        self.finish()

    def finish(self) -> None:
        """Wait for all answers."""
        with self._guarded():
            while self._sent:
                self._client.done(self._sent.popleft())
