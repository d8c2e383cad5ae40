"""Where the two ends of a transfer meet: one listens, the other connects, whichever the firewalls allow.

`push`: the receiver listens and the sender connects. `give`: the sender listens and the receiver connects. In both the
connections carry the same frames the same way; only who calls whom differs.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Protocol

import structlog

from dtscore.errors import DtsError, StreamLostError
from dtsnet.frames import Stream
from dtsnet.tickets import JOINING, Ticket, Tickets, join

log = structlog.get_logger(__name__)

_STRANGERS = 64
"""Connections that have not proved anything yet; when there are more, the oldest is closed."""


class Tls(Protocol):
    """What secures a connection: an SSL context, or something that knows better which side has the certificate."""

    def wrap_socket(
        self, sock: socket.socket, server_side: bool = False, *, server_hostname: str | None = None
    ) -> ssl.SSLSocket:
        """Do the handshake and return the connection, encrypted."""


class Meeting:
    """The connections of one transfer as they arrive, by number."""

    def __init__(self, arrived: Callable[[Stream], None] | None = None) -> None:
        """`arrived` is called, in a thread of its own, for each connection; without it `wait` hands them out."""
        self.arrived = arrived
        self._waiting: dict[int, queue.SimpleQueue[Stream]] = defaultdict(queue.SimpleQueue)

    def hand(self, stream: Stream) -> None:
        """Take a connection that has joined; one of the same number that nobody has fetched yet is closed."""
        if self.arrived is not None:
            self.arrived(stream)
            return
        waiting = self._waiting[stream.number]
        while True:
            try:
                waiting.get_nowait().close()
            except queue.Empty:
                break
        waiting.put(stream)

    def wait(self, number: int, seconds: float) -> Stream:
        """Return the next connection of a number; raises StreamLostError when none comes."""
        try:
            return self._waiting[number].get(timeout=seconds)
        except queue.Empty:
            message = f"nobody connected as stream {number} within {seconds:.0f} s"
            raise StreamLostError(message, "see the log of the other side") from None


class Listener:
    """One port for the data connections of all transfers."""

    def __init__(
        self, host: str, port: int = 0, *, tls: Tls | None = None, idle: float = 60.0, lifetime: float = 60.0
    ) -> None:
        """Listen; port 0 lets the system choose. Raises OSError."""
        self._socket = socket.create_server((host, port), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self.tickets: Tickets[Meeting] = Tickets(lifetime)
        self._tls = tls
        self._idle = idle
        self._strangers: OrderedDict[socket.socket, None] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name=f"listen-{self.port}", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                if len(self._strangers) >= _STRANGERS:
                    oldest, _ = self._strangers.popitem(last=False)
                    _break_off(oldest)
                self._strangers[connection] = None
            threading.Thread(target=self._admit, args=(connection,), name="join", daemon=True).start()

    def _admit(self, stranger: socket.socket) -> None:
        connection = stranger
        try:
            try:
                connection.settimeout(JOINING)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                meeting, number = self.tickets.admit(connection)
            finally:
                with self._lock:
                    self._strangers.pop(stranger, None)
            stream = Stream(connection, number, self._idle)
        except (DtsError, OSError) as error:
            log.warning("a data connection was refused", reason=str(error))
            connection.close()
            return
        meeting.hand(stream)

    def close(self) -> None:
        """Stop listening; connections that have joined go on."""
        _break_off(self._socket)
        self._socket.close()
        self._thread.join()


def _break_off(connection: socket.socket) -> None:
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        pass  # it is not connected, or not any more: whoever waits in it is awake


def connect(host: str, port: int, ticket: Ticket, number: int, *, tls: Tls | None = None, idle: float = 60.0) -> Stream:
    """Connect to a listener and join a transfer as stream `number`; raises DtsError, OSError."""
    connection = socket.create_connection((host, port), timeout=JOINING)
    try:
        if tls is not None:
            connection = tls.wrap_socket(connection, server_hostname=host)
        join(connection, ticket, number)
        return Stream(connection, number, idle)
    except BaseException:
        connection.close()
        raise
