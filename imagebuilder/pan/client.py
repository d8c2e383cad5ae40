"""The library that a camera's computer (PAN) sends its pixels with.

    with PanClient(["builder1:7730"], "decam", "pan3", Path("/etc/dts/pan.secret"), spool=Path("/data/pan")) as pan:
        pan.begin(42, ["S1", "N1"])
        pan.metadata(42, {"FILTER": "r", "EXPTIME": 90.0})
        pan.block(42, "S1", "A", 0, pixels)      # rows × columns, in readout order
        pan.end(42)
        saved = pan.wait_saved(42, timeout=600)

Pixels are kept until they are SAVED: with `spool` in a folder, so that they survive this program, else in memory, where
the arrays that were handed over must not be changed meanwhile. `begin`, `metadata`, `block` and `end` never fail for
want of a builder: what cannot be sent is kept and goes out later. When a node dies, the next call asks where to go now
and sends what is missing there. A client belongs to one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dtscore.errors import DtsError, StorageFaultError, UsageError
from imagebuilder import auth, wire
from imagebuilder.pan.arguments import TYPES, card_lines, check_begin, check_name
from imagebuilder.pan.keeping import Begin, Cards, InMemory, Part, Spool
from imagebuilder.pan.link import Identity, Link, UnreachableError, parse_address, wait_for_any
from imagebuilder.pan.rows import ABSENT, THERE
from imagebuilder.pan.sending import PAUSE, Saved, Sending, is_for_good
from imagebuilder.wire import Frame, Kind, WireError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Label:
    """An exposure number and data label that the database handed out: unique for ever."""

    exposure: int
    label: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an exposure is: rows handed over and acknowledged, RECEIVED, the files it is SAVED in; whether a node
    refused it for good; the last thing that went wrong ('': nothing)."""

    exposure: int
    rows: int
    rows_received: int
    received: bool
    saved: bool
    files: tuple[Saved, ...]
    connections: int
    refused: bool
    error: str


