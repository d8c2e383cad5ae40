"""One exposure on its way: where it is being sent, which rows are there, what of it is saved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from crc32c import crc32c

from dtscore import logging
from dtscore.errors import CredentialsError, DtsError
from imagebuilder import wire
from imagebuilder.pan.keeping import Kept, Part
from imagebuilder.pan.link import Link, error_of
from imagebuilder.pan.rows import SENT, THERE, WAITING, Marks
from imagebuilder.wire import Buffer, Frame, Kind, WireError

_LOG = logging.get("pan")

PAUSE = 0.25
"""Seconds before an exposure whose connection was lost is begun again."""

ROUNDS = 100
"""How often in a row a node may miss rows of an exposure before its connection is given up."""

_AGAIN = frozenset({"not-here", "not-begun", "draining", "unavailable", "internal", "stalled", "stopping"})
"""The codes after which the PAN asks again where to go, and begins there."""

_WRONG = frozenset(
    {"already-built", "bad-rows", "bad-value", "exposure-too-large", "overlap", "refused", "taken", "unknown-amplifier"}
    | {"unknown-camera", "unknown-detector", "unknown-exposure", "wrong-type", "bad-secret", "bad-version"}
    | {"not-allowed"}
)
"""The codes that say that this PAN may not send what it sends: nothing would be different another time."""


def is_for_good(error: DtsError) -> bool:
    """Whether an error stays until somebody changes something here or there: trying again is of no use."""
    return isinstance(error, CredentialsError) or (isinstance(error, WireError) and error.code in _WRONG)


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that holds pixels of this PAN: `size` in bytes, `checksum` as algorithm:hex."""

    lfn: str
    size: int
    checksum: str
    version: int


