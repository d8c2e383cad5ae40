"""What of a large file is there already: beside its temporary file, an entry per piece, for going on after a cut.

A piece counts only after it has been read again and has the checksums that the journal names: the journal need not be
durable before the data, nor the data before the journal.
"""

from __future__ import annotations

import os
import struct

from dtsnet.sums import ENTRY, ChunkSum, entries

_HEAD = struct.Struct(">8sQQ")
_MAGIC = b"DTSPIECE"

MOST = 1 << 18
"""Entries that a journal may have; pieces beyond are not written down, and travel again after a cut."""


class Journal:
    """The journal of one incoming file; `identity` tells whether it is still the same file at the source."""

    def __init__(self, descriptor: int, size: int, identity: int) -> None:
        """Take over a descriptor open for reading and writing; what is of another file is thrown away."""
        self._descriptor = descriptor
        head = _HEAD.pack(_MAGIC, size, identity)
        self._old = b""
        if os.pread(descriptor, _HEAD.size, 0) == head:
            self._old = os.pread(descriptor, MOST * ENTRY.size, _HEAD.size)
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, head, 0)
        self._end = _HEAD.size + len(self._old) // ENTRY.size * ENTRY.size

    def entries(self) -> list[ChunkSum]:
        """Return the pieces that were noted before, of which nothing is proved yet: of each place the last one."""
        found = {entry.offset: entry for entry in entries(self._old)}
        self._old = b""
        return list(found.values())

    def note(self, chunk: ChunkSum) -> None:
        """Write down a piece whose bytes are in the file."""
        if self._end < MOST * ENTRY.size:
            self._end += os.pwrite(self._descriptor, chunk.packed(), self._end)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
