"""A node's end of a connection: frames received into buffers made beforehand, with limits and time-outs; sent in order.

One thread receives and sends on a link; other threads hand it what to send by `post`. Reads wait in the kernel for a
whole block (MSG_WAITALL): each time that a thread sleeps and is woken costs as much as copying 100 KiB.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from dtscore.errors import DtsError
from imagebuilder import wire
from imagebuilder.wire import BODY_CAP, HEADER_BYTES, Buffer, Frame, Header, Kind, WireError

_TIMEVAL = struct.Struct("@ll")
_LINGER = 1.0


class LinkLostError(DtsError):
    """The other side closed the connection, or it broke; nothing more can be read or sent."""

    exit_code = 5


class Link:
    """One connection. `idle` (s) is the longest time without a byte, in a frame or between two of them."""

    def __init__(self, connection: socket.socket, *, idle: float, block_bytes: int = wire.BLOCK_BYTES) -> None:
        """Take over a connected socket; `block_bytes` is the largest data of a frame that is taken."""
        self.block_bytes = block_bytes
        self.on_wake: Callable[[], None] = lambda: None
        self._socket = connection
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.set_idle(idle)
        self._start = memoryview(bytearray(HEADER_BYTES + BODY_CAP))
        self._data = memoryview(b"")
        self._sent = 0
        self._heard = 0
        self._ending = False
        self._outbox: deque[tuple[Kind, Mapping[str, object], Buffer]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._guard = threading.Lock()
        self._both = select.poll()
        self._both.register(connection, select.POLLIN)
        self._both.register(self._wake, select.POLLIN)
        self._alone = select.poll()
        self._alone.register(connection, select.POLLIN)

    def set_idle(self, seconds: float) -> None:
        """Have every read and every write end with `stalled` after so many seconds without a byte."""
        self.idle = seconds
        limit = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    @property
    def descriptor(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def next_header(self) -> tuple[Header, dict[str, str]]:
        """Wait for a frame, sending what is posted meanwhile; return its header and body. Its data are to be read next.

        Raises WireError for a frame that is refused and for `stalled`, LinkLostError at the end of the connection.
        """
        self._wait_for_frame()
        self._read(self._start[:HEADER_BYTES])
        header = wire.parse_header(self._start[:HEADER_BYTES], self.block_bytes)
        body = self._start[HEADER_BYTES : HEADER_BYTES + header.body_length]
        self._read(body)
        values = wire.parse_body(body, header.body_crc)
        self._heard += 1
        if header.sequence != self._heard:
            what = f"frame {self._heard} has sequence {header.sequence}"
            raise WireError("bad-sequence", what, "count frames from 1", fatal=True)
        return header, values

    def data(self, header: Header) -> memoryview:
        """Return the data of the frame whose header was read last, unchecked; valid until the next frame is read."""
        if not header.data_length:
            return memoryview(b"")
        if len(self._data) < header.data_length:
            room = self.block_bytes if header.kind is Kind.BLOCK else header.data_length
            self._data = memoryview(bytearray(room))
        view = self._data[: header.data_length]
        self._read(view)
        return view

    def receive(self) -> Frame:
        """Return the next whole frame, checked; raises as `next_header`, and WireError `bad-crc`."""
        header, body = self.next_header()
        data = self.data(header)
        wire.check_data(header, data)
        return Frame(header.kind, header.sequence, body, data)

    def pending(self) -> bool:
        """Whether bytes of a further frame have come already, or the connection has ended."""
        return bool(self._alone.poll(0))

    def send(self, kind: Kind, body: Mapping[str, object] | None = None, data: Buffer = b"") -> int:
        """Send one frame from the link's own thread; return its sequence number. Raises LinkLostError, WireError."""
        head = wire.head(kind, self._sent + 1, body, data)
        self._sent += 1
        self._write(memoryview(head))
        if data:
            self._write(memoryview(data).cast("B"))
        return self._sent

    def post(self, kind: Kind, body: Mapping[str, object], data: Buffer = b"") -> None:
        """Have the link's own thread send a frame, from any thread and at once."""
        self._outbox.append((kind, body, data))
        self.wake()

    def wake(self) -> None:
        """Have a thread that waits for a frame look up."""
        with self._guard:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def flush(self) -> None:
        """Send what was posted."""
        while self._outbox:
            self.send(*self._outbox.popleft())

    def end(self) -> None:
        """Have the link's own thread send what was posted and then leave: it gets LinkLostError between two frames."""
        self._ending = True
        self.wake()

    def break_off(self) -> None:
        """End the connection from another thread: whoever waits on it gets LinkLostError at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended already

    def close(self) -> None:
        """Close the socket, after reading away for a moment what is on its way: else the last words would be lost."""
        self._linger()
        self._socket.close()
        with self._guard:
            if self._wake >= 0:
                os.close(self._wake)
            self._wake = -1

    def _linger(self) -> None:
        until = time.monotonic() + _LINGER
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_LINGER)
            while time.monotonic() < until and self._socket.recv_into(self._start):
                pass
        except OSError:
            return  # it has ended already, or stays silent

    def _wait_for_frame(self) -> None:
        until = time.monotonic() + self.idle
        while True:
            self.flush()
            if self._ending:
                raise LinkLostError("this side ended the connection", "connect again")
            ready = dict(self._both.poll(max(0.0, until - time.monotonic()) * 1000))
            if self._wake in ready:
                os.eventfd_read(self._wake)
                self.on_wake()
                self.flush()
            elif not ready:
                raise self._stalled()
            if len(ready) > (self._wake in ready):
                return

    def _read(self, view: memoryview) -> None:
        """Fill a view."""
        at, size = 0, len(view)
        while at < size:
            try:
                count = self._socket.recv_into(view[at:], 0, socket.MSG_WAITALL)
            except BlockingIOError as error:  # the time-out of the socket
                raise self._stalled() from error
            except OSError as error:
                raise LinkLostError(f"the connection broke: {error}", "connect again") from error
            if not count:
                what = "in the middle of a frame" if at or view.obj is not self._start.obj else "between two frames"
                raise LinkLostError(f"the other side closed the connection {what}", "connect again")
            at += count

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                view = view[self._socket.send(view, socket.MSG_NOSIGNAL) :]
            except BlockingIOError as error:
                raise self._stalled() from error
            except OSError as error:
                raise LinkLostError(f"the connection broke: {error}", "connect again") from error

    def _stalled(self) -> WireError:
        what = f"nothing moved over the connection for {self.idle:g} s"
        return WireError("stalled", what, "send PING while there is nothing to say", fatal=True)
