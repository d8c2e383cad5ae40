"""Pokes: a word on a local socket that new work is there, so that nobody waits for the next poll.

A poke is a hint and carries no data: it may be lost, doubled or late, and the poll finds the work all the same.
Each listener binds a datagram socket in the site's run folder; sockets are reached through the folder's descriptor,
since a socket's path is limited to 107 bytes and a site's folder is not.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX = ".poke"
_LONGEST = 1024


def _log() -> Any:
    """Return the logger, loaded where there is something to say: dtsq pokes, and has no time."""
    import structlog

    return structlog.get_logger()


def poke(folder: Path | str, kinds: Iterable[str]) -> None:
    """Tell all listeners below `folder` that there is work of these kinds; never raises."""
    message = ",".join(sorted(kinds)).encode()
    if not message:
        return
    try:
        names = [name for name in os.listdir(folder) if name.endswith(_SUFFIX)]
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # nobody has listened here yet
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            for name in names:
                _send(sender, message, descriptor, name)
    except OSError as error:
        _log().debug("poke not sent", error=str(error))
    finally:
        os.close(descriptor)


def _send(sender: socket.socket, message: bytes, folder: int, name: str) -> None:
    try:
        sender.sendto(message, f"/proc/self/fd/{folder}/{name}")
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:  # its process is gone
            _forget(folder, name)


def _forget(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        _log().debug("stale socket stays", name=name, error=str(error))


class Listener:
    """Hears pokes in a thread of its own and hands the kinds to a callback."""

    def __init__(self, folder: Path, heard: Callable[[frozenset[str]], None]) -> None:
        """Bind a socket below `folder`, which is made if need be; OSError when that cannot be done."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}"
        self._heard = heard
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"/proc/self/fd/{self._folder}/{self._name}")
        self._socket.settimeout(1.0)
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name="poke", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._closing:
            try:
                message = self._socket.recv(_LONGEST)
            except TimeoutError:
                continue
            except OSError as error:
                if not self._closing:
                    _log().warning("pokes are no longer heard; polling goes on", error=str(error))
                return
            self._heard(frozenset(message.decode("ascii", "replace").split(",")))

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._closing = True
        _forget(self._folder, self._name)
        self._thread.join(timeout=3.0)
        self._socket.close()
        os.close(self._folder)