@dataclass
class Sending:
    """An exposure that is kept, and how far it is; the methods that send raise UnreachableError."""

    kept: Kept
    marks: Marks = field(default_factory=Marks)
    link: Link | None = None
    frames: dict[int, str] = field(default_factory=dict)
    accepted: bool = False
    ended_here: bool = False
    received: bool = False
    saved: list[Saved] = field(default_factory=list)
    unsaved: set[str] = field(default_factory=set)
    refusal: WireError | None = None
    error: WireError | None = None
    not_before: float = 0.0
    end_not_before: float = 0.0
    connections: int = 0
    rounds: int = 0
    cards_sent: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Take over what a program before this one kept."""
        self.unsaved = set(self.kept.begin.detectors)
        for part in self.kept.parts:
            self.marks.add(part.detector, part.amplifier, part.row, part.rows)

    @property
    def number(self) -> int:
        """The exposure number."""
        return self.kept.begin.exposure

    @property
    def is_saved(self) -> bool:
        """Whether all that was handed over is in files, and no more will come."""
        return self.kept.ended and bool(self.saved) and not (self.unsaved & self.marks.detectors)

    def begin_at(self, link: Link) -> None:
        """Begin the exposure at a node; nothing is known of what it has until it answers."""
        begin = self.kept.begin
        self.link, self.accepted, self.ended_here = link, False, False
        self.rounds = 0
        self.connections += 1
        self.frames.clear()
        self.cards_sent.clear()
        self.marks.wait_again()
        names = {"detectors": " ".join(begin.detectors), "expected": " ".join(begin.expected)}
        self._send(Kind.BEGIN, {**names, "type": begin.type})

    def _send(self, kind: Kind, body: Mapping[str, object], data: Buffer = b"", what: str = "") -> None:
        assert self.link is not None
        self.frames[self.link.next_sequence] = what or kind.name
        self.link.send(kind, {"exposure": self.number, **body}, data)

    def lost(self) -> None:
        """The connection is gone: begin again after a pause."""
        self.link, self.accepted, self.ended_here = None, False, False
        self.not_before = time.monotonic() + PAUSE

    def flush(self) -> None:
        """Send everything that waits, and END when nothing more will come."""
        self._flush_cards()
        for part in self.kept.parts:
            self._flush_part(part)
        through = self.kept.ended and not self.ended_here and not self.marks.count(WAITING)
        if through and self.link and time.monotonic() >= self.end_not_before:
            self.ended_here = True
            self._send(Kind.END, {})

    def _flush_cards(self) -> None:
        for index, cards in enumerate(self.kept.cards):
            if self.link and index not in self.cards_sent:
                self.cards_sent.add(index)
                body = {"detector": cards.detector} if cards.detector else {}
                self._send(Kind.METADATA, body, cards.text.encode(), f"cards {index}")

    def _flush_part(self, part: Part) -> None:
        if self.link is None or self.is_saved:
            return
        most = max(1, self.link.block_bytes // part.row_bytes)
        for row, rows in self.marks.waiting(part.detector, part.amplifier, part.row, part.rows, most):
            self.marks.set(part.detector, part.amplifier, row, row + rows - 1, SENT)
            start = (row - part.row) * part.row_bytes
            names = {"detector": part.detector, "amplifier": part.amplifier}
            pixels = memoryview(part.pixels)[start : start + rows * part.row_bytes]
            self._send(Kind.BLOCK, {**names, "row": row, "rows": rows, "type": self.kept.begin.type}, pixels)
            self.link.receive()
            if self.link is None or self.is_saved:
                return

    def take(self, frame: Frame) -> None:
        """Take in a frame about this exposure."""
        if frame.kind is Kind.SAVED:
            self._take_saved(frame)
        elif frame.kind is Kind.RECEIVED:
            self._take_received(frame)
        elif frame.kind is Kind.ACCEPTED:
            self.accepted, self.error = True, None
            self.marks.set_listed(bytes(frame.data).decode(errors="replace"), THERE)
        elif frame.kind is Kind.BUSY:
            seconds, reason = frame.body.get("seconds", "?"), frame.body.get("reason", "")
            self.error = WireError("busy", f"the node is busy ({reason}); it asks for {seconds} s", "nothing is lost")
        elif frame.kind is Kind.ERROR:
            self._take_error(frame)

    def _take_saved(self, frame: Frame) -> None:
        """Believe a SAVED only if it tells the sums of our own pixels."""
        most = (1 << 63) - 1
        size, version = wire.number(frame, "size", most), wire.number(frame, "version", most)
        saved = Saved(wire.text(frame, "lfn"), size, wire.text(frame, "checksum"), version)
        detectors = frozenset(wire.names(frame, "detectors"))
        told = bytes(frame.data).decode(errors="replace").splitlines()
        differing = sorted(line for line in self._sums(detectors) if line not in told)
        if differing:
            what = f"{saved.lfn} does not hold the pixels that were sent: {differing[0]} (detector, amplifier, CRC32C)"
            self.refusal = WireError("sums-differ", what, "nothing is forgotten here; compare the file with the spool")
            return
        self.unsaved -= detectors
        self.marks.set_detectors(detectors, THERE)
        if saved not in self.saved:
            self.saved.append(saved)

    def _sums(self, detectors: Set[str]) -> list[str]:
        """Return a line `DETECTOR AMPLIFIER CRC32C` for each amplifier, over all its pixels in readout order."""
        sums: dict[tuple[str, str], int] = {}
        for part in sorted(self.kept.parts, key=lambda one: one.row):
            if part.detector in detectors:
                key = part.detector, part.amplifier
                sums[key] = crc32c(part.pixels, sums.get(key, 0))
        return [f"{detector} {amplifier} {total:08x}" for (detector, amplifier), total in sums.items()]

    def _take_received(self, frame: Frame) -> None:
        if frame.body.get("complete") == "yes":
            self.received = True
            return
        row, rows = (wire.number(frame, key, 1 << 31) for key in ("row", "rows"))
        detector, amplifier = wire.name(frame, "detector"), wire.name(frame, "amplifier")
        self.marks.set(detector, amplifier, row, row + rows - 1, THERE)

    def _take_error(self, frame: Frame) -> None:
        error = error_of(frame)
        self.error = error
        sequence = frame.body.get("sequence", "")
        what = self.frames.get(int(sequence), "") if sequence.isdecimal() else ""
        if error.code == "missing-rows":
            self._take_missing(error.listing)
        elif what.startswith("cards"):
            self._take_cards_error(int(what.split()[1]), error)
        elif what == "END" and error.code in _AGAIN:
            self.ended_here, self.end_not_before = False, time.monotonic() + PAUSE
        elif what != "BEGIN" and error.code in {*_AGAIN, "already-built"}:
            self.lost()
        elif error.code in _WRONG:
            self.refuse(error)
        elif what == "BEGIN":
            self.lost()

    def refuse(self, error: WireError) -> None:
        """Give the exposure up, if the error says that nothing would be different another time."""
        if is_for_good(error):
            self.refusal = error
            self.lost()

    def _take_cards_error(self, index: int, error: WireError) -> None:
        if error.code in _AGAIN:
            self.cards_sent.discard(index)
        else:
            _LOG.error("metadata are refused; the pixels go on", exposure=self.number, why=error.message)

    def _take_missing(self, listing: str) -> None:
        """Send again what the node misses, as far as it was ever handed over."""
        if self.marks.set_listed(listing, WAITING):
            self.ended_here = False
            self.rounds += 1
        if self.rounds > ROUNDS and self.link:
            self.link.bye()
            self.lost()
