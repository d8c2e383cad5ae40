"""The listening side: a thread for each connection, so many at once, and an orderly end."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from dtsd.server.http import Wire, turn_away

log = structlog.get_logger()

_BACKLOG = 1024
"""Connections that the kernel keeps for us: what comes in a rush waits there."""

_PATIENCE = 2.0
"""Seconds that a new connection waits for a place while all are taken, before it and those after it are sent away."""

_FRESH, _REST = 1.0, 0.1
"""Seconds in which no connection is closed to make room for another: while it says a request, and between two."""


@dataclass(slots=True, eq=False)
class Place:
    """One connection that is served: at a call (`working`), between two (`resting`) or saying one, since when."""

    connection: socket.socket
    address: str
    working: bool = False
    resting: bool = False
    since: float = field(default_factory=time.monotonic)

    def turn(self, *, working: bool) -> None:
        """Begin or end a call."""
        self.working, self.resting, self.since = working, not working, time.monotonic()

    def begin(self) -> None:
        """A request begins to come in."""
        self.resting, self.since = False, time.monotonic()

    def is_silent(self) -> bool:
        """Whether it has said nothing for so long that another one may have its place."""
        return not self.working and time.monotonic() - self.since > (_REST if self.resting else _FRESH)

    def cut(self) -> None:
        """Wake whoever reads from it, as if the other side had closed; never raises."""
        try:
            socket.socket.shutdown(self.connection, socket.SHUT_RD)
        except OSError:
            pass  # it has gone already


Serve = Callable[[Wire, Place], None]


class Server:
    """Accepts connections and has each served in a thread of its own."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None, serve: Serve, most: int) -> None:
        """`serve` is called with each connection and returns at its end; at most `most` are served at once."""
        self._listener = listener
        self._tls = tls
        self._serve = serve
        self._most = most
        self._places: set[Place] = set()
        self._changed = threading.Condition()
        self._full_since: float | None = None
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._stops = False
        self.refused = 0
        listener.listen(_BACKLOG)
        listener.setblocking(False)

    @property
    def count(self) -> int:
        """How many connections are served just now."""
        return len(self._places)

    @property
    def working(self) -> int:
        """How many calls are in work just now."""
        with self._changed:
            return sum(place.working for place in self._places)

    def run(self) -> None:
        """Accept until `stop`; then no connection is accepted any more, and those that wait stay with the socket."""
        while not self._stops:
            ready = select.select([self._listener, self._woken], [], [])[0]
            if self._listener in ready and not self._stops:
                self._accept()

    def stop(self) -> None:
        """Have `run` return; may be called from a signal handler, and so takes no lock."""
        self._stops = True
        try:
            self._wake.send(b".")
        except OSError:
            pass  # it has ended already, or been told often enough

    def resume(self) -> None:
        """Let `run` be called again after `stop`."""
        self._stops = False
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            pass  # nobody had to wake us

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("a connection could not be accepted", error=str(error))
            time.sleep(0.1)  # out of descriptors: whoever is served goes on
            return
        place = Place(connection, str(address[0]))
        if self._has_room():
            self._start(place)
        else:
            self.refused += 1
            turn_away(connection, tls=self._tls is not None)

    def _start(self, place: Place) -> None:
        with self._changed:
            self._places.add(place)
        try:
            threading.Thread(target=self._run, args=(place,), name=f"call-{place.address}", daemon=True).start()
        except RuntimeError as error:
            log.error("a connection could not be served", error=str(error))
            self._leave(place)

    def _has_room(self) -> bool:
        """Wait for a place, which those who say nothing lose; after a while of all working nobody waits any more."""
        with self._changed:
            if len(self._places) < self._most:
                return True
            self._full_since = self._full_since or time.monotonic()
            until = self._full_since + _PATIENCE
            while len(self._places) >= self._most and not self._stops:
                for silent in [place for place in self._places if place.is_silent()]:
                    silent.cut()
                seconds = until - time.monotonic()
                if seconds <= 0:
                    return False
                self._changed.wait(min(seconds, _REST))
            return True

    def _run(self, place: Place) -> None:
        try:
            place.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve(Wire(place.connection), place)
        except OSError as error:
            log.debug("a connection ended", peer=place.address, error=str(error))
        finally:
            self._leave(place)

    def _leave(self, place: Place) -> None:
        place.connection.close()
        with self._changed:
            self._places.discard(place)
            self._full_since = None
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Close connections that wait and let calls finish; False where some have not ended within so many seconds."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._places:
                for place in self._places:
                    if not place.working and (place.resting or place.is_silent()):
                        place.cut()  # one that was just made may still say its request
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.2))
        return True

    def close(self) -> None:
        """Let go of what woke us; the listening socket is its owner's."""
        self._wake.close()
        self._woken.close()
