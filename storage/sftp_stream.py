"""Reading and writing over SFTP with many requests under way, but never more than a bounded number of bytes.

paramiko's own `prefetch` asks for a whole file at once or polls, and its pipelined writes are bounded by nothing;
so the requests are counted here, on paramiko's packets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import paramiko
from paramiko.message import Message
from paramiko.sftp import CMD_DATA, CMD_FSTAT, CMD_READ, CMD_STATUS, int64
from paramiko.sftp_attr import SFTPAttributes

from dtscore.errors import WorkError
from storage.element import FileStat, Reader
from storage.sftp_pool import Lease, Pool

_UNDER_WAY = 4 << 20
"""Bytes asked for or sent and not answered yet."""

ToStat = Callable[[SFTPAttributes], FileStat]
Explain = Callable[[Exception, str], WorkError]


class _Stream:
    """An open file on a leased channel; after any error the channel is given up, not shared again."""

    def __init__(self, pool: Pool, lease: Lease, handle: bytes, what: str, explain: Explain) -> None:
        self._pool = pool
        self._lease = lease
        self._client = lease.client
        self._handle = handle
        self._what = what
        self._explain = explain
        self._open = True

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._lease.broken = True
            raise self._explain(error, self._what) from error

    def _send(self, command: int, *arguments: object) -> int:
        number: int = self._client._async_request(self, command, self._handle, *arguments)  # type: ignore[attr-defined]
        return number

    def _answer(self) -> None:
        """Wait for one answer; paramiko hands it to `_async_response`."""
        self._client._read_response()  # type: ignore[attr-defined]

    def _under_way(self) -> bool:
        raise NotImplementedError

    def close(self) -> None:
        """Close the remote handle and give the channel back."""
        if not self._open:
            return
        self._open = False
        if self._under_way():
            self._lease.broken = True  # late answers must not reach the channel's next user
        if not self._lease.broken:
            try:
                self._client.send_close(self._handle)  # nothing depends on the answer, and fsync has had its own
            except (paramiko.SSHException, OSError, EOFError):
                self._lease.broken = True
        self._pool.give_back(self._lease)


class SftpReader(_Stream):
    """A remote file open for reading, asked for ahead."""

    def __init__(
        self, pool: Pool, lease: Lease, handle: bytes, what: str, explain: Explain, to_stat: ToStat, size: int
    ) -> None:
        """Take over an open handle; `size` is how far to ask ahead."""
        super().__init__(pool, lease, handle, what, explain)
        self._to_stat = to_stat
        self._chunk = lease.client.read_size
        self._size = size
        self._asked = 0
        self._queue: deque[tuple[int, int, int]] = deque()  # number, offset, length; in the order of the file
        self._answers: dict[int, bytes] = {}
        self._rest = memoryview(b"")

    def _under_way(self) -> bool:
        return len(self._queue) > len(self._answers)

    def _async_response(self, kind: int, message: Message, number: int) -> None:
        if kind == CMD_DATA:
            self._answers[number] = message.get_binary()
            return
        with suppress(EOFError):  # the end of the file: no bytes
            self._client._convert_status(message)  # type: ignore[attr-defined]
        self._answers[number] = b""

    def _ask(self) -> None:
        limit = max(1, _UNDER_WAY // self._chunk)
        while len(self._queue) < limit and self._asked < self._size:
            length = min(self._chunk, self._size - self._asked)
            self._queue.append((self._send(CMD_READ, int64(self._asked), length), self._asked, length))
            self._asked += length

    def _next(self) -> memoryview:
        """Return the next bytes of the file; empty at its end."""
        self._ask()
        if not self._queue:
            return memoryview(b"")
        number, offset, length = self._queue.popleft()
        try:
            while number not in self._answers:
                self._answer()
        except BaseException:
            self._lease.broken = True
            raise
        data = self._answers.pop(number)
        if data and len(data) < length:  # a server may answer less than was asked: ask for the rest, first in line
            rest = length - len(data)
            self._queue.appendleft((self._send(CMD_READ, int64(offset + len(data)), rest), offset + len(data), rest))
        return memoryview(data)

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer as far as the file goes."""
        filled = 0
        with self._guarded():
            while filled < len(buffer):
                if not self._rest:
                    self._rest = self._next()
                    if not self._rest:
                        break
                count = min(len(buffer) - filled, len(self._rest))
                buffer[filled : filled + count] = self._rest[:count]
                self._rest = self._rest[count:]
                filled += count
        return filled

    def stat(self) -> FileStat:
        """Ask the server for size and time of the open file."""
        with self._guarded():
            _, message = self._client._request(CMD_FSTAT, self._handle)  # type: ignore[attr-defined]
            return self._to_stat(SFTPAttributes._from_msg(message))  # type: ignore[attr-defined]


class SftpWriter(_Stream):
    """A new remote file open for writing; several writes are under way at once."""

    def __init__(self, pool: Pool, lease: Lease, handle: bytes, what: str, explain: Explain) -> None:
        """Take over an open handle of an empty file."""
        super().__init__(pool, lease, handle, what, explain)
        self._chunk = lease.client.write_size
        self._offset = 0
        self._unanswered = 0

    def _under_way(self) -> bool:
        return self._unanswered > 0

    def _async_response(self, kind: int, message: Message, number: int) -> None:
        self._unanswered -= 1
        if kind != CMD_STATUS:
            raise paramiko.SFTPError(f"unexpected answer {kind} to a write")
        self._client._convert_status(message)  # type: ignore[attr-defined]

    def write(self, data: memoryview, /) -> None:
        """Send the bytes; waits for answers only when too many are under way."""
        with self._guarded():
            for start in range(0, len(data), self._chunk):
                block = data[start : start + self._chunk]
                while self._unanswered * self._chunk >= _UNDER_WAY:
                    self._answer()
                self._client.send_write(self, self._handle, self._offset, block)
                self._unanswered += 1
                self._offset += len(block)

    def clone(self, source: Reader) -> bool:
        """Not offered."""
        return False

    def sync(self) -> None:
        """Wait for all answers, then fsync where the server offers it."""
        with self._guarded():
            self._client.fsync(self._handle)  # the server works in order: by then all writes are answered
            while self._unanswered:
                self._answer()
