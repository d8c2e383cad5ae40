"""Whatever comes to the monitor's port: it answers or closes, serves others meanwhile, and keeps nothing of it."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtscore.errors import DtsError, ProtocolError
from dtsd import monitor_port
from dtsd.monitor_board import Board
from dtsd.monitor_port import Port
from dtsd.monitor_socket import parse
from dtsd.monitor_wire import Lines, attach, new_nonce, parse_claim, prove
from dtsd.server.tls import make_certificate

SECRET = b"0123456789-abcdefghijklmnopqrstuv"


def secret_of(user: str) -> bytes | None:
    """The users file of these tests."""
    return SECRET if user == "anna" else None


@pytest.fixture
def port() -> Iterator[Port]:
    """A port of a board of its own."""
    opened = Port(Board(), "127.0.0.1", 0, secret_of, most=2)
    yield opened
    opened.close()


def connect(port: Port) -> socket.socket:
    """Connect as anybody."""
    return socket.create_connection(("127.0.0.1", port.port), timeout=20.0)


def is_served(port: Port) -> bool:
    """Whether a good watcher is let in, sooner or later."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        with connect(port) as connection, contextlib.suppress(DtsError):
            attach(connection, "anna", SECRET, 20.0)
            return True
        time.sleep(0.05)
    return False


def test_a_thousand_bad_greetings(port: Port) -> None:
    """Bytes of all kinds, whole or cut off, right lines with one byte changed: refused, and good ones are served."""
    chance = random.Random(7)
    for number in range(1000):
        with connect(port) as connection, contextlib.suppress(OSError):
            nonce = connection.recv(256).split()[2].decode()
            ours = new_nonce()
            right = f"WATCH anna {ours} {prove(SECRET, 'watch', 'anna', nonce, ours)}\n".encode()
            connection.sendall(spoil(right, chance, number % 5))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(256)
            assert not answer.startswith(b"OK ")
    assert is_served(port)


def spoil(right: bytes, chance: random.Random, way: int) -> bytes:
    """Return a line that is no longer right."""
    at = chance.randrange(len(right) - 1)
    if way == 0:
        return right[:at] + bytes([right[at] ^ (1 << chance.randrange(8))]) + right[at + 1 :]
    if way == 1:
        return right[:at]
    if way == 2:
        return chance.randbytes(chance.randrange(1, 2000))
    if way == 3:
        return right[:at] + b"\n" + right[at:]
    return right[:at] + right[at:].upper() if right[at:].upper() != right[at:] else b"\n"


@settings(max_examples=3000, deadline=None)
@given(st.binary(max_size=300))
def test_claims_are_parsed_or_refused(line: bytes) -> None:
    """No line makes the parser raise anything but a ProtocolError."""
    with contextlib.suppress(ProtocolError):
        claim = parse_claim(line)
        assert len(claim.nonce) == len(claim.proof) == 64


@settings(max_examples=3000, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_events_are_parsed_or_dropped(message: bytes) -> None:
    """No datagram makes the parser raise."""
    event = parse(message)
    assert event is None or isinstance(event["event"], str)


def test_who_says_nothing_keeps_nobody_out(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-open connections up to the cap and beyond it: the rest are closed, and time frees the places."""
    monkeypatch.setattr(monitor_port, "_JOINING", 0.5)
    silent = [connect(port) for _ in range(40)]
    assert is_served(port)
    assert threading.active_count() < 60
    for connection in silent:
        connection.close()


def test_dribbling_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not stretch the time that a watcher has to prove itself."""
    monkeypatch.setattr(monitor_port, "_JOINING", 0.5)
    opened = Port(Board(), "127.0.0.1", 0, secret_of)
    with connect(opened) as connection:
        connection.recv(256)
        with pytest.raises(OSError):
            while True:
                connection.sendall(b"W")
                time.sleep(0.05)
    opened.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with a certificate of 127.0.0.1 and its key."""
    make_certificate(tmp_path / "cert.pem", tmp_path / "key.pem", ["127.0.0.1"], 1)
    return tmp_path


def test_over_tls(certificate: Path) -> None:
    """With a certificate the port speaks TLS: a plain watcher is refused, one that checks the certificate is served."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    board = Board()
    opened = Port(board, "127.0.0.1", 0, secret_of, tls=context)
    with connect(opened) as plain, pytest.raises(DtsError):
        plain.sendall(b"WATCH anna\n")
        attach(plain, "anna", SECRET, 20.0)
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with trusting.wrap_socket(connect(opened), server_hostname="127.0.0.1") as secure:
        lines: Lines = attach(secure, "anna", SECRET, 20.0)
        secure.settimeout(20.0)
        board.tell("error", message="told in secret")
        while b"told in secret" not in lines.next():
            pass
    opened.close()


def test_the_proofs_of_the_documentation() -> None:
    """docs/dtsmon.md gives an example for who writes a watcher of their own; openssl computes the same."""
    said = ("anna", "1" * 64, "2" * 64)
    shown = " ".join((Path(__file__).parents[2] / "docs" / "dtsmon.md").read_text().split())
    proof, answer = prove(SECRET, "watch", *said), prove(SECRET, "serve", *said)
    assert f"P is `{proof}`, Q is `{answer}`" in shown
    digest = ["openssl", "dgst", "-sha256", "-hmac", SECRET.decode()]
    text = "\n".join(("DTSM1", "watch", *said)).encode()
    assert proof in subprocess.run(digest, input=text, capture_output=True, check=True).stdout.decode()
