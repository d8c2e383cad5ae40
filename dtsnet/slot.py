"""A large file at the receiver, from its opening to its end: what is answered, and when it may land."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dtscore.errors import ProtocolError, SourceChangedError, TransferCorruptedError
from dtsnet.arriving import ArrivingFile, Description, Standing, Target
from dtsnet.frames import LONGEST_CHUNK, Kind, Stream, write_fields
from dtsnet.incoming import destination_differs
from dtsnet.sums import ENTRY, combine

_HELD = 64 * 1024 // ENTRY.size
"""Entries in one frame."""


@dataclass(slots=True, eq=False)
class Slot:
    """The file, where the answer to what is being done goes, and what is to be done next."""

    number: int
    description: Description
    stream: Stream
    file: ArrivingFile | None = None
    standing: Standing | None = None
    busy: bool = False
    next: Callable[[], None] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, target: Target, *, anyway: bool) -> None:
        """Tell the sender what has the name already, or else, or if it says `anyway`, what of the file is there."""
        if self.file is None and not anyway:
            self.standing = self.standing or target.standing(self.description)
            if self.standing is not None:
                fields = {"size": self.standing.size, **self.standing.checksums}
                self.stream.send(Kind.THERE, self.number, 0, write_fields(fields))
                return
        if self.file is None:
            self.file = ArrivingFile(self.description, target.begin(self.description))
            held = (entry for entry in self.file.left() if self.file.reread(entry))
        else:
            held = (entry for entry in self.file.sums() if entry.length <= LONGEST_CHUNK)
        packed = b""
        for entry in held:
            packed += entry.packed()
            if len(packed) == _HELD * ENTRY.size:
                self.stream.send(Kind.HELD, self.number, 0, packed)
                packed = b""
        if packed:
            self.stream.send(Kind.HELD, self.number, 0, packed)
        self.stream.send(Kind.READY, self.number)

    def finish(self, target: Target, fields: dict[str, Any]) -> None:
        """Have the file land, if it is what the sender says; raises DtsError and OSError."""
        path = self.description.path
        if fields.get("changed"):
            raise source_changed(path)
        if self.file is not None:
            _publish(self.file, fields)
        elif self.standing is not None:
            there = (self.standing.size, self.standing.checksums)
            ours = (self.description.size, {name: str(fields.get(name)) for name in self.standing.checksums})
            if ours != there:
                raise destination_differs(path, there, ours)
            target.accept(self.description, self.standing)
        else:
            raise ProtocolError(f"an end of file {self.number}, which was not opened", "both sides must run DTS")


def _publish(file: ArrivingFile, fields: dict[str, Any]) -> None:
    file.seal()
    path, size, pieces = file.description.path, file.description.size, file.sums()
    try:
        found = combine(pieces)
    except ValueError as error:
        raise TransferCorruptedError(f"{path!r}: {error}", "send it again") from error
    told = {name: fields.get(name) for name in found}
    if told != found or sum(chunk.length for chunk in pieces) != size:
        raise TransferCorruptedError(f"{path!r}: sent with {told}, received with {found}", "send it again")
    file.publish(found)


def source_changed(path: str) -> SourceChangedError:
    """Return the error for a file that is not any more what its sending began with."""
    return SourceChangedError(f"{path!r} changed while it was sent", "submit files only when they are complete")
