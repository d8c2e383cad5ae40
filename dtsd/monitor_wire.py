"""The monitor's protocol, both ends: who watches proves it, and is then sent lines.

    daemon  → "DTSM 1 " NONCE
    watcher → "WATCH " USER " " NONCE " " PROOF
    daemon  → "OK " PROOF, and from then on events, each a JSON object on a line of its own
              or "NO " CODE " " MESSAGE, and it closes

Each line ends with one line feed. Nonces are 32 random bytes and proofs 32 bytes of HMAC-SHA256, both in hexadecimal.
The secret itself never travels, and neither reading along nor playing back helps.
"""

from __future__ import annotations

import hmac
import re
import secrets
import socket
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, TypeAlias

from dtscore.errors import CredentialsError, DtsError, ProtocolError, StateError, StreamLostError
from dtscore.monitoring import LONGEST

VERSION = 1
LONGEST_GREETING = 256
"""Most bytes of a line before the watcher is known."""

_GREETING = re.compile(rb"DTSM ([0-9]{1,4}) ([0-9a-f]{64})\Z")
_WATCH = re.compile(rb"WATCH ([!-~]{1,64}) ([0-9a-f]{64}) ([0-9a-f]{64})\Z")
_ANSWER = re.compile(rb"OK ([0-9a-f]{64})\Z|NO ([a-z-]{1,32}) ([ -~]{0,200})\Z")
Side: TypeAlias = Literal["watch", "serve"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a watcher says of itself: its user, its nonce and its proof, both in hexadecimal."""

    user: str
    nonce: str
    proof: str


def new_nonce() -> str:
    """Return 32 random bytes in hexadecimal."""
    return secrets.token_hex(32)


def prove(secret: bytes, side: Side, user: str, serving: str, watching: str) -> str:
    """Return what only a holder of the secret can say, in hexadecimal; `serving` is the daemon's nonce."""
    said = "\n".join((f"DTSM{VERSION}", side, user, serving, watching)).encode()
    return hmac.new(secret, said, sha256).hexdigest()


def greeting(nonce: str) -> bytes:
    """Return the daemon's first line."""
    return f"DTSM {VERSION} {nonce}\n".encode()


def parse_claim(line: bytes) -> Claim:
    """Return what a watcher says of itself; raises ProtocolError."""
    found = _WATCH.match(line)
    if found is None:
        raise ProtocolError("a watcher that does not speak the monitor's protocol", "watch with: dtsmon")
    return Claim(*(part.decode("ascii") for part in found.groups()))


def refusal(code: str, message: str) -> bytes:
    """Return the daemon's last line to whom it does not serve."""
    plain = re.sub(r"[^ -~]", "?", message)
    return f"NO {code} {plain[:200]}\n".encode()


class Lines:
    """Lines from a connection, each at most so long; nothing longer is kept in memory."""

    def __init__(self, connection: socket.socket, longest: int, deadline: float | None = None) -> None:
        """Read from a connection; all lines must have come by `deadline` of the monotonic clock, if one is given."""
        self._connection = connection
        self._longest = longest
        self._deadline = deadline
        self._rest = bytearray()

    def next(self) -> bytes:
        """Return the next line without its line feed.

        Raises StreamLostError when the other side closes or says nothing for too long, ProtocolError for a line that
        is too long.
        """
        looked = 0
        while (end := self._rest.find(b"\n", looked)) < 0:
            looked = len(self._rest)
            if looked > self._longest:
                raise ProtocolError(f"a line of more than {self._longest} bytes", "is this the monitor's port?")
            self._rest += self._more()
        if end > self._longest:
            raise ProtocolError(f"a line of more than {self._longest} bytes", "is this the monitor's port?")
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def _more(self) -> bytes:
        try:
            if self._deadline is not None:
                self._connection.settimeout(max(0.001, self._deadline - time.monotonic()))
            part = self._connection.recv(self._longest if self._deadline else 65536)
        except OSError as error:
            raise StreamLostError(f"the connection broke: {error}", "try again") from error
        if not part:
            raise StreamLostError("the other side closed the connection", "see the log of dtsd there")
        return part

    def endless(self, longest: int) -> None:
        """Read on without a deadline, lines of up to `longest` bytes."""
        self._longest = longest
        self._deadline = None


def attach(connection: socket.socket, user: str, secret: bytes, seconds: float = 10.0) -> Lines:
    """Prove to a daemon who watches, and that it is the daemon; return its lines, which now are events.

    Raises CredentialsError where either proof is wrong, StateError when it has no room for another watcher,
    ProtocolError, StreamLostError.
    """
    lines = Lines(connection, LONGEST_GREETING, time.monotonic() + seconds)
    found = _GREETING.match(lines.next())
    if found is None:
        raise ProtocolError("what answers there is no monitor of dtsd", "is this the monitor's port?")
    if int(found[1]) != VERSION:
        message = f"the monitor there speaks version {int(found[1])} of its protocol, this dtsmon version {VERSION}"
        raise ProtocolError(message, "use the same version of DTS on both sides")
    serving, watching = found[2].decode(), new_nonce()
    proof = prove(secret, "watch", user, serving, watching)
    try:
        connection.sendall(f"WATCH {user} {watching} {proof}\n".encode())
    except OSError as error:
        raise StreamLostError(f"the connection broke: {error}", "try again") from error
    answer = _ANSWER.match(lines.next())
    if answer is None:
        raise ProtocolError("what answers there is no monitor of dtsd", "is this the monitor's port?")
    if answer[1] is None:
        raise _refused(answer[2].decode(), answer[3].decode())
    if not hmac.compare_digest(answer[1].decode(), prove(secret, "serve", user, serving, watching)):
        raise CredentialsError("what answers there does not know our secret", "is the address right?")
    lines.endless(LONGEST + 1)
    return lines


def _refused(code: str, message: str) -> DtsError:
    if code == "credentials":
        return CredentialsError(message, "name the user and secret_file of [remote NAME] as the other site knows them")
    if code == "full":
        return StateError(message, "end another dtsmon, or raise [dtsd] monitor_watchers there")
    return ProtocolError(f"{code}: {message}", "see the log of dtsd there")
