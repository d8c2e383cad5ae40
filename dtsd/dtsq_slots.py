"""Who works for dtsq on this host: one process, and one that stands by and takes over the moment that one dies.

So fifty calls at once do not make fifty sets of agents, and a SIGKILL of the one that works loses no time. The locks
are the kernel's: they end with their process. Who starts a child takes the lock for it and hands it over open, so that
no two are started for one place. Imports little: it is loaded before dtsq has answered.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys

WORKER, STANDBY = "worker.lock", "standby.lock"


class Slots:
    """The two locks in dtsq's folder, as one process sees them."""

    def __init__(self, folder: str | os.PathLike[str], held: str = "", descriptor: int = -1) -> None:
        """Open the lock files, which are made if need be; `held` is one that is held already. Raises OSError."""
        os.makedirs(folder, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._files = {
            name: descriptor if name == held else os.open(os.path.join(folder, name), flags, 0o660)
            for name in (WORKER, STANDBY)
        }
        self._held = {held} - {""}

    def take(self, name: str) -> bool:
        """Take one of the places, if it is free; True where it is ours already."""
        if name not in self._held:
            try:
                fcntl.flock(self._files[name], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._held.add(name)
        return True

    def leave(self, name: str) -> None:
        """Give a place up."""
        fcntl.flock(self._files[name], fcntl.LOCK_UN)
        self._held.discard(name)

    def stand_by(self) -> bool:
        """Become the one that works, as soon as nobody is; False when somebody else stands by already."""
        if self.take(WORKER):
            return True
        if not self.take(STANDBY):
            return False
        fcntl.flock(self._files[WORKER], fcntl.LOCK_EX)
        self._held.add(WORKER)
        self.leave(STANDBY)
        return True

    def descriptor(self, name: str) -> int:
        """Return the open file of a place, to be handed on."""
        return self._files[name]

    def close(self) -> None:
        """Close the files, and so give up what is held and was not handed on."""
        for descriptor in self._files.values():
            os.close(descriptor)


def start_child(config: str | os.PathLike[str], folder: str | os.PathLike[str], *, stand_by: bool = True) -> bool:
    """Start a process that works, or one that stands by (if `stand_by`), unless there is one; whether one was started.

    Ask only after the request was written down: whoever works looks once more after it has left. Raises OSError.
    """
    slots = Slots(folder)
    try:
        place = next((name for name in (WORKER, STANDBY)[: 1 + stand_by] if slots.take(name)), "")
        if place:
            _spawn(os.fspath(config), os.fspath(folder), place, slots.descriptor(place))
        return bool(place)
    finally:
        slots.close()


def _spawn(config: str, folder: str, place: str, lock: int) -> None:
    """Start a child in a session of its own, its streams to a log, with the lock that it is to hold.

    It inherits nothing else of the caller's: who reads our answer to its end must not wait for the transfer.
    """
    for name in os.listdir("/proc/self/fd"):
        _set_inheritable(int(name), int(name) == lock)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.path.join(folder, "worker.log"), flags, 0o640),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    words = [sys.executable, "-P", "-m", "dtsd.dtsq_child", config, folder, place, str(lock)]
    defaults = [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGIO]
    os.posix_spawn(
        sys.executable, words, os.environ, file_actions=streams, setsid=True, setsigmask=(), setsigdef=defaults
    )


def _set_inheritable(descriptor: int, inheritable: bool) -> None:
    if descriptor > 2:
        try:
            os.set_inheritable(descriptor, inheritable)
        except OSError:
            pass  # the one through which the folder was listed
