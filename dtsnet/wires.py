"""What carries the bytes of a data connection: TCP as it is, or TLS over it. Both have the same few calls.

All of them raise OSError when the connection breaks, and TimeoutError when nothing moves for the idle time. One thread
may send while another one receives.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from typing import Protocol

_READ_AT_ONCE = 256 * 1024


class Wire(Protocol):
    """A connection that carries bytes."""

    socket: socket.socket
    carried: int
    """Bytes of files that were handed over so far."""

    def receive_into(self, view: memoryview) -> int:
        """Fill at most the view; return how many bytes came, 0 when the other side has closed."""

    def send(self, parts: list[memoryview]) -> None:
        """Send all the parts."""

    def poke(self, data: bytes) -> None:
        """Send a few bytes if they can go at once, else none of them."""

    def send_file(self, descriptor: int, offset: int, length: int) -> int:
        """Send `length` bytes of a file; return how many there were, fewer where the file has become shorter."""

    def waiting(self) -> bool:
        """Whether more has arrived already."""

    def finish(self) -> None:
        """Say that nothing more will be sent."""


def wire_of(connection: socket.socket, idle: float) -> Wire:
    """Return the wire over a connected socket; `idle` seconds without a byte are a TimeoutError."""
    if isinstance(connection, ssl.SSLSocket):
        return SecureWire(connection, idle)
    return PlainWire(connection, idle)


class PlainWire:
    """TCP. The kernel keeps the time-outs: Python's would cost one more system call for each that moves bytes."""

    def __init__(self, connection: socket.socket, idle: float) -> None:
        """Make the socket a blocking one with time-outs of its own."""
        self.socket = connection
        self.carried = 0
        connection.settimeout(None)
        limit = struct.pack("@ll", int(idle), int(idle % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def receive_into(self, view: memoryview) -> int:
        """Fill the view in one call, where it does not break or pause."""
        try:
            return self.socket.recv_into(view, len(view), socket.MSG_WAITALL)
        except BlockingIOError as error:
            raise TimeoutError("nothing came for too long") from error

    def send(self, parts: list[memoryview]) -> None:
        """Send all the parts, in one call where they fit."""
        try:
            while parts:
                sent = self.socket.sendmsg(parts)
                while parts and sent >= len(parts[0]):
                    sent -= len(parts.pop(0))
                if sent:
                    parts[0] = parts[0][sent:]
        except BlockingIOError as error:
            raise TimeoutError("nothing was taken for too long") from error

    def poke(self, data: bytes) -> None:
        """Do not wait where the other side does not read just now."""
        try:
            sent = self.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if sent < len(data):
            raise ConnectionAbortedError("half a frame went")

    def send_file(self, descriptor: int, offset: int, length: int) -> int:
        """Let the kernel take the bytes straight from the page cache."""
        done = 0
        try:
            while done < length and (
                sent := os.sendfile(self.socket.fileno(), descriptor, offset + done, length - done)
            ):
                done += sent
                self.carried += sent
        except BlockingIOError as error:
            raise TimeoutError("nothing was taken for too long") from error
        return done

    def waiting(self) -> bool:
        """Ask the kernel."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def finish(self) -> None:
        """Close one half."""
        self.socket.shutdown(socket.SHUT_WR)


class SecureWire:
    """TLS. OpenSSL does not let two threads into one connection at once: nobody waits while holding the lock."""

    def __init__(self, connection: ssl.SSLSocket, idle: float) -> None:
        """Take over a connection whose handshake is done."""
        self.socket: socket.socket = connection
        self._tls = connection
        self._idle = idle
        self.carried = 0
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        connection.setblocking(False)

    def _wait(self, *, write: bool) -> None:
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT if write else select.POLLIN)
        if not poll.poll(self._idle * 1000):
            raise TimeoutError("nothing moved for too long")

    def receive_into(self, view: memoryview) -> int:
        """Return what one record brings, waiting for it."""
        while True:
            try:
                with self._lock:
                    return self._tls.recv_into(view)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0
            except ssl.SSLWantReadError:
                self._wait(write=False)
            except ssl.SSLWantWriteError:
                self._wait(write=True)

    def send(self, parts: list[memoryview]) -> None:
        """Send the parts one after the other, a few records at a time."""
        with self._sending:
            for part in parts:
                self._send(part)

    def poke(self, data: bytes) -> None:
        """Send: what OpenSSL has begun must be gone on with."""
        self.send([memoryview(data)])

    def _send(self, part: memoryview) -> None:
        while part:
            try:
                with self._lock:
                    part = part[self._tls.send(part) :]
            except ssl.SSLWantReadError:
                self._wait(write=False)
            except ssl.SSLWantWriteError:
                self._wait(write=True)

    def send_file(self, descriptor: int, offset: int, length: int) -> int:
        """Read the bytes and send them, for they are to be encrypted here."""
        buffer = memoryview(bytearray(min(length, _READ_AT_ONCE)))
        done = 0
        while done < length and (count := os.preadv(descriptor, [buffer[: length - done]], offset + done)):
            self.send([buffer[:count]])
            done += count
            self.carried += count
        return done

    def waiting(self) -> bool:
        """Ask OpenSSL, then the kernel."""
        return bool(self._tls.pending() or select.select([self.socket], [], [], 0)[0])

    def finish(self) -> None:
        """Nothing: the frame that says goodbye is enough, and half a TLS connection cannot be closed."""
