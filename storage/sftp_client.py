"""The messages of SFTP 3 on one channel, over any two-way stream: many requests may be under way at once.

draft-ietf-secsh-filexfer-02, and of OpenSSH's extensions those that DTS uses. One thread at a time uses a client.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, OPENDIR, READDIR = 3, 4, 5, 6, 7, 8, 11, 12
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, EXTENDED = 13, 14, 15, 16, 17, 18, 200
_INIT, _VERSION, _STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED_REPLY = 1, 2, 101, 102, 103, 104, 105, 201
FOR_READING, NEW_FOR_WRITING = 0x01, 0x2A
"""What OPEN asks for: reading; or writing (0x02), making the file (0x08), and that none is there (0x20)."""

_OK, _END, _NO_SUCH_FILE, _PERMISSION_DENIED, _UNSUPPORTED = 0, 1, 2, 3, 8
_NUMBERS = {_NO_SUCH_FILE: errno.ENOENT, _PERMISSION_DENIED: errno.EACCES, _UNSUPPORTED: errno.EOPNOTSUPP}
_PLAIN_REQUEST = 32 << 10
_LARGEST_REQUEST = 255 << 10
_LARGEST_PACKET = 1 << 24
_NOTHING = memoryview(b"")


class ByteChannel(Protocol):
    """A two-way stream to a program on the server; its waits end after the time set, with TimeoutError."""

    def settimeout(self, seconds: float, /) -> None:
        """Bound every later wait."""

    def read(self, count: int, /) -> bytes:
        """Return exactly so many bytes; raises EOFError at the end."""

    def read_into(self, view: memoryview, /) -> int:
        """Fill the view's beginning with what comes, at least one byte; raises EOFError at the end."""

    def recv(self, count: int, /) -> bytes:
        """Return what has come, at most `count` bytes; empty at the end."""

    def write(self, head: bytes, body: memoryview, /) -> None:
        """Send both, one after the other."""

    def close(self) -> None:
        """Let go of the stream; never raises."""


class AnsweredError(OSError):
    """The server refused a request for a reason that SFTP has no code for: a full disk, a name that is taken, …"""


class EndOfFileError(AnsweredError):
    """The server says that a file or a listing is at its end."""


class OutOfStepError(OSError):
    """The server sent what no SFTP server sends: the channel is of no more use."""


