"""The listening side of a node or supervisor: who may connect, one thread for each connection, a graceful end.

A thread for each connection, with turns (imagebuilder.shares), moved more than one selector for all, and shared out
far more evenly: five PANs ended within 1.02 of each other, not 1.5.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from dtscore.errors import ConfigurationError
from imagebuilder import auth, wire
from imagebuilder.auth import Network
from imagebuilder.desk import Desk
from imagebuilder.link import Link
from imagebuilder.office import Office
from imagebuilder.session import Session, Welcome
from imagebuilder.shares import Shares
from imagebuilder.wire import Kind

_BACKLOG = 128
log = structlog.get_logger()


class Collector:
    """Takes connections until it is closed. `port` is the one it listens on."""

    def __init__(
        self, host: str, port: int, peers: Sequence[Network], welcome: Welcome, office: Office,
        desk: Desk | None = None, *, connections: int = 256,
    ) -> None:  # fmt: skip
        """Listen; ConfigurationError when that cannot be done. No connection is taken before `start`."""
        self._peers, self._welcome, self._office, self._desk = peers, welcome, office, desk
        self._most = connections
        self._shares = Shares()
        self._lock = threading.Condition()
        self._sessions: set[Session] = set()
        self._closing = False
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            what = f"cannot listen on {host} port {port}: {error.strerror or error}"
            raise ConfigurationError(what, "see [imagebuilder] host and port") from error
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, name="collector", daemon=True)

    def start(self) -> None:
        """Take connections."""
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError as error:
                if self._closing:
                    return
                # out of descriptors or memory: connections that end make room
                log.error("a connection could not be taken", error=errno.errorcode.get(error.errno or 0, str(error)))
                time.sleep(0.1)
                continue
            self._take(connection, peer[0])

    def _take(self, connection: socket.socket, peer: str) -> None:
        with self._lock:
            crowded = len(self._sessions) >= self._most
        if not auth.is_allowed(peer, self._peers):
            _turn_away(connection, "not-allowed", f"{peer} is not among the peers of this node")
            log.warning("a connection was refused: its address is not among the peers", peer=peer)
        elif crowded or self._closing:
            _turn_away(connection, "unavailable", f"this node has {self._most} connections already")
            log.warning("a connection was refused: there are too many", peer=peer, connections=self._most)
        else:
            self._begin(connection, peer)

    def _begin(self, connection: socket.socket, peer: str) -> None:
        link = Link(connection, idle=self._welcome.idle, block_bytes=self._welcome.block_bytes)
        session = Session(link, peer, self._welcome, self._office, self._desk, self._shares)
        with self._lock:
            self._sessions.add(session)
        # a daemon thread: one that hangs must not keep the process from ending
        try:
            threading.Thread(target=self._run, args=(session,), name=f"pan-{peer}", daemon=True).start()
        except RuntimeError as error:  # no more threads
            log.error("a connection could not be taken", peer=peer, error=str(error))
            with self._lock:
                self._sessions.discard(session)
            link.close()

    def _run(self, session: Session) -> None:
        try:
            session.run()
        finally:
            with self._lock:
                self._sessions.discard(session)
                self._lock.notify_all()

    @property
    def pans(self) -> tuple[str, ...]:
        """Return the names of the PANs that are connected."""
        return tuple(sorted(session.pan for session in self._all() if session.pan))

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions)

    def tell_changed(self) -> None:
        """Let connections that wait for room try again."""
        for session in self._all():
            session.told_changed()

    def close(self, grace: float) -> None:
        """Take no more connections, say goodbye on all, and break off what still talks after `grace` seconds."""
        self._closing = True
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept, which closing does not
        except OSError as error:
            log.debug("the listener had ended already", error=str(error))
        self._listener.close()
        self._each(lambda session: session.stop(), grace)
        self._each(lambda session: session.break_off(), 1.0)
        self._thread.join(timeout=1.0)

    def _each(self, do: Callable[[Session], None], grace: float) -> None:
        for session in self._all():
            do(session)
        with self._lock:
            self._lock.wait_for(lambda: not self._sessions, timeout=grace)


def _turn_away(connection: socket.socket, code: str, message: str) -> None:
    """Say why, as far as that goes in one send that does not wait, and close."""
    body = {"code": code, "message": message, "hint": "see [imagebuilder] peers", "fatal": "yes", "sequence": 0}
    with connection:
        connection.setblocking(False)
        try:
            connection.send(wire.encode(Kind.ERROR, 1, body), socket.MSG_NOSIGNAL)
        except OSError:
            return  # it has left already
