"""One PAN's connection to a node or a supervisor: hello on both sides, then frames until one side ends it.

A session belongs to one thread. It never touches the database: its office does, in a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from dtscore.errors import DtsError
from imagebuilder import auth, wire
from imagebuilder.auth import Secret
from imagebuilder.blocks import Blocks, Rows
from imagebuilder.camera import Camera
from imagebuilder.desk import Desk, Wish
from imagebuilder.link import Link, LinkLostError
from imagebuilder.office import Office
from imagebuilder.page import Page
from imagebuilder.placing import PIXEL_TYPES
from imagebuilder.records import SavedFile
from imagebuilder.shares import Share, Shares
from imagebuilder.wire import Frame, Header, Kind, WireError

_HELLO_SECONDS = 10.0
_MOST = (1 << 63) - 1
_MOST_ROWS = (1 << 31) - 1
_RETRY = 1.0
"""Seconds after which a BEGIN that met a full cache is tried again, if nothing told that there is room."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a session needs to know of its node: its name, the secret, the release, the limits (bytes, s)."""

    node: str
    secret: Secret
    software: str
    block_bytes: int
    idle: float


class Session:
    """The conversation with one PAN; `run` returns when it has ended."""

    def __init__(
        self, link: Link, peer: str, welcome: Welcome, office: Office, desk: Desk | None, shares: Shares
    ) -> None:
        """Take over a fresh connection; a supervisor has no desk and receives no pixels."""
        self.pan = ""
        self._link, self._peer, self._welcome = link, peer, welcome
        self._office, self._desk, self._shares = office, desk, shares
        self._share = Share(link.descriptor)
        self._camera: Camera | None = None
        self._camera_name = ""
        self._pages: dict[tuple[int, str], Page] = {}
        self._waiting: list[tuple[Wish, int]] = []
        self._tried_at = 0.0
        self._blocks = Blocks(link)
        self._gone: dict[int, tuple[str, str]] = {}
        self._lock = threading.Lock()
        self._answers: Mapping[Kind, Callable[[Frame], None]] = {
            Kind.LABEL: self._label, Kind.WHERE: self._where, Kind.BEGIN: self._begin, Kind.METADATA: self._metadata,
            Kind.END: self._end, Kind.PING: self._ping, Kind.PONG: lambda _frame: None,
        }  # fmt: skip
        link.on_wake = self._look_up

    def run(self) -> None:
        """Talk until the PAN leaves, is refused or falls silent; raises nothing."""
        try:
            self._link.set_idle(min(_HELLO_SECONDS, self._welcome.idle))
            self._greet()
            self._link.set_idle(self._welcome.idle)
            self._shares.enter(self._share)
            while self._answer():
                pass
        except LinkLostError as error:
            log.info("a PAN has left", pan=self.pan, peer=self._peer, how=error.message)
        except WireError as error:
            where = {"pan": self.pan, "peer": self._peer}
            log.warning("a PAN's connection is ended", **where, code=error.code, why=error.message)
        except Exception:
            log.exception("a PAN's connection broke off", pan=self.pan, peer=self._peer)
            self._refuse(WireError("internal", "the node met an internal error", "see its log", fatal=True), 0)
        finally:
            self._shares.leave(self._share)
            if self._desk is not None:
                self._desk.leave(self)
            self._link.close()

    def _greet(self) -> None:
        """Exchange proofs; who does not know the secret learns no more than that."""
        sequence = 1
        try:
            hello = self._expect(Kind.HELLO)
            camera, pan = wire.name(hello, "camera"), wire.name(hello, "pan")
            theirs, ours = auth.check_nonce(wire.text(hello, "nonce")), auth.new_nonce()
            proof = self._welcome.secret.proof("node", theirs, ours, camera, pan)
            self._link.send(Kind.CHALLENGE, {"nonce": ours, "proof": proof})
            sequence = 2
            answer = wire.text(self._expect(Kind.PROOF), "proof")
            if not self._welcome.secret.accepts(answer, "pan", theirs, ours, camera, pan):
                what = f"PAN {pan} at {self._peer} does not know the secret"
                raise WireError("bad-secret", what, "give PANs and nodes the same secret file", fatal=True)
            self._camera, self._camera_name = self._office.camera(camera), camera
            self.pan = pan
        except WireError as error:
            self._refuse(error, sequence)
            raise
        idle = max(1, int(self._welcome.idle))
        body = {"node": self._welcome.node, "block_bytes": self._welcome.block_bytes, "idle": idle}
        self._link.send(Kind.WELCOME, {**body, "software": self._welcome.software})
        software = hello.body.get("software", "")[:80]
        log.info("a PAN has come", pan=pan, camera=camera, peer=self._peer, software=software)

    def _expect(self, kind: Kind) -> Frame:
        header, body = self._link.next_header()
        if header.kind is not kind or header.data_length:
            what = f"a connection begins with HELLO and PROOF, without data, not with {header.kind.name}"
            raise WireError("bad-order", what, "say hello first", fatal=True)
        return Frame(header.kind, header.sequence, body)

    def _answer(self) -> bool:
        """Take one frame and answer it; False when the PAN says goodbye."""
        sequence = 0
        try:
            header, body = self._link.next_header()
            sequence = header.sequence
            data = self._read_data(header)
            frame = Frame(header.kind, sequence, body, data)
            if header.kind is Kind.BLOCK:
                self._block(header, frame, data)
                return True
            self._blocks.acknowledge()
            wire.check_data(header, data)
            if header.kind is Kind.BYE:
                return False
            self._handler(header.kind)(frame)
        except LinkLostError:
            raise
        except WireError as error:
            self._refuse(error, sequence)
            if error.fatal:
                raise
        return True

    def _read_data(self, header: Header) -> memoryview:
        if header.kind is Kind.BLOCK:
            self._shares.turn(self._share, header.data_length)
        return self._link.data(header)

    def _handler(self, kind: Kind) -> Callable[[Frame], None]:
        handler = self._answers.get(kind)
        if handler is None:
            what = f"{kind.name} is a node's to send, not a PAN's"
            raise WireError("bad-order", what, "see pan-protocol", fatal=True)
        return handler

    def _refuse(self, error: WireError, sequence: int) -> None:
        """Send an ERROR; whoever cannot be told any more is not."""
        body = {"code": error.code, "message": _plain(error.message, 1000), "hint": _plain(error.hint, 500)}
        fatal = {"fatal": "yes" if error.fatal else "no", "sequence": sequence}
        try:
            self._blocks.acknowledge()
            self._link.send(Kind.ERROR, {**body, **fatal}, error.listing.encode())
        except DtsError as lost:
            log.debug("an error could not be told", peer=self._peer, error=lost.message)

    def _ping(self, _frame: Frame) -> None:
        self._link.send(Kind.PONG)

    def _label(self, frame: Frame) -> None:
        count = wire.number(frame, "count", _MOST) if "count" in frame.body else 1
        first = self._office.label(self._camera_name, count, frame.body.get("program", ""))
        self._link.send(Kind.LABELLED, {"exposure": first.exposure, "label": first.label})

    def _where(self, frame: Frame) -> None:
        exposure = wire.number(frame, "exposure", _MOST)
        here = self._office.where(exposure, self._camera_name)
        ours = self._desk is not None and here.node == self._welcome.node
        where = {"host": "" if ours else here.host, "port": here.port, "node": here.node, "assignment": here.number}
        self._link.send(Kind.HERE, {"exposure": exposure, **where})

    @property
    def _known_camera(self) -> Camera:
        assert self._camera is not None
        return self._camera

    @property
    def _own_desk(self) -> Desk:
        if self._desk is None:
            raise WireError("not-here", "a supervisor receives no pixels", "ask WHERE and connect to that node")
        return self._desk

    def _begin(self, frame: Frame) -> None:
        wish = self._wish(frame)
        self._own_desk.check_size(wish)
        if not self._try_begin(wish):
            self._waiting.append((wish, frame.sequence))
            reason = f"the frame cache has no room for exposure {wish.exposure}"
            self._link.send(Kind.BUSY, {"exposure": wish.exposure, "seconds": int(_RETRY), "reason": reason})

    def _wish(self, frame: Frame) -> Wish:
        camera = self._known_camera
        exposure, pixel = wire.number(frame, "exposure", _MOST), wire.text(frame, "type")
        if pixel not in PIXEL_TYPES:
            known = " ".join(PIXEL_TYPES)
            raise WireError("wrong-type", f"{pixel[:40]!r} is no type of pixels", f"use one of {known}")
        detectors = wire.names(frame, "detectors")
        everything = frame.body.get("expected", "*") == "*"
        expected = camera.names if everything else wire.names(frame, "expected")
        for name in (*detectors, *expected):
            if name not in camera.names:
                what = f"camera {self._camera_name} has no detector {name!r}"
                raise WireError("unknown-detector", what, "use the names of the camera's file")
        everyone = tuple(dict.fromkeys((*expected, *detectors)))
        return Wish(exposure, camera, self._camera_name, self.pan, pixel, detectors, everyone)

    def _try_begin(self, wish: Wish) -> bool:
        """Begin an exposure if there is room; what is saved already is told."""
        self._tried_at = time.monotonic()
        begun = self._office.begin(wish)
        for saved, names, sums in begun.saved:
            self.told_saved(saved, names, sums)
        there = {name for _, names, _ in begun.saved for name in names}
        if there >= set(wish.detectors):
            self._link.flush()
            return True
        pages = self._own_desk.begin(wish, begun.assignment, there, self)
        if pages is None:
            return False
        with self._lock:
            self._gone.pop(wish.exposure, None)
            self._pages.update({(wish.exposure, name): page for name, page in pages.items()})
        listing = "".join(_ranges(page, page.received) for page in pages.values())
        self._link.flush()
        body = {"exposure": wish.exposure, "assignment": begun.assignment}
        self._link.send(Kind.ACCEPTED, body, listing.encode())
        return True

    def _look_up(self) -> None:
        """Try the waiting BEGINs again: another thread has said that something changed."""
        if self._waiting and time.monotonic() - self._tried_at < _RETRY / 4:
            return
        waiting, self._waiting = self._waiting, []
        for wish, sequence in waiting:
            try:
                if not self._try_begin(wish):
                    self._waiting.append((wish, sequence))
            except WireError as error:
                self._refuse(error, sequence)

    def _page(self, exposure: int, detector: str) -> Page:
        with self._lock:
            page = self._pages.get((exposure, detector))
            gone = self._gone.get(exposure)
        if page is not None:
            return page
        if detector not in self._known_camera.names:
            what = f"camera {self._camera_name} has no detector {detector!r}"
            raise WireError("unknown-detector", what, "use the names of the camera's file")
        if gone is not None:
            what = f"exposure {exposure} is not in hand here: {gone[1]}"
            raise WireError(gone[0], what, "ask WHERE and begin it again")
        what = f"detector {detector} of exposure {exposure} was not begun on this connection"
        raise WireError("not-begun", what, "send BEGIN and wait for ACCEPTED")

    def _block(self, header: Header, frame: Frame, data: memoryview) -> None:
        exposure, detector = wire.number(frame, "exposure", _MOST), wire.name(frame, "detector")
        amplifier = wire.name(frame, "amplifier")
        row, rows = wire.number(frame, "row", _MOST_ROWS), wire.number(frame, "rows", _MOST_ROWS)
        page = self._page(exposure, detector)
        pixel = frame.body.get("type", page.head.pixel)
        if pixel != page.head.pixel:
            what = f"a block of {pixel[:40]!r} came for detector {detector}, which was begun with {page.head.pixel}"
            raise WireError("wrong-type", what, "send the type that BEGIN named")
        self._blocks.take(page, Rows(exposure, detector, amplifier, row, rows), header, data)

    def _metadata(self, frame: Frame) -> None:
        exposure = wire.number(frame, "exposure", _MOST)
        detector = wire.name(frame, "detector") if frame.body.get("detector") else ""
        if detector and detector not in self._known_camera.names:
            what = f"camera {self._camera_name} has no detector {detector!r}"
            raise WireError("unknown-detector", what, "use the names of the camera's file")
        try:
            text = bytes(frame.data).decode()
        except UnicodeDecodeError as error:
            what = f"the metadata of exposure {exposure} are not UTF-8"
            raise WireError("bad-metadata", what, "write lines KEYWORD=value / comment") from error
        self._office.metadata(exposure, self._camera_name, detector, text, f"pan {self.pan}")

    def _end(self, frame: Frame) -> None:
        exposure = wire.number(frame, "exposure", _MOST)
        with self._lock:
            pages = [page for (number, _), page in self._pages.items() if number == exposure]
        if not pages:
            self._page(exposure, self._known_camera.names[0])
        missing = "".join(_ranges(page, page.missing) for page in pages)
        if missing:
            what = f"rows of exposure {exposure} are missing: {missing.splitlines()[0]}"
            raise WireError("missing-rows", what, "send them, then END again", listing=missing)
        assignment, frames = self._own_desk.whole(exposure)
        if frames:
            self._office.received(exposure, assignment, frames)
            self._own_desk.reported(exposure, frames)
        self._link.send(Kind.RECEIVED, {"exposure": exposure, "complete": "yes"})

    def told_saved(self, saved: SavedFile, detectors: Sequence[str], sums: str) -> None:
        """Leave word that detectors are in a file."""
        with self._lock:
            for name in detectors:
                self._pages.pop((saved.exposure, name), None)
            self._gone[saved.exposure] = ("already-built", f"it is in {saved.lfn}")
        body = {
            "exposure": saved.exposure, "lfn": saved.lfn, "size": saved.size, "checksum": saved.checksum,
            "version": saved.version, "detectors": " ".join(detectors),
        }  # fmt: skip
        self._link.post(Kind.SAVED, body, sums.encode())

    def told_gone(self, exposure: int, code: str, why: str) -> None:
        """Leave word that an exposure is no longer in hand here, and end the connection: the PAN asks WHERE anew."""
        with self._lock:
            for key in [key for key in self._pages if key[0] == exposure]:
                del self._pages[key]
            self._gone[exposure] = (code, why)
        what = {"message": _plain(f"exposure {exposure} is not in hand here: {why}", 1000), "hint": "ask WHERE again"}
        self._link.post(Kind.ERROR, {"code": code, **what, "fatal": "yes", "sequence": 0, "exposure": exposure})
        self._link.end()

    def told_changed(self) -> None:
        """Leave word that there may be room now."""
        if self._waiting:
            self._link.wake()

    def stop(self) -> None:
        """Say goodbye as soon as no frame is half read; from any thread."""
        self._link.post(Kind.BYE, {})
        self._link.end()

    def break_off(self) -> None:
        """End the connection at once; from any thread."""
        self._link.break_off()


def _ranges(page: Page, ranges: Callable[[str], Sequence[tuple[int, int]]]) -> str:
    """Return a line `DETECTOR AMPLIFIER FIRST-LAST` for each range of rows."""
    found = ((name, first, last) for name in page.amplifiers for first, last in ranges(name))
    return "".join(f"{page.detector} {name} {first}-{last}\n" for name, first, last in found)


def _plain(text: str, most: int) -> str:
    """Return a text as a frame's value: one line, printable, not too long."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:most]
