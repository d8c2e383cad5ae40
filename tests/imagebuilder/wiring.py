"""A node or supervisor in a thread, and a PAN that says exactly what a test wants, byte by byte if need be."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtscore.config import ImageBuilderSettings
from dtscore.database import Database
from imagebuilder import auth, exposures, wire
from imagebuilder.camera import Camera, find_camera
from imagebuilder.node import Node
from imagebuilder.placing import PIXEL_TYPES
from imagebuilder.records import SavedFile
from imagebuilder.supervisor import Supervisor
from imagebuilder.wire import Buffer, Frame, Kind

DUO: Camera = find_camera("duo", [])
SECRET = "Zw8-pq3.LmN5tR7v"
PAGE = 256 << 10


def settings(folder: Path, **changes: Any) -> ImageBuilderSettings:
    """Return settings of a small node of a test, with its secret file."""
    secret = folder / "pan.secret"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(SECRET + "\n")
    base = ImageBuilderSettings(
        node=True, supervisor=True, host="127.0.0.1", address="127.0.0.1", port=0, supervisor_port=0,
        secret_file=secret, numbers_file=folder / "numbers", previews=None, peers="127.0.0.0/8",
        cameras=folder / "cameras", cache=4 * PAGE, page=PAGE, cache_folder=folder / "cache", block=96 << 10, idle=20.0,
        heartbeat=0.05, stale=5.0, partial_after=60.0, settle=0.0, lfn="/{camera}/{label}{version}.fits",
        target="local", then=(), compress=False, owner="camera", priority=7,
    )  # fmt: skip
    return replace(base, **changes)


@contextmanager
def serving(server: Node | Supervisor) -> Iterator[None]:
    """Run a node or supervisor in a thread of its own, and stop it in good order."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join(timeout=60)
        assert not thread.is_alive()


@contextmanager
def running(database: Database, folder: Path, name: str = "one", **changes: Any) -> Iterator[Node]:
    """Run a node."""
    node = Node(database, settings(folder, **changes), name)
    with serving(node):
        yield node


