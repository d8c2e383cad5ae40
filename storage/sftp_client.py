"""The SFTP messages of one channel: paramiko's client over any two-way stream, with the server's extensions."""

from __future__ import annotations

import struct
from typing import Protocol

import paramiko
from paramiko.message import Message
from paramiko.sftp import CMD_CLOSE, CMD_EXTENDED, CMD_EXTENDED_REPLY, CMD_INIT, CMD_WRITE

_PLAIN_REQUEST = 32 << 10
_LARGEST_REQUEST = 255 << 10


class ByteChannel(Protocol):
    """A two-way stream to a program on the server; its waits end after the time set, with TimeoutError."""

    def settimeout(self, seconds: float, /) -> None:
        """Bound every later wait."""

    def read(self, count: int, /) -> bytes:
        """Return exactly so many bytes; raises EOFError at the end."""

    def recv(self, count: int, /) -> bytes:
        """Return what has come, at most `count` bytes; empty at the end."""

    def write(self, head: bytes, body: memoryview, /) -> None:
        """Send both, one after the other."""

    def close(self) -> None:
        """Let go of the stream; never raises."""


class SftpClient(paramiko.SFTPClient):
    """paramiko's client, which also knows the server's extensions and limits."""

    def __init__(self, channel: ByteChannel) -> None:
        """Greet the server and ask for its limits."""
        self.extensions: frozenset[str] = frozenset()
        self.channel = channel
        super().__init__(channel)  # type: ignore[arg-type]
        self.read_size = self.write_size = _PLAIN_REQUEST
        if "limits@openssh.com" in self.extensions:
            reply = self.extended("limits@openssh.com")
            _, read, write, _ = (reply.get_int64() for _ in range(4))
            self.read_size = min(read or _PLAIN_REQUEST, _LARGEST_REQUEST)
            self.write_size = min(write or _PLAIN_REQUEST, _LARGEST_REQUEST)

    def _send_version(self) -> int:
        request = Message()
        request.add_int(3)
        self._send_packet(CMD_INIT, request)  # type: ignore[attr-defined]
        _, data = self._read_packet()
        reply = Message(data[4:])
        names = set()
        while reply.get_remainder():
            names.add(reply.get_text())
            reply.get_binary()
        self.extensions = frozenset(names)
        return int(struct.unpack(">I", data[:4])[0])

    def _log(self, level: int, msg: object, *args: object) -> None:
        """Say nothing: what matters is raised, and paramiko's own would ask the stream for a channel's name."""

    # The next three override paramiko's, which copy the whole rest of a packet after each piece.

    def _read_packet(self) -> tuple[int, bytes]:
        size, kind = struct.unpack(">IB", self.channel.read(5))
        if not 1 <= size < 1 << 24:
            raise paramiko.SFTPError("Garbage packet received")
        return kind, self.channel.read(size - 1)

    def _read_all(self, count: int) -> bytes:
        return self.channel.read(count)

    def _write_all(self, out: bytes) -> None:
        self.channel.write(out, memoryview(b""))

    def send_write(self, owner: object, handle: bytes, offset: int, block: memoryview) -> None:
        """Send a write without copying the block; the answer goes to the owner's `_async_response`."""
        with self._lock:  # type: ignore[attr-defined]
            number = self.request_number
            self.request_number = number + 1
            self._expecting[number] = owner  # type: ignore[attr-defined]
        length = 21 + len(handle) + len(block)
        form = f">IBII{len(handle)}sQI"
        head = struct.pack(form, length, CMD_WRITE, number, len(handle), handle, offset, len(block))
        self.channel.write(head, block)

    def send_close(self, handle: bytes) -> None:
        """Ask for a handle to be closed and do not wait; the answer is passed over when it comes."""
        self._async_request(type(None), CMD_CLOSE, handle)  # type: ignore[attr-defined]

    def send_extended(self, name: str, *arguments: str | bytes) -> int:
        """Send an extended request and return its number, for `finish`."""
        return int(self._async_request(type(None), CMD_EXTENDED, name, *arguments))  # type: ignore[attr-defined]

    def finish(self, number: int) -> Message:
        """Wait for the answer to a request; raises OSError as the server refuses."""
        kind, reply = self._read_response(number)  # type: ignore[attr-defined]
        return reply if kind == CMD_EXTENDED_REPLY else Message()

    def extended(self, name: str, *arguments: str | bytes) -> Message:
        """Send an extended request and return its reply; raises OSError as the server refuses."""
        return self.finish(self.send_extended(name, *arguments))

    def fsync(self, handle: bytes) -> None:
        """Make an open file, or an open folder, durable; nothing where the server does not offer it."""
        if "fsync@openssh.com" in self.extensions:
            self.extended("fsync@openssh.com", handle)

    def space(self, path: str) -> tuple[int, bool] | None:
        """Return free bytes and whether it is mounted read-only; None where the server does not offer it."""
        if "statvfs@openssh.com" not in self.extensions:
            return None
        reply = self.extended("statvfs@openssh.com", path)
        values = [reply.get_int64() for _ in range(11)]
        return values[1] * values[4], bool(values[9] & 1)
