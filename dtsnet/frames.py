"""Frames on a data connection: a header of 28 bytes with a CRC32C of its own, and a payload with another.

Everything on a connection is a frame, in both directions. Lengths are checked against a cap per kind before any memory
is set aside, and a connection on which anything does not fit is closed: there is no searching for the next frame.
"""

from __future__ import annotations

import json
import mmap
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from crc32c import crc32c

from dtscore.errors import ProtocolError, StreamLostError
from dtsnet.wires import wire_of

HEADER = struct.Struct(">BBHIQII")
"""kind, flags, reserved, file, offset, length of the payload, CRC32C of the payload; then the header's own CRC32C."""

_CHECK = struct.Struct(">I")
SIZE = HEADER.size + _CHECK.size

LONGEST_CHUNK = 32 * 1024 * 1024
"""Bytes of a file in one frame, whatever either side asks for; no side holds them in memory at once."""

SMALL = 1024 * 1024
"""A file of at most so many bytes goes in one frame and waits for nobody."""

PAGE = 4096
BLOCK = 1024 * 1024
"""Bytes of a chunk that are in memory at once."""

_PACE = 64 * 1024
_TEXT = 64 * 1024


class Kind(IntEnum):
    """What a frame says: up to 63 from sender to receiver, from 64 on back; PING either way."""

    WHOLE = 1
    """A small file in one frame: length of the description, description, bytes."""
    OPEN = 2
    """A large file is to come: its description."""
    CHUNK = 3
    """Bytes of a large file at `offset`."""
    HOLE = 4
    """Bytes of a large file that are all zero: the payload holds their number."""
    END = 5
    """All of a large file is there: its checksums."""
    BYE = 6
    """Nothing more will come on this connection."""
    PING = 7
    """Nothing to say, but still there."""
    ASK = 8
    """What is there of a small file, or of the piece of a large one that begins at `offset`?"""
    STREAMS = 9
    """The sender would like `offset` connections."""
    READY = 65
    """A large file may come."""
    GOT = 66
    """The bytes at `offset` are written."""
    AGAIN = 67
    """The bytes at `offset` came damaged, or not wholly: send them again."""
    FILED = 68
    """A file has landed, verified and durable."""
    REFUSED = 69
    """A file will not land: why."""
    HELD = 70
    """Pieces that an attempt before has left and that were read again: several entries, before READY."""
    KEPT = 71
    """The answer to ASK: one entry with what is there, or none."""
    THERE = 72
    """The name of a large file is taken: size and checksums of what is there."""


_LONGEST = {
    Kind.WHOLE: SMALL + _TEXT, Kind.CHUNK: LONGEST_CHUNK, Kind.HOLE: 8, Kind.OPEN: _TEXT, Kind.END: _TEXT,
    Kind.BYE: 0, Kind.PING: 0, Kind.ASK: 0, Kind.STREAMS: 0, Kind.READY: 0, Kind.GOT: 0, Kind.AGAIN: 0,
    Kind.FILED: _TEXT, Kind.REFUSED: _TEXT, Kind.HELD: _TEXT, Kind.KEPT: 20, Kind.THERE: _TEXT,
}  # fmt: skip
_KINDS = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came; `payload` is only good until the next one is read. `intact`: its CRC32C was right.

    The payload of a CHUNK is not read yet: `Stream.blocks` reads it, and `crc` is what it should come to.
    """

    kind: Kind
    file: int
    offset: int
    length: int
    payload: memoryview
    crc: int
    intact: bool

    def fields(self) -> dict[str, Any]:
        """Return the payload of a frame that holds a description; raises ProtocolError."""
        return read_fields(self.payload)


def read_fields(payload: memoryview) -> dict[str, Any]:
    """Return a description, a JSON object; raises ProtocolError."""
    try:
        fields = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a description is not JSON: {error}", "both sides must run DTS") from error
    if not isinstance(fields, dict):
        raise ProtocolError("a description is not an object", "both sides must run DTS")
    return fields


def write_fields(fields: Mapping[str, Any]) -> bytes:
    """Return a description as bytes; raises ValueError for text that is not Unicode."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


