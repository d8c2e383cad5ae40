"""Send the pixels of one PAN from the page cache, as fast as the kernel can: frames to a node, or bare bytes.

python -m benchmarks.programs.push HOW FOLDER NUMBER     HOW: dts, bare. NUMBER: which PAN, from 0.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.children import serve
from benchmarks.programs.receive import SECRET
from imagebuilder import auth, wire
from imagebuilder.camera import load_camera
from imagebuilder.wire import Frame, Kind

_EXPOSURE = 1


class _Pan:
    """The least of a PAN: all headers are made beforehand, the kernel sends the pixels from the file."""

    def __init__(self, port: int, folder: Path, number: int) -> None:
        """Say hello, begin, and prepare all blocks."""
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._sequence = 0
        name, nonce = f"p{number}", auth.new_nonce()
        theirs = self._ask(Kind.HELLO, camera="seed", pan=name, nonce=nonce, software="bench").body["nonce"]
        self._ask(Kind.PROOF, proof=SECRET.proof("pan", nonce, theirs, "seed", name))
        camera = load_camera(folder / "seed.ini")
        each = len(camera.names) // 5
        detectors = camera.detectors[number * each : (number + 1) * each]
        names = " ".join(one.name for one in detectors)
        self._ask(Kind.BEGIN, exposure=_EXPOSURE, detectors=names, expected=names, type="int32")
        self._rows = 0
        self._frames: list[tuple[bytes, int]] = []
        pixels = memoryview((folder / "pixels").read_bytes())
        at = 0
        for detector in detectors:
            for amplifier in detector.amplifiers:
                most = wire.BLOCK_BYTES // (amplifier.columns * 4)
                for row in range(0, amplifier.rows, most):
                    rows = min(most, amplifier.rows - row)
                    size = rows * amplifier.columns * 4
                    names_of = {"exposure": _EXPOSURE, "detector": detector.name, "amplifier": amplifier.name}
                    body = {**names_of, "row": row, "rows": rows, "type": "int32"}
                    self._sequence += 1
                    self._frames.append((wire.head(Kind.BLOCK, self._sequence, body, pixels[at : at + size]), size))
                    self._rows += rows
                    at += size

    def _ask(self, kind: Kind, **body: object) -> Frame:
        self._sequence += 1
        self._socket.sendall(wire.encode(kind, self._sequence, body))
        return self._read()

    def _read(self) -> Frame:
        header = wire.parse_header(self._exactly(wire.HEADER_BYTES))
        body = wire.parse_body(self._exactly(header.body_length), header.body_crc)
        self._exactly(header.data_length)
        if header.kind in (Kind.ERROR, Kind.BUSY):
            raise RuntimeError(f"the node refuses: {body}")
        return Frame(header.kind, header.sequence, body)

    def _exactly(self, size: int) -> bytes:
        return self._socket.recv(size, socket.MSG_WAITALL) if size else b""

    def push(self, file: int) -> None:
        """Send all blocks, and wait until all rows are acknowledged."""
        at = 0
        for head, size in self._frames:
            self._socket.sendall(head, socket.MSG_MORE)
            end = at + size
            while at < end:
                at += os.sendfile(self._socket.fileno(), file, at, end - at)
        while self._rows:
            self._rows -= int(self._read().body["rows"])
        self._socket.close()


def _bare(port: int) -> Callable[[int], None]:
    connection = socket.create_connection(("127.0.0.1", port))

    def push(file: int) -> None:
        at, size = 0, os.fstat(file).st_size
        while at < size:
            at += os.sendfile(connection.fileno(), file, at, min(wire.BLOCK_BYTES, size - at))
        if connection.recv(1) != b"!":
            raise RuntimeError("the receiver has left")

    return push


def main(how: str, folder: str, number: str) -> None:
    """Send once; the port is read from the file `port` of the folder when it is there."""
    place = Path(folder)
    while not (place / "port").exists():
        time.sleep(0.01)
    port = int((place / "port").read_text())
    push = _Pan(port, place, int(number)).push if how == "dts" else _bare(port)
    file = os.open(place / "pixels", os.O_RDONLY)

    def work() -> dict[str, Any]:
        begun = time.process_time()
        push(file)
        return {"cpu": time.process_time() - begun}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
