"""Both clients against a node that knows the secret and then talks nonsense: neither breaks, forgets or believes it."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imagebuilder import auth, wire
from imagebuilder.pan.client import PanClient
from imagebuilder.wire import Kind
from tests.imagebuilder.test_c_client import AGAIN, KEPT, REFUSED, Pan, compile_c

_EXPOSURE = 7
_KINDS = (
    Kind.ACCEPTED,
    Kind.RECEIVED,
    Kind.SAVED,
    Kind.BUSY,
    Kind.ERROR,
    Kind.PING,
    Kind.PONG,
    Kind.HERE,
    Kind.WELCOME,
)
_VALUES = ("7", "S1", "A", "0", "328", "4294967295", "18446744073709551615", "yes", "no", "missing-rows", "unavailable",
           "not-here", "x" * 2000, "", "-1", "S1 S1")  # fmt: skip
_KEYS = ("exposure", "detector", "amplifier", "row", "rows", "complete", "lfn", "size", "checksum", "version",
         "detectors", "code", "message", "hint", "fatal", "sequence", "seconds", "reason", "host", "port")  # fmt: skip
_LISTS = (
    b"S1 A 0-99999999999999999999\n",
    b"S1 A 5-1\n",
    b"S1 A 0-327\n",
    b"\n\n\n",
    b"S1 A",
    b"x" * 5000,
    b"\xff\xfe",
)


class HostileNode:
    """Says hello as it must, tells every PAN to stay, and then sends frames that mean nothing."""

    def __init__(self, secret: Path, seed: int) -> None:
        self._secret = auth.load_secret(secret)
        self._chance = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.visits = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    self._talk(connection)
                except OSError:
                    continue  # the PAN has had enough

    def _talk(self, connection: socket.socket) -> None:
        hello = self._read(connection)
        theirs, ours = hello["nonce"], auth.new_nonce()
        proof = self._secret.proof("node", theirs, ours, hello["camera"], hello["pan"])
        connection.sendall(wire.encode(Kind.CHALLENGE, 1, {"nonce": ours, "proof": proof}))
        self._read(connection)
        connection.sendall(wire.encode(Kind.WELCOME, 2, {"node": "evil", "block_bytes": 4096, "idle": 5}))
        self._read(connection)
        connection.sendall(wire.encode(Kind.HERE, 3, {"exposure": _EXPOSURE, "host": "", "port": 1}))
        self._read(connection)
        self.visits += 1
        connection.sendall(b"".join(self._nonsense(number) for number in range(4, 4 + self._chance.randint(1, 12))))

    def _read(self, connection: socket.socket) -> dict[str, str]:
        header = wire.parse_header(_exactly(connection, wire.HEADER_BYTES))
        body = wire.parse_body(_exactly(connection, header.body_length), header.body_crc)
        _exactly(connection, header.data_length)
        return body

    def _nonsense(self, sequence: int) -> bytes:
        chance = self._chance
        kind = chance.choice(_KINDS)
        body = {"exposure": str(_EXPOSURE)} if chance.random() < 0.8 else {}
        body |= {key: chance.choice(_VALUES) for key in chance.sample(_KEYS[1:], chance.randint(0, 8))}
        if body.get("code") == "":
            del body["code"]
        lists = kind in (Kind.ACCEPTED, Kind.SAVED, Kind.ERROR)
        frame = bytearray(wire.encode(kind, sequence, body, chance.choice(_LISTS) if lists else b""))
        if chance.random() < 0.15:
            frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
        return bytes(frame)


def _exactly(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        got = connection.recv(size - len(read))
        if not got:
            raise ConnectionResetError
        read += got
    return read


@pytest.fixture
def node(tmp_path: Path) -> Iterator[HostileNode]:
    """A node that talks nonsense."""
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("qwertzuiopasdfghjkl\n")
    made = HostileNode(secret, 11)
    yield made
    made.close()


def test_the_python_client_stays_calm(node: HostileNode, tmp_path: Path) -> None:
    """After many visits it still keeps every row and believes nothing was saved."""
    with PanClient([f"127.0.0.1:{node.port}"], "duo", "pan1", tmp_path / "secret", timeout=3) as pan:
        pan.begin(_EXPOSURE, ["S1"])
        pan.block(_EXPOSURE, "S1", "A", 0, np.arange(328 * 114, dtype=np.uint16).reshape(328, 114))
        for _ in range(60):
            pan.poll(0.1)
            progress = pan.progress(_EXPOSURE)
            assert (progress.saved, progress.rows) == (False, 328)
            if node.visits > 12 or progress.refused:
                break
    assert node.visits > 3


def test_the_c_client_stays_calm(node: HostileNode, tmp_path: Path) -> None:
    """The same under the sanitizers."""
    driver = compile_c(Path(__file__).with_name("driver.c"), tmp_path / "driver")
    with Pan(driver, f"127.0.0.1:{node.port}", tmp_path / "secret") as pan:
        pan("begin", _EXPOSURE, "S1")
        pan("block", _EXPOSURE, "S1", "A", 0, 328)
        for _ in range(60):
            answer = pan("wait", _EXPOSURE, 2, 0.1)
            assert answer.result in (AGAIN, REFUSED)
            assert (answer.state >= KEPT, answer.state < 2, answer.rows) == (True, True, 328)
            if node.visits > 12 or answer.result == REFUSED:
                break
    assert node.visits > 3