class PanClient:
    """A PAN's connection to the builder; see the module's text.

    `addresses` are supervisors or nodes (host:port), asked in turn; `timeout` in seconds is how long one answer is
    waited for. Raises ConfigurationError for a bad secret file, UsageError for bad names, StateError for a spool
    in use.
    """

    def __init__(
        self, addresses: Sequence[str], camera: str, pan: str, secret_file: Path, *, spool: Path | None = None,
        timeout: float = 30.0, software: str = "dts-pan", warn: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Take up what the spool keeps; nothing is sent yet. `warn` is told once when no builder can be reached."""
        self._addresses = [parse_address(address) for address in addresses]
        if not self._addresses:
            raise UsageError("a PAN needs the address of a supervisor or node", "give host:port")
        names = {"the camera": camera, "the PAN": pan}
        checked = [check_name(value, what) for what, value in names.items()]
        self._identity = Identity(checked[0], checked[1], auth.load_secret(secret_file), software)
        self._timeout = timeout
        self._warn, self._warned = warn, False
        self._links: list[Link] = []
        self._sendings: dict[int, Sending] = {}
        self._error: DtsError | None = None
        self._spool = Spool(spool) if spool is not None else None
        for kept in self._spool.load() if self._spool else ():
            self._sendings[kept.begin.exposure] = Sending(kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def label(self, program: str = "", count: int = 1) -> list[Label]:
        """Take the next exposure numbers and data labels from the database; raises UnreachableError, WireError."""

        def asked(link: Link) -> list[Label]:
            answer = link.ask(Kind.LABEL, {"count": count, "program": program}, Kind.LABELLED)
            first, label = wire.number(answer, "exposure", (1 << 63) - 1), wire.text(answer, "label")
            stem = label.removesuffix(f"{first:08d}")
            return [Label(first, label), *(Label(first + i, f"{stem}{first + i:08d}") for i in range(1, count))]

        return self._ask_anyone(asked)

    def ping(self) -> dict[str, float | str]:
        """Return the seconds until each address answered, or why it did not."""
        answers: dict[str, float | str] = {}
        for address in self._addresses:
            try:
                link = self._link_to(address)
                answers[link.name] = link.ping()
            except DtsError as error:
                answers[f"{address[0]}:{address[1]}"] = error.message
        self._leave_unused()
        return answers

    def begin(
        self, exposure: int, detectors: Sequence[str], *, expected: Sequence[str] = ("*",), type: str = "uint16"
    ) -> None:
        """Begin an exposure of which this PAN sends `detectors`; `expected` is what the whole file is to hold.

        Returns when a node has accepted it, when the node is busy, or when none answers: blocks are taken in any case.
        Raises UsageError for wrong arguments, and the WireError of a node that refuses the exposure for good.
        """
        check_begin(exposure, detectors, type)
        if exposure in self._sendings:
            raise UsageError(f"exposure {exposure} has been begun before", "take a number with label()")
        begin = Begin(exposure, tuple(detectors), tuple(expected), type)
        one = Sending(self._spool.keep(begin) if self._spool else InMemory(begin))
        self._sendings[exposure] = one
        until = time.monotonic() + self._timeout
        while not (one.accepted or one.error or one.is_saved) and time.monotonic() < until:
            self._advance(one)
            if one.link is None:
                break
            self._pump(PAUSE)
        self._raise_refusal(one)

    def metadata(self, exposure: int, cards: Mapping[str, object] | str, *, detector: str = "") -> None:
        """Add header cards for the exposure or one detector: a mapping, or lines `KEYWORD=value / comment`."""
        one = self._open(exposure)
        text = card_lines(cards)
        one.kept.add_cards(Cards(detector and check_name(detector, "the detector"), text))
        self._move(one)

    def block(self, exposure: int, detector: str, amplifier: str, row: int, pixels: NDArray[Any]) -> None:
        """Hand over rows × columns pixels of one amplifier in readout order, from row `row` on; any number at once.

        Raises UsageError, StorageFaultError when the spool cannot take them (hand them over again then), and the
        WireError of a node that refuses the exposure for good.
        """
        one = self._open(exposure)
        wanted = np.dtype(TYPES[one.kept.begin.type])
        if pixels.ndim != 2 or not pixels.size or pixels.dtype.newbyteorder("<") != wanted or row < 0:
            what = f"a block of {pixels.dtype} pixels with shape {pixels.shape} from row {row} is not rows × columns"
            raise UsageError(f"{what} of {one.kept.begin.type}", "the type was given to begin()")
        if detector not in one.kept.begin.detectors:
            raise UsageError(f"exposure {exposure} was begun without detector {detector[:40]!r}", "name it in begin()")
        one.marks.add(detector, check_name(amplifier, "the amplifier"), row, len(pixels))
        laid = np.ascontiguousarray(pixels, dtype=wanted)
        try:
            one.kept.add_part(Part(detector, amplifier, row, len(pixels), laid.data.cast("B")))
        except StorageFaultError:
            one.marks.set(detector, amplifier, row, row + len(pixels) - 1, ABSENT)
            raise
        self._move(one)

    def end(self, exposure: int) -> None:
        """Say that no more blocks will come; in a spool everything is durable after this."""
        one = self._open(exposure)
        one.kept.end()
        self._forget_saved(one)
        self._move(one)

    def wait_received(self, exposure: int, timeout: float) -> None:
        """Wait until all rows are in a node's shared memory and checked; raises UnreachableError, WireError."""
        self._wait(exposure, timeout, lambda one: one.received or one.is_saved, "received")

    def wait_saved(self, exposure: int, timeout: float) -> Saved:
        """Wait until everything this PAN sent of an exposure is in a file, and forget it; return the newest file.

        Raises UnreachableError when that does not come in `timeout` seconds (all is kept then), and the WireError of a
        node that refuses the exposure for good.
        """
        one = self._wait(exposure, timeout, lambda one: one.is_saved, "saved")
        del self._sendings[exposure]
        return one.saved[-1]

    def wait_all(self, timeout: float) -> bool:
        """End what has not ended, and wait until everything that is kept is saved or refused; False if time is up."""
        for one in self._sendings.values():
            if not one.kept.ended:
                one.kept.end()
                self._forget_saved(one)
        until = time.monotonic() + timeout
        while any(not (one.is_saved or one.refusal) for one in self._sendings.values()):
            if time.monotonic() > until:
                return False
            self.poll(min(PAUSE, max(0.0, until - time.monotonic())))
        return True

    def held(self) -> list[Progress]:
        """Return the exposures that this PAN still keeps, lowest number first."""
        return [self.progress(number) for number in sorted(self._sendings)]

    def progress(self, exposure: int) -> Progress:
        """Return how far an exposure is."""
        one = self._find(exposure)
        error = one.refusal or one.error or self._error
        return Progress(
            exposure, one.marks.total, one.marks.count(THERE), one.received, one.is_saved, tuple(one.saved),
            one.connections, one.refusal is not None, error.message if error else "",
        )  # fmt: skip

    def poll(self, seconds: float = 0.0) -> None:
        """Read acknowledgements, answer idle time-outs, and send for all exposures whatever can be sent."""
        until = time.monotonic() + seconds
        while True:
            for one in list(self._sendings.values()):
                self._advance(one)
            self._pump(min(PAUSE, until - time.monotonic()))
            if time.monotonic() >= until:
                return

    def give_up(self, exposure: int) -> None:
        """Forget an exposure, saved or not."""
        self._find(exposure).kept.drop()
        del self._sendings[exposure]
        self._leave_unused()

    def close(self) -> None:
        """Say goodbye; what is not saved stays in the spool, if there is one."""
        for link in self._links:
            link.bye()
        self._links.clear()
        for one in self._sendings.values():
            one.kept.close()
        self._sendings.clear()
        if self._spool:
            self._spool.close()
            self._spool = None

    def _find(self, exposure: int) -> Sending:
        if exposure not in self._sendings:
            raise UsageError(f"exposure {exposure} is not kept here", "begin it first")
        return self._sendings[exposure]

    def _open(self, exposure: int) -> Sending:
        one = self._find(exposure)
        if one.kept.ended:
            raise UsageError(f"exposure {exposure} has ended", "nothing can be added to it")
        self._raise_refusal(one)
        return one

    def _raise_refusal(self, one: Sending) -> None:
        if one.refusal is not None:
            raise one.refusal

    def _move(self, one: Sending) -> None:
        self._pump(0.0)
        self._advance(one)
        self._raise_refusal(one)

    def _wait(self, exposure: int, timeout: float, reached: Callable[[Sending], bool], word: str) -> Sending:
        one = self._find(exposure)
        until = time.monotonic() + timeout
        while not reached(one):
            self._raise_refusal(one)
            if time.monotonic() > until:
                why = one.error or self._error
                what = f"exposure {exposure} is not {word} after {timeout:g} s"
                raise UnreachableError(f"{what}: {why.message}" if why else what, "it is kept here; wait again")
            self.poll(min(PAUSE, max(0.0, until - time.monotonic())))
        return one

    def _advance(self, one: Sending) -> None:
        """Do for an exposure whatever can be done now; a lost connection is a matter of the next time."""
        if one.is_saved or one.refusal:
            return
        try:
            if one.link is None or one.link.closed:
                self._settle(one)
            if one.accepted:
                one.flush()
        except UnreachableError as error:
            self._error = error
            self._drop_closed()
        except WireError as error:
            self._error = error
            one.refuse(error)

    def _settle(self, one: Sending) -> None:
        if one.link is not None:
            one.lost()
        if time.monotonic() < one.not_before:
            return
        one.not_before = time.monotonic() + PAUSE
        try:
            link = self._ask_anyone(lambda asked: self._node_of(asked, one.number))
        except UnreachableError as error:
            self.tell_away(error)
            raise
        self._warned, self._error = False, None
        if not one.is_saved:
            one.begin_at(link)

    def tell_away(self, error: UnreachableError) -> None:
        """Tell once that no builder can be reached, for whoever waits."""
        if not self._warned:
            self._warned = True
            self._warn(f"{error.message}; trying again")

    def _node_of(self, asked: Link, exposure: int) -> Link:
        here = asked.ask(Kind.WHERE, {"exposure": exposure}, Kind.HERE)
        host = here.body.get("host", "")
        return self._link_to((host, wire.number(here, "port", (1 << 16) - 1))) if host else asked

    def _ask_anyone(self, question: Callable[[Link], T]) -> T:
        """Put a question to the addresses in turn; raises what one failed with, rather what may pass than what not."""
        failures: list[DtsError] = []
        for address in self._addresses:
            try:
                return question(self._link_to(address))
            except DtsError as error:
                failures.append(error)
                self._drop_closed()
        raise next((failure for failure in reversed(failures) if not is_for_good(failure)), failures[-1])

    def _link_to(self, address: tuple[str, int]) -> Link:
        self._drop_closed()
        for link in self._links:
            if link.address == address:
                return link
        link = self.connect(address)
        self._links.append(link)
        return link

    def connect(self, address: tuple[str, int]) -> Link:
        """Connect to a supervisor or node and say hello."""
        return Link(address, self._identity, self._take, self._timeout)

    def _take(self, link: Link, frame: Frame) -> None:
        one = next((one for one in self._about(link, frame)), None)
        if one is None:
            return
        one.take(frame)
        self._forget_saved(one)

    def _forget_saved(self, one: Sending) -> None:
        """Let go of the pixels of an exposure that is saved; how far it is stays known until it is asked for."""
        if one.is_saved:
            one.link = None
            one.kept.drop()

    def _about(self, link: Link, frame: Frame) -> Iterator[Sending]:
        """Give the exposures that a frame is about: SAVED counts whoever says it, all else from where it is sent."""
        number, sequence = frame.body.get("exposure", ""), frame.body.get("sequence", "")
        for one in self._sendings.values():
            named = number == str(one.number) or (not number and sequence.isdecimal() and int(sequence) in one.frames)
            if named and (one.link is link or frame.kind is Kind.SAVED) and not one.is_saved:
                yield one

    def _pump(self, seconds: float) -> None:
        """Read from all connections, waiting so long for the first byte."""
        for link in wait_for_any(self._links, seconds):
            self._try(link.receive)
        for link in list(self._links):
            if not link.closed:
                self._try(link.keep_alive)
        self._drop_closed()
        self._leave_unused()

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (UnreachableError, WireError) as error:
            self._error = error

    def _drop_closed(self) -> None:
        for one in self._sendings.values():
            if one.link is not None and one.link.closed:
                one.lost()
        self._links = [link for link in self._links if not link.closed]

    def _leave_unused(self) -> None:
        used = {id(one.link) for one in self._sendings.values()}
        for link in self._links:
            if id(link) not in used:
                link.bye()
        self._links = [link for link in self._links if not link.closed]
