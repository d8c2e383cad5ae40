"""Calling the daemon of another site: XML-RPC over HTTP/1.1, signed, with bounds on time and size.

Small on purpose and without `http.client`: a program that makes one call should not load a mail parser first.
"""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dtscore.config import read_secret
from dtscore.errors import ConfigurationError, CredentialsError, DtsError, ProtocolError, StreamLostError
from dtsnet.credentials import SIGNATURE, VERSION, VERSION_HEADER, Signed, check_secret, is_answer, sign
from dtsnet.faults import error_of
from dtsnet.xmlrpc import Fault, Value, read_answer, write_call

if TYPE_CHECKING:
    import ssl

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/\S*)?\Z"
)
_LONGEST_HEAD = 32 * 1024
_AT_ONCE = 64 * 1024
_LEAST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
LONGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that are read at most."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon is and who we are there; `timeout` in seconds bounds a whole call, `label` names it in errors.

    Without a secret the client certificate says who we are. `ca_file` holds the certificates that are trusted; without
    one, the system's are.
    """

    url: str
    user: str = ""
    secret: bytes = field(default=b"", repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    timeout: float = 60.0
    label: str = ""

    @property
    def host(self) -> str:
        """The host's name or address."""
        return self._parts()["host"].strip("[]")

    @property
    def port(self) -> int:
        """The TCP port; 7740 where the URL names none."""
        return int(self._parts()["port"] or 7740)

    @property
    def path(self) -> str:
        """The path of the URL, /RPC2 where it names none."""
        path = self._parts()["path"]
        return path if path and path != "/" else "/RPC2"

    @property
    def is_tls(self) -> bool:
        """Whether the URL begins with https."""
        return self._parts()["scheme"] == "https"

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.label or self.url

    def _parts(self) -> re.Match[str]:
        match = _URL.match(self.url)
        if match is None or int(match["port"] or 1) > 65535:
            raise ConfigurationError(f"{self.url!r:.120} is not the URL of a daemon", "write https://HOST:7740/RPC2")
        return match


def read_key(path: Path, user: str) -> bytes:
    """Return the secret in a file of mode 0600; ConfigurationError where it is open to others, short or guessable."""
    return check_secret(read_secret(path).strip(), f"{user} in {path}")


