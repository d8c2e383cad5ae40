"""A fair queue of writers on one host, built of two file locks.

SQLite's busy handler sleeps longer and longer, so with four writers one may wait for seconds. Here a writer first
takes the queue's lock, then the door's, then leaves the queue: whoever stands in the queue is next, and a writer that
has just been in goes to its end. The locks are the kernel's and end with their process, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dtscore.errors import DatabaseUnavailableError


class Turnstile:
    """One writer at a time, in the order of arrival, over all threads and processes of a host."""

    def __init__(self, path: Path) -> None:
        """Name the lock files: `path` + `.queue` and `path` + `.door`; they are made when first used."""
        self._path = path
        self._thread = threading.Lock()
        self._files: tuple[int, int] | None = None
        self._pid = 0

    @contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Wait for the turn, at most about `seconds`, and hold it; DatabaseUnavailableError when it does not come."""
        deadline = time.monotonic() + seconds
        if not self._thread.acquire(timeout=seconds):
            raise self._too_long(seconds)
        try:
            queue, door = self._open()
            _lock(queue, deadline, lambda: self._too_long(seconds))
            try:
                _lock(door, deadline, lambda: self._too_long(seconds))
            finally:
                fcntl.flock(queue, fcntl.LOCK_UN)
            try:
                yield
            finally:
                fcntl.flock(door, fcntl.LOCK_UN)
        finally:
            self._thread.release()

    def _open(self) -> tuple[int, int]:
        """Open the lock files once in each process: a lock is shared with a forked child otherwise."""
        if self._files is None or self._pid != os.getpid():
            try:
                self._files = (_open_lock(f"{self._path}.queue"), _open_lock(f"{self._path}.door"))
            except OSError as error:
                raise DatabaseUnavailableError(
                    f"the lock files of the database cannot be opened: {error}",
                    "check that its folder exists and is writable",
                ) from error
            self._pid = os.getpid()
        return self._files

    def close(self) -> None:
        """Let go of the lock files; one that is in use just now stays open. The next turn opens them again."""
        if not self._thread.acquire(timeout=1.0):
            return
        try:
            if self._files is not None and self._pid == os.getpid():
                for file in self._files:
                    os.close(file)
            self._files = None
        finally:
            self._thread.release()

    def _too_long(self, seconds: float) -> DatabaseUnavailableError:
        return DatabaseUnavailableError(
            f"the database {self._path} was busy for {seconds:.0f} s", "see which process writes for so long"
        )


def _open_lock(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)


def _lock(file: int, deadline: float, too_long: object) -> None:
    """Take the lock: at once if free, else by short waits up to the deadline."""
    pause = 0.0002
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                assert callable(too_long)
                raise too_long() from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.002)
