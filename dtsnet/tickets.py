"""Tickets: what joins data connections to a transfer that was agreed on over an authenticated call.

A ticket is a number and a secret. Whoever connects names the number and proves that it knows the secret, for this
connection only; whoever listens proves it back. The secret never travels on a data connection, so that neither
reading along nor playing back helps. A ticket is good for one transfer and ends with it, or when nobody comes.

    listener  → "DTSL", version, 16 bytes of nonce
    connector → "DTSJ", version, stream, ticket number, 16 bytes of its own nonce, HMAC-SHA256
    listener  → HMAC-SHA256, or it closes
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from dtscore.errors import CredentialsError, ProtocolError, StreamLostError
from dtsnet.path import MOST_STREAMS

_GREETING = struct.Struct(">4sH16s")
_JOIN = struct.Struct(">4sHH8s16s32s")
_LISTENS, _JOINS = b"DTSL", b"DTSJ"
VERSION = 1
"""Of all that goes over data connections; both sides must have the same."""
JOINING = 10.0
"""Seconds for a connection to prove its ticket, however slowly its bytes come."""

_NONCE = 16
_PROOF = 32

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A transfer's number and secret, 8 and 32 bytes."""

    number: bytes
    secret: bytes

    def __str__(self) -> str:
        """Return both in hexadecimal, as the control call carries them."""
        return (self.number + self.secret).hex()

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Return the ticket that was written as text; raises ProtocolError."""
        try:
            raw = bytes.fromhex(text)
        except ValueError as error:
            raise ProtocolError("a ticket is not hexadecimal", "both sides must run DTS") from error
        if len(raw) != 40:
            raise ProtocolError(f"a ticket of {len(raw)} bytes, not 40", "both sides must run the same version of DTS")
        return cls(raw[:8], raw[8:])

    def __repr__(self) -> str:
        """Return the number; a secret has no place in logs."""
        return f"Ticket({self.number.hex()})"


@dataclass(slots=True)
class _Issued(Generic[T]):
    ticket: Ticket
    transfer: T
    streams: int
    expires: float


class Tickets(Generic[T]):
    """The tickets that a listener has given out, each for one transfer."""

    def __init__(self, lifetime: float = 60.0) -> None:
        """A ticket that nobody comes with for `lifetime` seconds is void."""
        self._lifetime = lifetime
        self._issued: dict[bytes, _Issued[T]] = {}
        self._lock = threading.Lock()

    def issue(self, transfer: T, streams: int) -> Ticket:
        """Return a new ticket for a transfer over at most so many streams; 0: as many as a sender may choose."""
        ticket = Ticket(secrets.token_bytes(8), secrets.token_bytes(32))
        with self._lock:
            self._drop_stale()
            self._issued[ticket.number] = _Issued(
                ticket, transfer, streams or MOST_STREAMS, time.monotonic() + self._lifetime
            )
        return ticket

    def _drop_stale(self) -> None:
        now = time.monotonic()
        for number in [number for number, issued in self._issued.items() if issued.expires < now]:
            del self._issued[number]

    def void(self, ticket: Ticket) -> None:
        """End a ticket; a connection that comes with it from now on is refused."""
        with self._lock:
            self._issued.pop(ticket.number, None)

    def admit(self, connection: socket.socket, seconds: float = JOINING) -> tuple[T, int]:
        """Let one connection join, within so many seconds; return its transfer and the number of its stream.

        Raises CredentialsError where ticket or proof are wrong, ProtocolError, and StreamLostError.
        """
        deadline = time.monotonic() + seconds
        nonce = secrets.token_bytes(_NONCE)
        _send(connection, _GREETING.pack(_LISTENS, VERSION, nonce))
        magic, version, stream, number, theirs, proof = _JOIN.unpack(_receive(connection, _JOIN.size, deadline))
        _check_version(magic, _JOINS, version)
        with self._lock:
            self._drop_stale()
            issued = self._issued.get(number)
        secret = issued.ticket.secret if issued else secrets.token_bytes(32)
        right = hmac.compare_digest(proof, _prove(secret, b"connect", nonce, theirs, stream))
        if issued is None or not right or stream >= issued.streams:
            raise CredentialsError("a data connection without a good ticket", "its transfer may have ended")
        issued.expires = time.monotonic() + self._lifetime
        _send(connection, _prove(secret, b"listen", nonce, theirs, stream))
        return issued.transfer, stream


def join(connection: socket.socket, ticket: Ticket, stream: int, seconds: float = JOINING) -> None:
    """Join a connection that we made to the transfer of a ticket, within so many seconds.

    Raises CredentialsError where the listener does not know the ticket either, ProtocolError, and StreamLostError.
    """
    deadline = time.monotonic() + seconds
    magic, version, nonce = _GREETING.unpack(_receive(connection, _GREETING.size, deadline))
    ours = secrets.token_bytes(_NONCE)
    proof = _prove(ticket.secret, b"connect", nonce, ours, stream)
    _send(connection, _JOIN.pack(_JOINS, VERSION, stream, ticket.number, ours, proof))
    _check_version(magic, _LISTENS, version)  # after our own words: the listener then knows whom it refuses
    answer = _receive(connection, _PROOF, deadline)
    if not hmac.compare_digest(answer, _prove(ticket.secret, b"listen", nonce, ours, stream)):
        raise CredentialsError("whoever listens there does not know the ticket", "is the address right?")


def _prove(secret: bytes, role: bytes, nonce: bytes, theirs: bytes, stream: int) -> bytes:
    words = (role, nonce, theirs, b"%d" % stream, b"%d" % VERSION)
    return hmac.new(secret, b"\0".join(words), hashlib.sha256).digest()


def _send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError as error:
        raise StreamLostError(f"a data connection broke while joining: {error}", "try again") from error


def _check_version(magic: bytes, expected: bytes, version: int) -> None:
    if magic != expected:
        raise ProtocolError("the other side does not speak our protocol", "is the address right?")
    if version != VERSION:
        message = f"the other side speaks version {version} of the protocol, this one version {VERSION}"
        raise ProtocolError(message, "run the same version of DTS on both sides")


def _receive(connection: socket.socket, length: int, deadline: float) -> bytes:
    data = bytearray()
    try:
        while len(data) < length:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            part = connection.recv(length - len(data))
            if not part:
                raise StreamLostError("a data connection was closed while joining", "a ticket is good for one transfer")
            data += part
    except OSError as error:
        raise StreamLostError(f"a data connection broke while joining: {error}", "try again") from error
    return bytes(data)