class RawPan:
    """A PAN without any cleverness: sends one frame, reads one frame."""

    def __init__(self, port: int, pan: str = "p1", camera: str = "duo", *, hello: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.pan, self.camera = pan, camera
        self.sequence = 0
        if hello:
            self.hello()

    def hello(self, secret: str = SECRET) -> Frame:
        """Exchange proofs, and return what the node says to ours."""
        known, nonce = auth.Secret(secret.encode()), auth.new_nonce()
        challenge = self.ask(Kind.HELLO, camera=self.camera, pan=self.pan, nonce=nonce, software="test")
        theirs = challenge.body["nonce"]
        proof = known.proof("pan", nonce, theirs, self.camera, self.pan)
        return self.ask(Kind.PROOF, proof=proof)

    def send(self, kind: Kind, data: Buffer = b"", **body: object) -> int:
        """Send a frame and return its sequence number."""
        self.sequence += 1
        self.socket.sendall(wire.encode(kind, self.sequence, body, data))
        return self.sequence

    def read(self) -> Frame:
        """Return the next frame; ConnectionError when there is none any more."""
        header = wire.parse_header(self._exactly(wire.HEADER_BYTES))
        body = wire.parse_body(self._exactly(header.body_length), header.body_crc)
        data = self._exactly(header.data_length)
        wire.check_data(header, data)
        return Frame(header.kind, header.sequence, body, data)

    def ask(self, kind: Kind, data: Buffer = b"", **body: object) -> Frame:
        """Send a frame and return the next one."""
        self.send(kind, data, **body)
        return self.read()

    def refused(self, code: str, kind: Kind, data: Buffer = b"", **body: object) -> Frame:
        """Send a frame that must be answered by an ERROR with this code, a message and a hint."""
        sequence = self.send(kind, data, **body)
        return self.expect_error(code, sequence)

    def expect_error(self, code: str, sequence: int) -> Frame:
        """Read the ERROR that a frame is answered by."""
        answer = self.read()
        assert (answer.kind, answer.body.get("code")) == (Kind.ERROR, code), answer
        assert answer.body["message"]
        assert answer.body["hint"]
        assert answer.body["sequence"] == str(sequence)
        return answer

    def begin(self, exposure: int, detectors: str = "S1 N1", expected: str = "*", type: str = "uint16") -> Frame:
        """Begin an exposure and return the answer."""
        return self.ask(Kind.BEGIN, exposure=exposure, detectors=detectors, expected=expected, type=type)

    def block(self, exposure: int, detector: str, amplifier: str, row: int, pixels: NDArray[Any]) -> Frame:
        """Send rows of pixels and return the answer."""
        return self.ask(Kind.BLOCK, pixels.tobytes(), **block_body(exposure, detector, amplifier, row, len(pixels)))

    def send_all(self, exposure: int, sky: Mapping[tuple[str, str], NDArray[Any]], rows: int = 100) -> None:
        """Send all pixels of an exposure, and read until the last row is RECEIVED."""
        for (detector, amplifier), pixels in sky.items():
            for row in range(0, len(pixels), rows):
                piece = pixels[row : row + rows]
                self.send(Kind.BLOCK, piece.tobytes(), **block_body(exposure, detector, amplifier, row, len(piece)))
        left = sum(len(pixels) for pixels in sky.values())
        while left:
            answer = self.read()
            assert answer.kind is Kind.RECEIVED, answer
            left -= int(answer.body["rows"])

    def _exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = self.socket.recv(size - len(got))
            if not piece:
                raise ConnectionError("the node closed the connection")
            got += piece
        return got

    def ended(self) -> bool:
        """Whether the node closes the connection without a further frame."""
        return self.socket.recv(1) == b""

    def close(self) -> None:
        """Go without a word."""
        self.socket.close()

    def __enter__(self) -> RawPan:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def block_body(
    exposure: int, detector: str, amplifier: str, row: int, rows: int, type: str = "uint16"
) -> dict[str, Any]:
    """Return the body of a BLOCK."""
    return {
        "exposure": exposure, "detector": detector, "amplifier": amplifier, "row": row, "rows": rows, "type": type,
    }  # fmt: skip


def sky_of(detectors: str = "S1 N1", type: str = "uint16", seed: int = 1) -> dict[tuple[str, str], NDArray[Any]]:
    """Return random pixels in readout order for each amplifier, of every value that the type can have."""
    sent = np.dtype(PIXEL_TYPES[type][0])
    found = {}
    for name in detectors.split():
        random = np.random.default_rng([seed, *name.encode()])
        for one in DUO.detector(name).amplifiers:
            raw = random.bytes(one.rows * one.columns * sent.itemsize)
            found[name, one.name] = np.frombuffer(raw, dtype=sent).reshape(one.rows, one.columns)
    return found


def label(database: Database, count: int = 1, camera: str = "duo") -> int:
    """Hand out numbers, return the first."""
    return database.run(lambda connection: exposures.hand_out(connection, camera, count))[0].exposure


def save(database: Database, node: str, exposure: int, *, partial: bool = False) -> SavedFile:
    """Do in the database what the agents do when a file of the exposure is built."""

    def work(connection: Any) -> SavedFile:
        due = next(
            one
            for one in exposures.due(connection, node, partial_after=0.0 if partial else 1e9)
            if one.exposure == exposure
        )
        name = f"/duo/{due.label}_{due.version}.fits"
        reserved = exposures.reserve_file(connection, due, name, node)
        assert reserved is not None
        built = exposures.Built(123456, "adler32:03da0195", {})
        return exposures.saved(connection, reserved, built)

    return database.run(work)


def descriptors() -> int:
    """Return the number of open files of this process."""
    return len(os.listdir("/proc/self/fd"))
