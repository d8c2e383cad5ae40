"""The port for watchers: who proves to be one gets a buffer and a thread; whoever is slow loses lines, nobody waits."""

from __future__ import annotations

import hmac
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable

import structlog

from dtscore.errors import CredentialsError, DtsError, StateError
from dtscore.monitoring import line
from dtsd.monitor_board import BUFFER, Board, Buffer
from dtsd.monitor_wire import LONGEST_GREETING, Lines, greeting, new_nonce, parse_claim, prove, refusal

_JOINING = 10.0
"""Seconds for a watcher to prove itself, TLS included."""

_STRANGERS = 16
"""Connections that have not proved anything yet; more are closed at once."""

_ALIVE = 5.0
"""Seconds after which a watcher is told that nothing happened, and by which both find out that the other is gone."""

_STALLED = 60.0
"""Seconds in which a watcher must take what was sent, or it is cut off."""

_SEND_BUFFER = 128 * 1024
Secrets = Callable[[str], bytes | None]
log = structlog.get_logger()


class Port:
    """Listens for watchers and serves each of them in a thread of its own."""

    def __init__(
        self,
        board: Board,
        host: str,
        port: int,
        secret_of: Secrets,
        *,
        tls: ssl.SSLContext | None = None,
        most: int = 32,
        buffer: int = BUFFER,
        alive: float = _ALIVE,
    ) -> None:
        """Listen; port 0 lets the system choose. `secret_of` gives the secret of a user who may read. Raises OSError.

        At most `most` watchers are served, each with a buffer of so many bytes; `alive` in seconds.
        """
        self._board, self._secret_of, self._tls = board, secret_of, tls
        self._buffer_bytes, self._alive = buffer, alive
        self._strangers = threading.Semaphore(_STRANGERS)
        self._places = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._serving: dict[Buffer, threading.Thread] = {}
        self._closing = False
        self._socket = socket.create_server((host, port), backlog=64, family=_family(host))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="monitor-accept", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._socket.accept()
            except OSError as error:
                if self._closing:
                    return
                log.warning("a watcher could not be let in", error=str(error))
                time.sleep(0.1)  # out of descriptors: whoever is served goes on
                continue
            if self._strangers.acquire(blocking=False):
                threading.Thread(
                    target=self._admit, args=(connection, str(address[0])), name="monitor-join", daemon=True
                ).start()
            else:
                connection.close()

    def _admit(self, connection: socket.socket, peer: str) -> None:
        try:
            try:
                connection, user, proof = self._identify(connection)
            finally:
                self._strangers.release()
        except (DtsError, OSError) as error:
            log.warning("a watcher was refused", peer=peer, reason=str(error))
            connection.close()
            return
        try:
            self._serve(connection, user, proof, peer)
        finally:
            connection.close()
            self._places.release()

    def _identify(self, connection: socket.socket) -> tuple[socket.socket, str, str]:
        """Find out who watches, and take a place; return the connection, the user and our proof.

        Raises DtsError and OSError; what is known to be a watcher is told why.
        """
        deadline = time.monotonic() + _JOINING
        connection.settimeout(_JOINING)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        ours = new_nonce()
        connection.sendall(greeting(ours))
        try:
            claim = parse_claim(Lines(connection, LONGEST_GREETING, deadline).next())
        except DtsError:
            _say_no(connection, "protocol", "that is not the monitor's protocol")
            raise
        secret = self._secret_of(claim.user)
        right = prove(secret or secrets.token_bytes(32), "watch", claim.user, ours, claim.nonce)
        if not hmac.compare_digest(right, claim.proof) or secret is None:
            _say_no(connection, "credentials", "user or secret are not right, or the user may not read")
            raise CredentialsError(f"{claim.user} did not prove to be a user who may read", "see the users file")
        if not self._places.acquire(blocking=False):
            _say_no(connection, "full", "as many watch as may")
            raise StateError("as many watch as may", "raise [dtsd] monitor_watchers")
        return connection, claim.user, prove(secret, "serve", claim.user, ours, claim.nonce)

    def _serve(self, connection: socket.socket, user: str, proof: str, peer: str) -> None:
        """Send what happens until the watcher goes, stalls, or the daemon ends."""
        buffer = self._board.attach(self._buffer_bytes)
        with self._lock:
            self._serving[buffer] = threading.current_thread()
        log.info("a watcher came", user=user, peer=peer)
        reason = "the daemon ends"
        try:
            connection.settimeout(_STALLED)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            connection.sendall(f"OK {proof}\n".encode())
            while not (self._closing or buffer.closed):
                connection.sendall(buffer.take(self._alive) or line("alive", {}) + b"\n")
            connection.settimeout(1.0)
            connection.sendall(buffer.take(0.0) + line("bye", {"reason": reason}) + b"\n")
        except OSError as error:
            reason = str(error) or type(error).__name__
        finally:
            with self._lock:
                self._serving.pop(buffer, None)
            self._board.detach(buffer)
            log.info("a watcher left", user=user, peer=peer, reason=reason)

    @property
    def watchers(self) -> int:
        """How many watch just now."""
        return len(self._serving)

    def close(self) -> None:
        """Tell the watchers goodbye and end; one that stalls is left behind."""
        self._closing = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # a listening socket need not be connected to be closed
        self._socket.close()
        self._thread.join(timeout=2.0)
        with self._lock:
            serving = dict(self._serving)
        for buffer in serving:
            buffer.close()
        deadline = time.monotonic() + 3.0
        for thread in serving.values():
            thread.join(timeout=max(0.0, deadline - time.monotonic()))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _say_no(connection: socket.socket, code: str, message: str) -> None:
    """Say why somebody is not served, if it still listens."""
    try:
        connection.sendall(refusal(code, message))
    except OSError as error:
        log.debug("a refusal was not heard", code=code, error=str(error))
