"""What a PAN keeps of an exposure until it is SAVED: in memory, or in a spool folder that outlives the program.

A spool has one folder for each exposure: `journal`, lines of JSON that say what was begun, handed over and ended, and
`pixels`, the blocks one after the other, each with its CRC32C in the journal. `end` makes both durable.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from crc32c import crc32c

from dtscore import logging
from dtscore.errors import StateError, StorageFaultError
from imagebuilder.wire import Buffer

_LOG = logging.get("pan")
_JOURNAL = "journal"
_PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class Begin:
    """What an exposure was begun with."""

    exposure: int
    detectors: tuple[str, ...]
    expected: tuple[str, ...]
    type: str


@dataclass(frozen=True, slots=True)
class Cards:
    """Lines of header metadata for the exposure ('') or one detector."""

    detector: str
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one amplifier as they were handed over; `pixels` are bytes, little-endian, in readout order."""

    detector: str
    amplifier: str
    row: int
    rows: int
    pixels: Buffer

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return len(self.pixels) // self.rows


class Kept(Protocol):
    """The pixels and metadata of one exposure, kept."""

    begin: Begin
    cards: list[Cards]
    parts: list[Part]
    ended: bool

    def add_cards(self, cards: Cards) -> None:
        """Keep metadata."""

    def add_part(self, part: Part) -> None:
        """Keep pixels."""

    def end(self) -> None:
        """Note that no more blocks will come; after this, what was kept is durable."""

    def drop(self) -> None:
        """Forget all of it: it is saved."""

    def close(self) -> None:
        """Let go of it, as far as it is not in memory alone."""


class InMemory:
    """An exposure in memory: the pixels are not copied, their owner leaves them alone until SAVED."""

    def __init__(self, begin: Begin) -> None:
        """Begin to keep an exposure."""
        self.begin = begin
        self.cards: list[Cards] = []
        self.parts: list[Part] = []
        self.ended = False

    def add_cards(self, cards: Cards) -> None:
        """Keep metadata."""
        self.cards.append(cards)

    def add_part(self, part: Part) -> None:
        """Keep a reference to pixels."""
        self.parts.append(part)

    def end(self) -> None:
        """Note that no more blocks will come."""
        self.ended = True

    def drop(self) -> None:
        """Forget the pixels."""
        self.parts.clear()

    def close(self) -> None:
        """There is nothing to close."""


class Spooled(InMemory):
    """An exposure in a folder of its own; `parts` look into the file of pixels."""

    def __init__(self, folder: Path, begin: Begin) -> None:
        """Make the folder, with a journal that says what was begun."""
        super().__init__(begin)
        self._folder = folder
        with _writing(folder):
            folder.mkdir(mode=0o700, parents=True)
            self._open()
            self._note({"begin": [begin.exposure, list(begin.detectors), list(begin.expected), begin.type]})
            self._sync()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._journal = os.open(self._folder / _JOURNAL, flags, 0o600)
        self._pixels = os.open(self._folder / _PIXELS, flags, 0o600)
        self._noted, self._size = os.fstat(self._journal).st_size, os.fstat(self._pixels).st_size
        self._closed = False

    def _note(self, line: Mapping[str, object]) -> None:
        written = (json.dumps(line) + "\n").encode()
        _write_all(self._journal, written, self._noted)  # over what a write that failed may have left
        self._noted += len(written)

    def add_cards(self, cards: Cards) -> None:
        """Keep metadata in the journal."""
        with _writing(self._folder):
            self._note({"cards": [cards.detector, cards.text]})
        super().add_cards(cards)

    def add_part(self, part: Part) -> None:
        """Write pixels to the file and keep a view into it."""
        offset, size, crc = self._size, len(part.pixels), crc32c(part.pixels)
        with _writing(self._folder):
            _write_all(self._pixels, part.pixels, offset)
            self._note({"block": [part.detector, part.amplifier, part.row, part.rows, offset, size, crc]})
        self._size += size
        super().add_part(self._view(part.detector, part.amplifier, part.row, part.rows, offset, size))

    def _view(self, detector: str, amplifier: str, row: int, rows: int, offset: int, size: int) -> Part:
        page = offset - offset % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._pixels, offset - page + size, access=mmap.ACCESS_READ, offset=page)
        return Part(detector, amplifier, row, rows, memoryview(mapped)[offset - page :])

    def end(self) -> None:
        """Note that no more blocks will come, and make everything durable."""
        with _writing(self._folder):
            self._note({"end": True})
            self._sync()
        super().end()

    def _sync(self) -> None:
        os.fsync(self._pixels)
        os.fsync(self._journal)
        for folder in (self._folder, self._folder.parent):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def drop(self) -> None:
        """Remove the folder, the journal first: without it the rest is rubbish and not an exposure."""
        super().drop()
        self.close()
        (self._folder / _JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self._folder)

    def close(self) -> None:
        """Close the files."""
        if not self._closed:
            self._closed = True
            os.close(self._journal)
            os.close(self._pixels)

    @classmethod
    def load(cls, folder: Path) -> Spooled | None:
        """Return the exposure that a program before this one kept in a folder; None if it holds none.

        A block whose pixels are not as they were handed over is left out, and the log says so.
        """
        lines = _journal_lines(folder / _JOURNAL)
        if not lines or "begin" not in lines[0]:
            return None
        exposure, detectors, expected, pixel_type = lines[0]["begin"]
        kept = cls.__new__(cls)
        InMemory.__init__(kept, Begin(exposure, tuple(detectors), tuple(expected), pixel_type))
        kept._folder = folder
        kept._open()
        for line in lines[1:]:
            kept._replay(line)
        return kept

    def _replay(self, line: Mapping[str, Any]) -> None:
        if "cards" in line:
            self.cards.append(Cards(*line["cards"]))
        elif "block" in line:
            detector, amplifier, row, rows, offset, size, crc = line["block"]
            part = self._view(detector, amplifier, row, rows, offset, size) if offset + size <= self._size else None
            if part is not None and crc32c(part.pixels) == crc:
                self.parts.append(part)
            else:
                where = {"detector": detector, "amplifier": amplifier, "row": row, "rows": rows}
                _LOG.error("a block in the spool is damaged and is left out", exposure=self.begin.exposure, **where)
        elif "end" in line:
            self.ended = True


def _journal_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal, and take away a last one that was cut off with the program that wrote it."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return [json.loads(line) for line in content[:whole].splitlines()]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say clearly what went wrong: no room, no permission, a broken disk."""
    try:
        yield
    except OSError as error:
        what = f"the spool {folder} cannot be written: {error.strerror or error}"
        raise StorageFaultError(what, "make room or mend it; what was handed over before is kept") from error


def _write_all(descriptor: int, data: Buffer, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class Spool:
    """A folder of kept exposures, for one program at a time."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which is made if need be; StateError if another program has it."""
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            what = f"the spool {folder} is in use by another program"
            raise StateError(what, "give each PAN a spool of its own") from error

    def keep(self, begin: Begin) -> Spooled:
        """Begin to keep an exposure."""
        return Spooled(self._folder / f"{begin.exposure}", begin)

    def load(self) -> list[Spooled]:
        """Return all exposures that are kept, lowest number first."""
        found = []
        for folder in sorted(path for path in self._folder.iterdir() if path.name.isdigit()):
            kept = Spooled.load(folder)
            if kept is None:
                shutil.rmtree(folder)
            else:
                found.append(kept)
        return sorted(found, key=lambda one: one.begin.exposure)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)