def tls_to(address: Address) -> ssl.SSLContext:
    """Return the TLS context for connections to a site, control and data alike; raises ConfigurationError."""
    import ssl

    try:
        context = ssl.create_default_context(cafile=str(address.ca_file) if address.ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if address.certificate_file is not None:
            context.load_cert_chain(address.certificate_file, address.key_file)
    except (OSError, ssl.SSLError) as error:
        what = f"{address.name}: its certificates cannot be read: {error}"
        raise ConfigurationError(what, "check ca_file, certificate_file and key_file") from error
    return context


class Remote:
    """The daemon of another site. Threads may share one: each call in work has a connection, which is kept for more."""

    def __init__(self, address: Address) -> None:
        """Keep the address; nothing is connected yet. Raises ConfigurationError for a wrong URL or certificates."""
        self.address = address
        self._tls = tls_to(address) if address.is_tls else None
        self._host = f"{address.host if ':' not in address.host else f'[{address.host}]'}:{address.port}"
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def call(self, method: str, *arguments: Value, timeout: float | None = None) -> Value:
        """Call a method and return its value; `timeout` (s) instead of the address's bounds the whole call.

        Raises the error that the daemon's fault names, ConfigurationError, ProtocolError (what answers is no daemon of
        ours), CredentialsError (either side refuses the other), StreamLostError (no connection, or no answer in time).
        A call is made at most once: where a connection broke before the answer, the same signed request is sent again,
        which the daemon refuses if it has taken it before.
        """
        body = write_call(method, arguments)
        address = self.address
        signed = sign(address.user, address.secret, body) if address.secret else None
        request = self._head(len(body), signed) + body
        deadline = time.monotonic() + (address.timeout if timeout is None else timeout)
        status, headers, answer = self._exchange(request, signed, deadline)
        found = self._read(status, headers, answer, signed)
        if isinstance(found, Fault):
            raise error_of(found, address.label)
        return found

    def _head(self, length: int, signed: Signed | None) -> bytes:
        lines = [f"POST {self.address.path} HTTP/1.1", f"Host: {self._host}", "Content-Type: text/xml",
                 f"Content-Length: {length}", "User-Agent: dts", f"{VERSION_HEADER}: {VERSION}"]  # fmt: skip
        if signed is not None:
            lines += [f"{name}: {value}" for name, value in signed.headers().items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def _exchange(self, request: bytes, signed: Signed | None, deadline: float) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request until it is answered: a busy daemon is asked again, a kept connection may have ended."""
        pause, resent = _LEAST_PAUSE, False
        while True:
            connection = self._take()
            was_kept = connection is not None
            connection = connection or self._connect(deadline)
            try:
                answer = _ask(connection, request, deadline)
            except (OSError, EOFError) as error:
                connection.close()
                if was_kept and not resent and not isinstance(error, TimeoutError):
                    resent = True
                    continue
                raise self._lost(error) from error
            except BaseException:
                connection.close()
                raise
            self._give(connection, answer[1])
            if answer[0] == 401 and resent and signed is not None:
                raise self._lost(EOFError("the connection broke after the call was taken; its answer is lost"))
            if answer[0] != 503 or time.monotonic() + pause > deadline:
                return answer
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _lost(self, error: Exception) -> StreamLostError:
        said = "no answer in time" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or error
        return StreamLostError(f"{self.address.name}: {said}", f"does dtsd run there, and is {self._host} right?")

    def _take(self) -> socket.socket | None:
        """Return a kept connection on which nothing has come since, which would be its end."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()

    def _give(self, connection: socket.socket, headers: Mapping[str, str]) -> None:
        if headers.get("connection", "").lower() == "close":
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)

    def _connect(self, deadline: float) -> socket.socket:
        address = self.address
        try:
            seconds = max(deadline - time.monotonic(), 0.001)
            connection = socket.create_connection((address.host, address.port), timeout=seconds)
        except OSError as error:
            raise self._lost(error) from error
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._tls.wrap_socket(connection, server_hostname=address.host) if self._tls else connection
        except OSError as error:
            connection.close()
            why = getattr(error, "verify_message", "")
            if not why:
                raise self._lost(error) from error
            what = f"{address.name}: its certificate is refused: {why}"
            raise CredentialsError(what, "name the certificate that is trusted by ca_file") from error

    def _read(self, status: int, headers: Mapping[str, str], body: bytes, signed: Signed | None) -> Value | Fault:
        """Return the answer after it has proved that it comes from a holder of our secret."""
        secret, name = self.address.secret, self.address.name
        if status != 200:
            raise self._refusal(status, body)
        if signed is not None and not is_answer(secret, signed.nonce, body, headers.get(SIGNATURE.lower(), "")):
            raise CredentialsError(f"{name}: who answered does not know our secret", "is the address right?")
        return read_answer(body)

    def _refusal(self, status: int, body: bytes) -> DtsError:
        """Return the error of an answer that is not signed: the call was not taken."""
        try:
            found = read_answer(body)
            if isinstance(found, Fault):
                return error_of(found, self.address.label)
        except ProtocolError:
            pass  # said in plain words, by something else than a daemon of ours
        said = body.decode("utf-8", "replace")[:200]
        return ProtocolError(f"{self.address.name} answered {status}: {said}", "is it a dtsd that answers there?")

    def close(self) -> None:
        """Close the kept connections; never raises."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _ask(connection: socket.socket, request: bytes, deadline: float) -> tuple[int, Mapping[str, str], bytes]:
    """Send one request and return status, headers (names in lower case) and body of its answer.

    A daemon that refuses a request may answer before it has read all of it, and close.
    """
    data, broken = bytearray(), _send(connection, request, deadline)
    while b"\r\n\r\n" not in data:
        try:
            _more(connection, data, deadline)
        except (OSError, EOFError) as error:
            raise broken or error from error
        if len(data) > _LONGEST_HEAD and b"\r\n\r\n" not in data:
            raise ProtocolError("an answer with an endless head", "is it a dtsd that answers there?")
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    status, headers = _read_head(head)
    length = headers.get("content-length", "")
    if not length.isascii() or not length.isdigit() or int(length) > LONGEST_ANSWER:
        raise ProtocolError(f"an answer of {length!r:.20} bytes", "is it a dtsd that answers there?")
    body = bytearray(rest)
    while len(body) < int(length):
        _more(connection, body, deadline)
    if len(body) > int(length):
        raise ProtocolError("an answer longer than it says", "is it a dtsd that answers there?")
    return status, headers, bytes(body)


def _send(connection: socket.socket, request: bytes, deadline: float) -> OSError | None:
    """Send a request; return what broke the connection meanwhile. Raises TimeoutError."""
    view = memoryview(request)
    try:
        while view:
            _arm(connection, deadline)
            view = view[connection.send(view[:_AT_ONCE]) :]
    except ConnectionError as error:
        return error
    return None


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    match = re.match(r"HTTP/1\.[01] ([0-9]{3})(?: |\Z)", first)
    if match is None:
        raise ProtocolError("what answers does not speak HTTP", "is the address right, and https where it is TLS?")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(match[1]), headers


def _more(connection: socket.socket, data: bytearray, deadline: float) -> None:
    _arm(connection, deadline)
    part = connection.recv(_AT_ONCE)
    if not part:
        raise EOFError("the connection was closed before the answer")
    data += part


def _arm(connection: socket.socket, deadline: float) -> None:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("no answer in time")
    connection.settimeout(seconds)
