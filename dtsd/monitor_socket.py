"""The Unix socket on which a site's programs say what happens: read, checked and passed on."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import threading
from pathlib import Path

import structlog

from dtscore.monitoring import LONGEST, SOCKET
from dtsd.monitor_board import KEYS, Board

_EVENT = re.compile(r"[a-z][a-z-]{0,31}\Z")
_WAIT = 0.5
log = structlog.get_logger()


class Gatherer:
    """Hears the programs of a site in a thread of its own and passes on what is an event."""

    def __init__(self, folder: Path, board: Board) -> None:
        """Bind the socket below `folder`, which is made if need be; a socket that is there already is replaced.

        The daemon that takes over from another one thereby hears from now on what that one heard. Raises OSError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._board = board
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._closing = False
        self.refused = 0
        self._inode = self._bind()
        self._socket.settimeout(_WAIT)
        self._thread = threading.Thread(target=self._hear, name="monitor-hear", daemon=True)
        self._thread.start()

    def _bind(self) -> int:
        """Bind under a name of our own, then take the known name in one step."""
        name = f"monitor-{secrets.token_hex(4)}.new"
        try:
            self._socket.bind(f"/proc/self/fd/{self._folder}/{name}")
            os.rename(name, SOCKET, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            return os.stat(SOCKET, dir_fd=self._folder).st_ino
        except OSError:
            self._socket.close()
            os.close(self._folder)
            raise

    def _hear(self) -> None:
        while not self._closing:
            try:
                message = self._socket.recv(LONGEST + 1)
            except TimeoutError:
                continue
            except OSError as error:
                if not self._closing:
                    log.warning("what this site's programs say is no longer heard", error=str(error))
                return
            self._pass_on(message)

    def _pass_on(self, message: bytes) -> None:
        event = parse(message)
        if event is None:
            self.refused += 1
            log.debug("a datagram is no event", bytes=len(message))
            return
        name, told = str(event["event"]), json.dumps(event, separators=(",", ":")).encode("ascii")
        if len(told) <= LONGEST:
            self._board.pass_on(name, event.get(KEYS.get(name, "")), event.get("state"), told)

    def close(self) -> None:
        """Stop hearing, and remove the socket unless another daemon has taken over."""
        self._closing = True
        try:
            if os.stat(SOCKET, dir_fd=self._folder).st_ino == self._inode:
                os.unlink(SOCKET, dir_fd=self._folder)
        except OSError as error:
            if error.errno != errno.ENOENT:
                log.debug("the monitor's socket stays", error=str(error))
        self._thread.join(timeout=4 * _WAIT)
        self._socket.close()
        os.close(self._folder)


def parse(message: bytes) -> dict[str, object] | None:
    """Return the event of a datagram or line: an object of plain values with the name of an event; None for others."""
    if len(message) > LONGEST:
        return None
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or not _EVENT.match(event["event"]):
        return None
    return event if all(_is_plain(value) for value in event.values()) else None


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    if isinstance(value, float):
        return value - value == 0.0  # neither infinite nor not a number: JSON knows neither
    return value is None or isinstance(value, (str, int))
