"""One connection from a PAN to a supervisor or node: hello on both sides, frames out, frames in, questions answered."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dtscore.errors import CredentialsError, DtsError, UsageError
from imagebuilder import auth, wire
from imagebuilder.auth import Secret
from imagebuilder.wire import Buffer, Frame, Kind, WireError

Take: TypeAlias = "Callable[[Link, Frame], None]"

_ANSWERS = frozenset({Kind.CHALLENGE, Kind.WELCOME, Kind.LABELLED, Kind.HERE})
_CHUNK = 64 << 10
_LARGEST_IDLE = 86_400
_CAPS = wire.HEADER_BYTES + wire.BODY_CAP + wire.LIST_CAP


class UnreachableError(DtsError):
    """No supervisor or node answers, or not in time; everything is kept, and the same call may be made again."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Identity:
    """Who speaks: the camera, the PAN's name, the secret that all share, and the program for the node's log."""

    camera: str
    pan: str
    secret: Secret
    software: str = "dts-pan"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port` (an IPv6 host in brackets), or raise UsageError."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError(f"{text[:80]!r} is not an address", "write host:port, as in builder1:7730 or [::1]:7730")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Link:
    """A connection that has said hello; `take` is called with each frame that is no answer to a question.

    `timeout` in seconds is how long an answer, or room to send, is waited for. Each method raises UnreachableError
    when the connection is lost, and the link is closed then.
    """

    def __init__(self, address: tuple[str, int], identity: Identity, take: Take, timeout: float) -> None:
        """Connect and say hello; raises UnreachableError, CredentialsError, or the WireError with which it refuses."""
        self.address = address
        self._take = take
        self._timeout = timeout
        self._sequence = 1
        self._input = bytearray()
        self._asked = -1
        self._answer: Frame | None = None
        self._pong_due = False
        self.closed = False
        self.node = ""
        self.block_bytes = wire.BLOCK_BYTES
        self.idle = 60.0
        try:
            self._socket = socket.create_connection(address, timeout)
        except OSError as error:
            raise UnreachableError(f"{self.name} cannot be reached: {error}", "is the builder running?") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._heard = self._sent = time.monotonic()
        try:
            self._greet(identity)
        except DtsError:
            self._close()
            raise

    @property
    def name(self) -> str:
        """The address as people write it."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def next_sequence(self) -> int:
        """The number of the frame that is sent next."""
        return self._sequence

    def fileno(self) -> int:
        """Return the socket's number, for select."""
        return self._socket.fileno()

    def _greet(self, who: Identity) -> None:
        ours = auth.new_nonce()
        hello = {"camera": who.camera, "pan": who.pan, "nonce": ours, "software": who.software}
        challenge = self.ask(Kind.HELLO, hello, Kind.CHALLENGE)
        theirs = auth.check_nonce(wire.text(challenge, "nonce"))
        if not who.secret.accepts(wire.text(challenge, "proof"), "node", ours, theirs, who.camera, who.pan):
            what = f"{self.name} does not know our secret"
            raise CredentialsError(what, "the secret files of PAN and builder must hold the same")
        proof = who.secret.proof("pan", ours, theirs, who.camera, who.pan)
        welcome = self.ask(Kind.PROOF, {"proof": proof}, Kind.WELCOME)
        self.node = wire.text(welcome, "node")
        self.block_bytes = wire.number(welcome, "block_bytes", wire.BLOCK_CAP)
        self.idle = float(wire.number(welcome, "idle", _LARGEST_IDLE)) or 60.0

    def send(self, kind: Kind, body: Mapping[str, object] | None = None, data: Buffer = b"") -> int:
        """Send a frame and return its sequence number; acknowledgements are read while the socket is full."""
        number, self._sequence = self._sequence, self._sequence + 1
        head = wire.head(kind, number, body, data)
        pieces = [memoryview(head)]
        if len(data):
            pieces.append(memoryview(data).cast("B"))
        self._sent = time.monotonic()
        self._transmit(pieces)
        return number

    def _transmit(self, pieces: list[memoryview]) -> None:
        until = time.monotonic() + self._timeout
        while pieces:
            self._check_open()
            try:
                sent = self._socket.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                self._wait(until, writable=True, what="nothing could be sent")
                continue
            except OSError as error:
                raise self._lost(f"sending failed: {error}") from error
            until = time.monotonic() + self._timeout
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if sent:
                pieces[0] = pieces[0][sent:]

    def ask(self, kind: Kind, body: Mapping[str, object], answer: Kind) -> Frame:
        """Send a question and return its answer; the WireError that the other side answers with is raised."""
        self._answer = None
        self._asked = self._sequence
        self.send(kind, body)
        until = time.monotonic() + self._timeout
        while self._answer is None:
            self._wait(until, writable=False, what=f"no answer to {kind.name}")
        self._asked = -1
        found: Frame = self._answer
        if found.kind is Kind.ERROR:
            raise error_of(found)
        if found.kind is not answer:
            raise self._lost(f"{found.kind.name} came where {answer.name} was expected")
        return found

    def _wait(self, until: float, *, writable: bool, what: str) -> None:
        """Wait for something to read (or room to write), and read it."""
        left = until - time.monotonic()
        if left <= 0:
            raise self._lost(f"{what} within {self._timeout:g} s")
        readable, _, _ = select.select([self], [self] if writable else [], [], left)
        if readable:
            self.receive()
            self._check_open()

    def receive(self) -> None:
        """Read what has come, without waiting, and hand out the whole frames."""
        self._check_open()
        try:
            got = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise self._lost(f"reading failed: {error}") from error
        if not got:
            raise self._lost("the other side closed the connection")
        self._input += got
        self._heard = time.monotonic()
        for frame in self._frames():
            self._hand_out(frame)

    def _frames(self) -> Iterator[Frame]:
        while (frame := self._next_frame()) is not None:
            yield frame

    def _next_frame(self) -> Frame | None:
        if len(self._input) < wire.HEADER_BYTES:
            return None
        try:
            header = wire.parse_header(self._input)
            middle = wire.HEADER_BYTES + header.body_length
            end = middle + header.data_length
            if end > _CAPS:
                raise WireError("too-large", f"{self.name} sends a frame of {end} bytes", fatal=True)
            if len(self._input) < end:
                return None
            data = bytes(self._input[middle:end])
            wire.check_data(header, data)
            frame = Frame(
                header.kind,
                header.sequence,
                wire.parse_body(self._input[wire.HEADER_BYTES : middle], header.body_crc),
                data,
            )
        except WireError as error:
            raise self._lost(error.message) from error
        del self._input[:end]
        return frame

    def _hand_out(self, frame: Frame) -> None:
        # before WELCOME whatever is refused is the connection itself
        refused = frame.kind is Kind.ERROR and not self.node
        answers = refused or (frame.kind is Kind.ERROR and frame.body.get("sequence") == str(self._asked))
        if answers or frame.kind in _ANSWERS:
            self._answer = frame
        elif frame.kind is Kind.PING:
            self._pong_due = True  # not now: the caller may be in the middle of a frame
        elif frame.kind is Kind.BYE:
            raise self._lost("the other side said goodbye")
        elif frame.kind is not Kind.PONG:
            self._give(frame)

    def _give(self, frame: Frame) -> None:
        """Hand a frame to the owner; one that makes no sense ends the connection, and nothing else."""
        try:
            self._take(self, frame)
        except WireError as error:
            raise self._lost(f"a frame makes no sense: {error.message}") from error

    def keep_alive(self) -> None:
        """Answer a PING; send one after a third of the idle time-out, and give up after a whole one of silence."""
        moment = time.monotonic()
        if self._pong_due:
            self._pong_due = False
            self.send(Kind.PONG)
        if moment - self._heard > self.idle:
            raise self._lost(f"nothing was heard for {self.idle:g} s")
        if moment - self._sent > self.idle / 3:
            self.send(Kind.PING)

    def ping(self) -> float:
        """Return the seconds until a PING is answered."""
        begun = time.monotonic()
        self.send(Kind.PING)
        before = self._heard
        while self._heard == before:
            self._wait(begun + self._timeout, writable=False, what="no answer to PING")
        return time.monotonic() - begun

    def bye(self) -> None:
        """Say goodbye and close; a connection that is lost already is no error."""
        try:
            if not self.closed:
                self.send(Kind.BYE)
        except UnreachableError:
            pass
        self._close()

    def _close(self) -> None:
        self.closed = True
        self._socket.close()

    def _check_open(self) -> None:
        if self.closed:
            raise UnreachableError(f"the connection to {self.name} is closed", "make the call again")

    def _lost(self, why: str) -> UnreachableError:
        self._close()
        return UnreachableError(f"{self.name}: {why}", "everything is kept; it goes on when a node answers")


def error_of(frame: Frame) -> WireError:
    """Return the error that an ERROR frame tells of."""
    code, message = frame.body.get("code", "unknown"), frame.body.get("message", "an error without a message")
    listing = bytes(frame.data).decode(errors="replace")
    fatal = frame.body.get("fatal") == "yes"
    return WireError(code, message, frame.body.get("hint", ""), fatal=fatal, listing=listing)


def wait_for_any(links: Sequence[Link], seconds: float) -> list[Link]:
    """Return the links on which something came within so many seconds."""
    open_ones = [link for link in links if not link.closed]
    if not open_ones:
        time.sleep(max(0.0, seconds))
        return []
    return list(select.select(open_ones, [], [], max(0.0, seconds))[0])
