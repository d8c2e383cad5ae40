"""A large file on its way in: which pieces are there, who writes which, and the doors of the place it goes to."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dtscore.errors import DtsError, ProtocolError
from dtsnet.frames import LONGEST_CHUNK
from dtsnet.journal import Journal
from dtsnet.sums import ChunkSum, RunningSum

REREAD = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Description:
    """What the sender says of a file: its name here, size and stored size (holes are not) in bytes, its identity.

    `overwrite`: what has this name is replaced. `folder`: not a file, but a folder to be made.
    """

    path: str
    size: int
    stored: int
    identity: int
    overwrite: bool
    folder: bool


def read_description(fields: Mapping[str, Any]) -> Description:
    """Return what was said of a file; raises ProtocolError."""
    try:
        described = Description(**{name: fields[name] for name in Description.__slots__})
    except KeyError as error:
        raise ProtocolError(f"a description without {error}", "both sides must run the same version of DTS") from error
    numbers = (described.size, described.stored, described.identity)
    sound = all(type(number) is int and 0 <= number < 1 << 64 for number in numbers) and described.size < 1 << 63
    flags = type(described.overwrite) is bool and type(described.folder) is bool
    if not sound or not flags or not isinstance(described.path, str):
        raise ProtocolError("a description with values of the wrong kind", "both sides must run DTS")
    return described


@dataclass(frozen=True, slots=True)
class Standing:
    """A file that has the name already: its size in bytes, its checksums by algorithm."""

    size: int
    checksums: Mapping[str, str]


class Incoming(Protocol):
    """A large file that is coming: its temporary file, its journal, and what happens at its end."""

    journal: Journal

    def write(self, view: memoryview, offset: int) -> None:
        """Write bytes; raises OSError."""

    def read(self, length: int, offset: int) -> bytes:
        """Read bytes again, fewer where the file ends; raises OSError."""

    def clear(self, offset: int, length: int) -> None:
        """Make sure that these bytes are zero, and a hole where that is offered; raises OSError."""

    def publish(self, checksums: Mapping[str, str]) -> None:
        """Make the bytes durable and give the file its name; raises DtsError or OSError."""

    def discard(self) -> None:
        """Throw away what came; never raises."""

    def close(self) -> None:
        """Let go; what is not published stays for an attempt to come."""


class Target(Protocol):
    """Where files go."""

    def standing(self, description: Description) -> Standing | None:
        """Return what has this name, made durable, None where it is free or need not be looked at."""

    def accept(self, description: Description, there: Standing) -> None:
        """Count what has this name as landed: the sender has the same; raises DtsError or OSError."""

    def begin(self, description: Description) -> Incoming:
        """Open a temporary file, new or left from before; raises DtsError or OSError."""

    def land(self, files: Sequence[tuple[Description, memoryview]]) -> list[DtsError | None]:
        """Land small files, durably; return for each why not, None if it landed."""


class Claim:
    """The right to write one piece; whoever comes later with the same piece takes it away."""

    __slots__ = ("lock", "offset", "revoked")

    def __init__(self, offset: int) -> None:
        """Claim the piece that begins at an offset."""
        self.offset = offset
        self.lock = threading.Lock()
        self.revoked = False

    def revoke(self) -> None:
        """Take the right away; when this returns nothing is being written any more."""
        with self.lock:
            self.revoked = True


class ArrivingFile:
    """The pieces of one file. A piece is only counted with checksums of what was written last."""

    def __init__(self, description: Description, incoming: Incoming) -> None:
        """Begin with no piece."""
        self.description = description
        self._incoming = incoming
        self._sums: dict[int, ChunkSum] = {}
        self._claims: dict[int, Claim] = {}
        self._parts: dict[int, int] = {}
        self._lock = threading.Lock()
        self._sealed = self._closed = False

    def reread(self, entry: ChunkSum) -> bool:
        """Read a piece again that an attempt before has left; whether it is right and counts."""
        if entry.offset + entry.length > self.description.size:
            return False
        running = RunningSum(entry.offset)
        while running.length < entry.length and not self._sealed:
            wanted = min(REREAD, entry.length - running.length)
            content = self._incoming.read(wanted, entry.offset + running.length)
            if not content:
                return False
            running.add(memoryview(content))
        right = running.sum() == entry
        if right:
            with self._lock:
                self._sums[entry.offset] = entry
        return right

    def left(self) -> list[ChunkSum]:
        """Return what the journal says of an attempt before."""
        return self._incoming.journal.entries()

    def kept(self, offset: int) -> ChunkSum | None:
        """Return the piece that begins at an offset, as far as it is there; None too where it is a long hole."""
        with self._lock:
            there = self._sums.get(offset)
        return there if there is not None and there.length <= LONGEST_CHUNK else None

    def settle(self, offset: int) -> ChunkSum | None:
        """Return what is there of the piece that begins at an offset; the rest is a piece of its own from now on.

        Whoever still writes the piece as it was stops, so that what is told stays true.
        """
        with self._lock:
            claim = self._claims.pop(offset, None)
        if claim is not None:
            claim.revoke()
        there = self.kept(offset)
        if there is not None:
            with self._lock:
                self._parts[offset] = there.length
        return there

    def sums(self) -> list[ChunkSum]:
        """Return all pieces that are there."""
        with self._lock:
            return list(self._sums.values())

    def claim(self, offset: int, length: int, crc: int) -> Claim | None:
        """Claim a piece for writing; None where it is there already, or the file is at its end."""
        if offset + length > self.description.size:
            raise ProtocolError(f"bytes beyond the end of {self.description.path!r}", "both sides must run DTS")
        with self._lock:
            there = self._sums.get(offset)
            same = there is not None and (there.length, there.crc32c) == (length, crc)
            if self._sealed or same or length > self._parts.get(offset, length):
                return None
            self._sums.pop(offset, None)
            earlier = self._claims.get(offset)
            claim = self._claims[offset] = Claim(offset)
        if earlier is not None:
            earlier.revoke()
        return claim

    def write(self, claim: Claim, view: memoryview, offset: int) -> None:
        """Write some bytes of a piece, unless the right to do so is gone; raises OSError."""
        with claim.lock:
            if not claim.revoked:
                self._incoming.write(view, offset)

    def note(self, claim: Claim, chunk: ChunkSum) -> bool:
        """Count a piece, or the beginning of one, that is written; whether it still was this claim's."""
        return self._count(claim, chunk, self._incoming.journal)

    def _count(self, claim: Claim, chunk: ChunkSum, journal: Journal | None = None) -> bool:
        with self._lock:
            if self._claims.get(claim.offset) is claim:
                del self._claims[claim.offset]
            if claim.revoked or self._sealed or not chunk.length:
                return False
            self._sums[chunk.offset] = chunk
            if journal is not None:
                journal.note(chunk)
        return True

    def give_up(self, claim: Claim) -> None:
        """Let a piece go that came damaged."""
        with self._lock:
            if self._claims.get(claim.offset) is claim:
                del self._claims[claim.offset]

    def hole(self, chunk: ChunkSum) -> None:
        """Count a piece that is all zeros; raises OSError."""
        claim = self.claim(chunk.offset, chunk.length, chunk.crc32c)
        if claim is None:
            return
        with claim.lock:
            if not claim.revoked:
                self._incoming.clear(chunk.offset, chunk.length)
        self._count(claim, chunk)

    def seal(self) -> None:
        """Let nothing be written any more; when this returns nothing is."""
        with self._lock:
            self._sealed = True
            claims = list(self._claims.values())
        for claim in claims:
            claim.revoke()

    def publish(self, checksums: Mapping[str, str]) -> None:
        """Have a sealed file land; raises DtsError or OSError."""
        self._incoming.publish(checksums)

    def close(self, *, discard: bool = False) -> None:
        """End: nobody writes any more, and what came is kept for another attempt unless it is of no use."""
        self.seal()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if discard:
            self._incoming.discard()
        self._incoming.close()