class Stream:
    """One data connection, framed. Threads may send and receive at once; one at a time receives."""

    def __init__(self, connection: socket.socket, number: int, idle: float) -> None:
        """Take over a connected socket, plain or TLS; `idle` seconds without a byte end it."""
        self.number = number
        self.idle = idle
        self.said_at = time.monotonic()
        self.socket = connection
        self._wire = wire_of(connection, idle)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sending = threading.Lock()
        self._header = memoryview(bytearray(SIZE))
        self._buffer = memoryview(bytearray(_TEXT))
        self._block = memoryview(b"")
        self._unread = 0

    def send(self, kind: Kind, file: int = 0, offset: int = 0, *parts: memoryview | bytes) -> None:
        """Send one frame; raises StreamLostError."""
        length, crc = 0, 0
        for part in parts:
            length += len(part)
            crc = crc32c(part, crc)
        head = HEADER.pack(kind, 0, 0, file, offset, length, crc)
        try:
            with self._sending:
                self._wire.send([memoryview(head + _CHECK.pack(crc32c(head))), *(memoryview(part) for part in parts)])
        except OSError as error:
            raise self._lost(error) from error
        self.said_at = time.monotonic()

    @property
    def carried(self) -> int:
        """The bytes of files that were handed to this connection."""
        return self._wire.carried

    def send_whole(self, file: int, description: bytes, content: memoryview) -> None:
        """Send a small file in one frame; raises StreamLostError."""
        self.send(Kind.WHOLE, file, 0, len(description).to_bytes(4, "big"), description, content)
        self._wire.carried += len(content)

    def send_chunk(
        self, place: tuple[int, int, int], descriptor: int, crc: int, pace: Callable[[int], None] | None = None
    ) -> None:
        """Send a CHUNK that the kernel takes straight from a file: `place` is the file's number, offset and length.

        `pace` is asked before each part goes. A file that has become shorter is filled up with zeros: the CRC32C then
        tells. Raises StreamLostError.
        """
        number, offset, length = place
        head = HEADER.pack(Kind.CHUNK, 0, 0, number, offset, length, crc)
        try:
            with self._sending:
                self._wire.send([memoryview(head + _CHECK.pack(crc32c(head)))])
                step = length if pace is None else _PACE
                for begin in range(0, length, step):
                    wanted = min(step, length - begin)
                    if pace is not None:
                        pace(wanted)
                    sent = self._wire.send_file(descriptor, offset + begin, wanted)
                    if sent < wanted:
                        self._wire.send([memoryview(bytes(wanted - sent))])
                    self.said_at = time.monotonic()
        except OSError as error:
            raise self._lost(error) from error

    def ping(self) -> None:
        """Say that this side is there, unless it is saying something else just now; never raises."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            head = HEADER.pack(Kind.PING, 0, 0, 0, 0, 0, 0)
            self._wire.poke(head + _CHECK.pack(crc32c(head)))
            self.said_at = time.monotonic()
        except OSError:
            self.abort()
        finally:
            self._sending.release()

    def receive(self) -> Frame | None:
        """Return the next frame, None where the other side has closed between two frames.

        Raises ProtocolError if it is not a frame, StreamLostError if the connection breaks.
        """
        if self._unread:
            for _ in self._read_blocks():
                pass  # nobody wanted the rest of the chunk
        if not self._fill(self._header, may_end=True):
            return None
        (check,) = _CHECK.unpack_from(self._header, HEADER.size)
        if crc32c(self._header[: HEADER.size]) != check:
            raise ProtocolError("the header of a frame is damaged", "the network path is not to be trusted")
        number, flags, reserved, file, offset, length, crc = HEADER.unpack_from(self._header)
        kind = _check(number, flags | reserved, length)
        if kind is Kind.CHUNK:
            self._unread = length
            return Frame(kind, file, offset, length, self._buffer[:0], crc, intact=True)
        if length > len(self._buffer):
            self._buffer = memoryview(bytearray(length))
        payload = self._buffer[:length]
        self._fill(payload, may_end=False)
        return Frame(kind, file, offset, length, payload, crc, crc32c(payload) == crc)

    def blocks(self) -> Iterator[memoryview]:
        """Yield the payload of the CHUNK that came last, block by block, each good until the next.

        When the connection breaks, the whole pages that still came are yielded before StreamLostError is raised.
        """
        if not self._block:
            self._block = memoryview(mmap.mmap(-1, BLOCK))
        return self._read_blocks()

    def _read_blocks(self) -> Iterator[memoryview]:
        space = self._block or memoryview(bytearray(_TEXT))
        while self._unread:
            block = space[: self._unread]
            filled = 0
            try:
                while filled < len(block):
                    filled += self._some(block[filled:] if filled else block)
            except OSError as error:
                self._unread = 0
                if filled >= PAGE:
                    yield block[: filled // PAGE * PAGE]
                raise self._lost(error) from error
            self._unread -= len(block)
            yield block

    def _some(self, view: memoryview) -> int:
        count = self._wire.receive_into(view)
        if not count:
            raise ConnectionResetError("the other side closed in the middle of a frame")
        return count

    def _fill(self, view: memoryview, *, may_end: bool) -> bool:
        """Fill a view; what has begun to come must be whole within the idle time, not only each byte."""
        filled, deadline = 0, 0.0
        try:
            while filled < len(view):
                count = self._wire.receive_into(view[filled:] if filled else view)
                if not count and may_end and not filled:
                    return False
                if not count:
                    raise ConnectionResetError("the other side closed in the middle of a frame")
                filled += count
                if filled < len(view):
                    deadline = deadline or time.monotonic() + self.idle
                    if time.monotonic() > deadline:
                        raise TimeoutError
        except OSError as error:
            raise self._lost(error) from error
        return True

    def _lost(self, error: OSError) -> StreamLostError:
        silent = isinstance(error, TimeoutError)
        reason = f"nothing moved for {self.idle:g} s" if silent else error.strerror or str(error)
        return StreamLostError(f"data connection {self.number} broke: {reason}", "what was not confirmed is sent again")

    def waiting(self) -> bool:
        """Whether more has arrived already."""
        return self._wire.waiting()

    def finish(self) -> None:
        """Say that nothing more will be sent; what comes back may still be received. Raises StreamLostError."""
        try:
            self._wire.finish()
        except OSError as error:
            raise self._lost(error) from error

    def abort(self) -> None:
        """Break the connection off, waking whoever waits in it; what has come already can be read. Never raises."""
        try:
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        except OSError:
            pass  # it is not connected any more, which is what is wanted

    def close(self) -> None:
        """Close the connection when nobody uses it any more; never raises."""
        self.socket.close()


def _check(number: int, unused: int, length: int) -> Kind:
    kind = _KINDS.get(number)
    if kind is None or unused:
        raise ProtocolError(f"a frame of unknown kind ({number})", "both sides must run the same version of DTS")
    if length > _LONGEST[kind]:
        raise ProtocolError(
            f"a {kind.name} frame of {length} bytes; {_LONGEST[kind]} are allowed", "both sides must run DTS"
        )
    return kind
