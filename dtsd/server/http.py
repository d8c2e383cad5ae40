"""HTTP/1.1 as much as XML-RPC needs: one connection, its requests read and answered within deadlines and bounds."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dtscore.errors import DtsError, ElementUnavailableError, ProtocolError, StreamLostError
from dtsnet.faults import fault_of
from dtsnet.xmlrpc import write_fault

PATH = "/RPC2"
_LONGEST_HEAD = 16 * 1024
_MOST_HEADERS = 64
_AT_ONCE = 64 * 1024
_SLOWEST = 16 * 1024
"""Bytes a second that a reader of an answer must take."""

_LINGER = 1.0
"""Seconds in which the rest of a refused request is thrown away, so that its sender can read why."""

_FIRST = re.compile(r"([A-Z]{1,16}) (\S{1,1024}) HTTP/1\.([01])\Z")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*(.*?)[ \t]*\Z")
_REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 411: "Length Required", 413: "Content Too Large", 431: "Request Header Fields Too Large",
    501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip


class RefusedRequestError(ProtocolError):
    """A request that is answered with an HTTP status of its own; the connection is closed after it."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        """Keep the status beside what every error has."""
        super().__init__(message, hint)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request: its headers by name in lower case, the length of its body, whether more may follow it."""

    headers: Mapping[str, str]
    length: int
    keeps: bool

    @property
    def expects(self) -> bool:
        """Whether the sender waits to be told that the body is wanted."""
        return self.headers.get("expect", "").lower() == "100-continue"


def read_head(raw: bytes, longest_body: int) -> Head:
    """Return the head of a request to `/RPC2`; raises RefusedRequestError for anything else."""
    try:
        first, *lines = raw.decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise RefusedRequestError(400, "the head of the request is not ASCII", "send HTTP/1.1") from error
    match = _FIRST.match(first)
    if match is None:
        raise RefusedRequestError(400, f"{first!r:.80} is not the first line of a request", "send HTTP/1.1")
    if match[2] != PATH:
        raise RefusedRequestError(404, f"there is nothing at {match[2]!r:.80}", f"calls go to {PATH}")
    if match[1] != "POST":
        raise RefusedRequestError(405, f"{match[1]} is not allowed", "send XML-RPC by POST")
    headers = _headers(lines)
    keeps = match[3] == "1" and headers.get("connection", "").lower() != "close"
    return Head(headers, _length(headers, longest_body), keeps)


def _headers(lines: list[str]) -> dict[str, str]:
    if len(lines) > _MOST_HEADERS:
        raise RefusedRequestError(431, f"{len(lines)} headers", f"send at most {_MOST_HEADERS}")
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.match(line)
        if match is None or match[1].lower() in headers:
            raise RefusedRequestError(400, f"{line!r:.80} is no header, or stands twice", "send HTTP/1.1")
        headers[match[1].lower()] = match[2]
    return headers


def _length(headers: Mapping[str, str], longest: int) -> int:
    if "transfer-encoding" in headers or headers.get("content-encoding", "identity") != "identity":
        raise RefusedRequestError(501, "the body is encoded", "send it plain, with Content-Length")
    text = headers.get("content-length")
    if text is None:
        raise RefusedRequestError(411, "the length of the body is missing", "send Content-Length")
    if not re.match(r"[0-9]{1,18}\Z", text):
        raise RefusedRequestError(400, f"{text!r:.40} is not the length of a body", "send Content-Length")
    if int(text) > longest:
        what = f"a body of {int(text):,} bytes; {longest:,} are allowed"
        raise RefusedRequestError(413, what, "send less at once, or raise [dtsd] max_body")
    return int(text)