def in_step(error: BaseException) -> bool:
    """Whether the error is a server's answer, after which the channel can be used on."""
    answered = isinstance(error, (AnsweredError, FileNotFoundError, PermissionError))
    return answered or getattr(error, "errno", None) == errno.EOPNOTSUPP


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a file: bytes, mode with its type, and seconds since 1970; 0 or None where the server does not tell."""

    size: int
    mode: int
    modified: int | None


class Fields:
    """Takes an answer apart, field by field; raises OutOfStepError where it is too short."""

    def __init__(self, data: bytes) -> None:
        """Begin at the front."""
        self._data = data
        self._place = 0

    def _take(self, count: int) -> bytes:
        start, self._place = self._place, self._place + count
        if self._place > len(self._data):
            raise OutOfStepError("the server's answer is too short")
        return self._data[start : self._place]

    def number(self) -> int:
        """Return the next 32 bits."""
        return int.from_bytes(self._take(4), "big")

    def long(self) -> int:
        """Return the next 64 bits."""
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        """Return the next string."""
        return self._take(self.number())

    def text(self) -> str:
        """Return the next string as text; bytes that are no UTF-8 become lone surrogates, as os.fsdecode makes them."""
        return self.string().decode(errors="surrogateescape")

    def attributes(self) -> Attributes:
        """Return the next file attributes."""
        flags = self.number()
        size = self.long() if flags & 1 else 0
        self._take(8 if flags & 2 else 0)
        mode = self.number() if flags & 4 else 0
        modified = struct.unpack(">II", self._take(8))[1] if flags & 8 else None
        for _ in range(2 * self.number() if flags & 0x80000000 else 0):
            self.string()
        return Attributes(size, mode, modified)

    def __bool__(self) -> bool:
        """Whether there is more."""
        return self._place < len(self._data)


def string(value: str | bytes) -> bytes:
    """Return a string as SFTP writes it."""
    data = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    return len(data).to_bytes(4, "big") + data


class SftpClient:
    """One channel. `send` asks, `wait` or `done` hears the answer; in between others may be asked and heard."""

    def __init__(self, channel: ByteChannel) -> None:
        """Greet the server and ask for its limits."""
        self.channel = channel
        self._last = 0
        self._answers: dict[int, tuple[int, bytes]] = {}
        self._unwanted: set[int] = set()
        self.unread: Callable[[], None] | None = None
        """Takes the rest of an answer from the channel that `data` left there."""
        self.extensions = self._greet()
        self.read_size = self.write_size = _PLAIN_REQUEST
        if "limits@openssh.com" in self.extensions:
            reply = self.extended("limits@openssh.com")
            _, read, write, _ = (reply.long() for _ in range(4))
            self.read_size = min(read or _PLAIN_REQUEST, _LARGEST_REQUEST)
            self.write_size = min(write or _PLAIN_REQUEST, _LARGEST_REQUEST)

    def _greet(self) -> frozenset[str]:
        self.channel.write(struct.pack(">IBI", 5, _INIT, 3), _NOTHING)
        size, kind, version = struct.unpack(">IBI", self.channel.read(9))
        if kind != _VERSION or version != 3 or not 5 <= size < _LARGEST_PACKET:
            raise OutOfStepError("the server does not speak SFTP 3; does its login shell print something?")
        reply = Fields(self.channel.read(size - 5))
        names = set()
        while reply:
            names.add(reply.text())
            reply.string()
        return frozenset(names)

    def send(self, kind: int, body: bytes, block: memoryview = _NOTHING) -> int:
        """Send a request, the block uncopied at its end; return its number, which must be waited for or dropped."""
        self._last = number = (self._last + 1) & 0xFFFFFFFF
        self.channel.write(struct.pack(">IBI", 5 + len(body) + len(block), kind, number) + body, block)
        return number

    def _head(self) -> tuple[int, int, int]:
        """Return number, kind and the bytes that follow of the next answer."""
        if self.unread is not None:
            self.unread()
        size, kind, number = struct.unpack(">IBI", self.channel.read(9))
        if not 5 <= size < _LARGEST_PACKET:
            raise OutOfStepError("the server sent no SFTP message")
        return number, kind, size - 5

    def _keep(self, number: int, kind: int, left: int) -> None:
        body = self.channel.read(left) if left else b""
        if number in self._unwanted:
            self._unwanted.remove(number)
        else:
            self._answers[number] = kind, body

    def wait(self, number: int, kind: int) -> Fields:
        """Wait for the answer of this kind to a request; raises OSError as the server refuses."""
        while number not in self._answers:
            self._keep(*self._head())
        found, body = self._answers.pop(number)
        if found == _STATUS:
            _raise_status(Fields(body))
        elif found == kind:
            return Fields(body)
        raise OutOfStepError(f"the server answered with a message of type {found}")

    def done(self, number: int) -> None:
        """Wait for a request to be done; raises OSError as the server refuses."""
        while number not in self._answers:
            self._keep(*self._head())
        found, body = self._answers.pop(number)
        if found != _STATUS:
            raise OutOfStepError(f"the server answered with a message of type {found}")
        if not body.startswith(b"\0\0\0\0"):
            _raise_status(Fields(body))

    def drop(self, number: int) -> None:
        """Do not wait for the answer to a request: it is passed over when it comes."""
        if self._answers.pop(number, None) is None:
            self._unwanted.add(number)

    def data(self, number: int) -> tuple[bytes, int]:
        """Wait for the answer to a READ: return the bytes, or how many bytes are now to be read from the channel.

        Neither: the end of the file. `unread` must read those bytes if anything else is waited for before.
        """
        while number not in self._answers:
            arrived, kind, left = self._head()
            if (arrived, kind) == (number, _DATA):
                length = int.from_bytes(self.channel.read(4), "big")
                if length != left - 4:
                    raise OutOfStepError("the server's answer is too short")
                return b"", length
            self._keep(arrived, kind, left)
        try:
            return self.wait(number, _DATA).string(), 0
        except EndOfFileError:
            return b"", 0

    def _ask(self, kind: int, *paths: str, more: bytes = b"") -> int:
        return self.send(kind, b"".join(map(string, paths)) + more)

    def send_open(self, path: str, flags: int) -> int:
        """Ask for a handle, for `handle`."""
        return self._ask(OPEN, path, more=struct.pack(">II", flags, 0))

    def handle(self, number: int) -> bytes:
        """Wait for a handle."""
        return self.wait(number, _HANDLE).string()

    def open(self, path: str, flags: int) -> bytes:
        """Open a file, or a folder for fsync, and return its handle."""
        return self.handle(self.send_open(path, flags))

    def send_close(self, handle: bytes) -> None:
        """Ask for a handle to be closed and do not wait."""
        self.drop(self.send(CLOSE, string(handle)))

    def send_extended(self, name: str, *arguments: str | bytes) -> int:
        """Send an extended request."""
        return self.send(EXTENDED, b"".join(map(string, (name, *arguments))))

    def extended(self, name: str, *arguments: str | bytes) -> Fields:
        """Send an extended request and return its reply."""
        return self.wait(self.send_extended(name, *arguments), _EXTENDED_REPLY)

    def send_fsync(self, handle: bytes) -> int | None:
        """Ask for an open file or folder to be made durable; None where the server does not offer it."""
        if "fsync@openssh.com" not in self.extensions:
            return None
        return self.send_extended("fsync@openssh.com", handle)

    def sync(self, path: str) -> None:
        """Make a file or a folder durable; nothing where the server does not offer it."""
        if "fsync@openssh.com" not in self.extensions:
            return
        handle = self.open(path, FOR_READING)
        fsync = self.send_fsync(handle)
        self.send_close(handle)
        if fsync is not None:
            self.done(fsync)

    def space(self, path: str) -> tuple[int, bool] | None:
        """Return free bytes and whether it is mounted read-only; None where the server does not offer it."""
        if "statvfs@openssh.com" not in self.extensions:
            return None
        reply = self.extended("statvfs@openssh.com", path)
        values = [reply.long() for _ in range(11)]
        return values[1] * values[4], bool(values[9] & 1)

    def send_stat(self, path: str) -> int:
        """Ask for a path's attributes, links not followed, for `attributes`."""
        return self._ask(LSTAT, path)

    def attributes(self, number: int) -> Attributes:
        """Wait for attributes."""
        return self.wait(number, _ATTRS).attributes()

    def lstat(self, path: str) -> Attributes:
        """Return a path's attributes, links not followed."""
        return self.attributes(self.send_stat(path))

    def stat(self, path: str) -> Attributes:
        """Return a path's attributes, links followed."""
        return self.attributes(self._ask(STAT, path))

    def fstat(self, handle: bytes) -> Attributes:
        """Return an open file's attributes."""
        return self.attributes(self.send(FSTAT, string(handle)))

    def normalize(self, path: str) -> str:
        """Return the path as the server resolves it."""
        reply = self.wait(self._ask(REALPATH, path), _NAME)
        if reply.number() != 1:
            raise OutOfStepError("the server resolves a path to several")
        return reply.text()

    def mkdir(self, path: str) -> None:
        """Make a folder."""
        self.done(self._ask(MKDIR, path, more=bytes(4)))

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        self.done(self._ask(RMDIR, path))

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.done(self._ask(REMOVE, path))

    def send_rename(self, old: str, new: str, *, replace: bool) -> int:
        """Ask for a rename, for `done`; without `replace` OpenSSH refuses a name that is taken."""
        if replace:
            return self.send_extended("posix-rename@openssh.com", old, new)
        return self._ask(RENAME, old, new)

    def listdir(self, path: str) -> Iterator[tuple[str, Attributes]]:
        """Yield names and attributes of a folder's entries."""
        handle = self.wait(self._ask(OPENDIR, path), _HANDLE).string()
        try:
            while True:
                reply = self.wait(self.send(READDIR, string(handle)), _NAME)
                for _ in range(reply.number()):
                    name, _, attributes = reply.text(), reply.string(), reply.attributes()
                    if name not in (".", ".."):
                        yield name, attributes
        except EndOfFileError:
            return
        finally:
            self.send_close(handle)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def _raise_status(reply: Fields) -> None:
    code = reply.number()
    if code == _END:
        raise EndOfFileError("the end of the file")
    text = reply.text() if reply else "Failure"
    if code in _NUMBERS:
        raise OSError(_NUMBERS[code], text)
    if code == _OK:
        raise OutOfStepError("the server says nothing but OK")
    raise AnsweredError(text)