class Wire:
    """One connection: requests in, answers out."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connected socket."""
        self.connection = connection
        self._data = bytearray()

    def wait(self, seconds: float) -> bool:
        """Wait for the first byte of a request; False where none comes, or the other side has closed."""
        if self._data:
            return True
        try:
            self.connection.settimeout(seconds)
            part = self.connection.recv(_AT_ONCE)
        except OSError:
            return False
        self._data += part
        return bool(part)

    def read_head(self, deadline: float, longest_body: int) -> Head:
        """Read the head of a request until `deadline` (monotonic, s); raises RefusedRequestError, StreamLostError."""
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > _LONGEST_HEAD:
                raise RefusedRequestError(431, "the head of the request has no end", f"at most {_LONGEST_HEAD} bytes")
            self._more(deadline)
        if end > _LONGEST_HEAD:
            raise RefusedRequestError(431, "the head of the request is too long", f"at most {_LONGEST_HEAD} bytes")
        raw = bytes(self._data[:end])
        del self._data[: end + 4]
        return read_head(raw, longest_body)

    def read_body(self, head: Head, deadline: float) -> bytes:
        """Read the body; raises RefusedRequestError and StreamLostError."""
        if head.expects and len(self._data) < head.length:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n", deadline)
        while len(self._data) < head.length:
            self._more(deadline)
        body = bytes(self._data[: head.length])
        del self._data[: head.length]
        return body

    def _more(self, deadline: float) -> None:
        seconds = deadline - time.monotonic()
        try:
            if seconds <= 0:
                raise TimeoutError
            self.connection.settimeout(seconds)
            part = self.connection.recv(_AT_ONCE)
        except TimeoutError as error:
            what = "the request did not come whole in time"
            raise RefusedRequestError(408, what, "send it at once, or raise [dtsd] patience") from error
        except OSError as error:
            raise StreamLostError(f"the connection broke: {error}", "connect again") from error
        if not part:
            raise StreamLostError("the connection was closed in the middle of a request", "connect again")
        self._data += part

    def answer(self, status: int, body: bytes, headers: Mapping[str, str], *, keeps: bool, patience: float) -> None:
        """Send an answer; a reader may take `patience` seconds and longer for a long one. Raises StreamLostError."""
        self.send(message(status, body, headers, keeps=keeps), time.monotonic() + patience + len(body) / _SLOWEST)

    def send(self, data: bytes, deadline: float) -> None:
        """Send bytes as they are until `deadline` (monotonic, s); raises StreamLostError."""
        view = memoryview(data)
        try:
            while view:
                self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
                view = view[self.connection.send(view[:_AT_ONCE]) :]
        except OSError as error:
            raise StreamLostError(f"the answer could not be sent: {error}", "connect again") from error

    def linger(self) -> None:
        """Throw away what is still coming, for a moment: closing at once would take the answer from its reader."""
        deadline = time.monotonic() + _LINGER
        try:
            socket.socket.shutdown(self.connection, socket.SHUT_WR)
            while (seconds := deadline - time.monotonic()) > 0:
                self.connection.settimeout(seconds)
                if not self.connection.recv(_AT_ONCE):
                    return
        except (OSError, ValueError):
            return


def message(status: int, body: bytes, headers: Mapping[str, str], *, keeps: bool) -> bytes:
    """Return an answer as bytes."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", "Content-Type: text/xml", f"Content-Length: {len(body)}",
             "Server: dtsd", *(f"{name}: {value}" for name, value in headers.items())]  # fmt: skip
    if not keeps:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


def refusal(status: int, error: DtsError) -> bytes:
    """Return the answer to a request that is not taken: a fault that nobody signed."""
    more = {405: {"Allow": "POST"}, 503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "X-DTS-Signature"}}
    return message(status, write_fault(fault_of(error)), more.get(status, {}), keeps=False)


def turn_away(connection: socket.socket, *, tls: bool) -> None:
    """Tell a connection for which there is no place to come again, without waiting for anything."""
    full = ElementUnavailableError("the daemon is busy: it has no place for another connection", "try again")
    try:
        connection.setblocking(False)
        if not tls:
            _swallow(connection)
            connection.send(refusal(503, full))
            connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it need not hear why
    connection.close()


def _swallow(connection: socket.socket) -> None:
    """Take what has come: closing a connection with unread bytes would take the answer from its reader."""
    receive: Callable[[int], bytes] = connection.recv
    try:
        while receive(_AT_ONCE):
            pass
    except BlockingIOError:
        return
