"""A fair queue of writers on one host, built of two file locks.

SQLite's busy handler sleeps longer and longer, so with four writers one may wait for seconds. Here a writer first
takes the queue's lock, then the door's, then leaves the queue: whoever stands in the queue is next, and a writer that
has just been in goes to its end. The locks are the kernel's and end with their process, however it dies. Nobody polls:
the kernel wakes who waits, in a thread that does nothing else, since a lock cannot be awaited for a limited time.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dtscore.errors import DatabaseUnavailableError


class Turnstile:
    """One writer at a time, in the order of arrival, over all threads and processes of a host."""

    def __init__(self, path: Path) -> None:
        """Name the lock files: `path` + `.queue` and `path` + `.door`; they are made when first used."""
        self._path = path
        self._threads = _Line()
        self._locks: tuple[_FileLock, _FileLock] | None = None
        self._pid = os.getpid()

    @contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Wait for the turn, at most about `seconds`, and hold it; DatabaseUnavailableError when it does not come."""
        deadline = time.monotonic() + seconds
        if self._pid != os.getpid():  # a fork has no thread of its parent's, and would share its locks
            self._pid, self._locks, self._threads = os.getpid(), None, _Line()
        if not self._threads.enter(seconds):
            raise self._too_long(seconds)
        try:
            line, door = self._open()
            self._take(line, deadline, seconds)
            try:
                self._take(door, deadline, seconds)
            finally:
                line.release()
            try:
                yield
            finally:
                door.release()
        finally:
            self._threads.leave()

    def _take(self, lock: _FileLock, deadline: float, seconds: float) -> None:
        if not lock.acquire(deadline - time.monotonic()):
            raise self._too_long(seconds)

    def _open(self) -> tuple[_FileLock, _FileLock]:
        """Open the lock files once in each process."""
        if self._locks is None:
            try:
                self._locks = (_FileLock(f"{self._path}.queue"), _FileLock(f"{self._path}.door"))
            except OSError as error:
                raise DatabaseUnavailableError(
                    f"the lock files of the database cannot be opened: {error}",
                    "check that its folder exists and is writable",
                ) from error
        return self._locks

    def close(self) -> None:
        """Let go of the lock files; one that is in use just now stays open. The next turn opens them again."""
        if not self._threads.enter(1.0):
            return
        try:
            if self._locks is not None and self._pid == os.getpid():
                for lock in self._locks:
                    lock.close()
            self._locks = None
        finally:
            self._threads.leave()

    def _too_long(self, seconds: float) -> DatabaseUnavailableError:
        return DatabaseUnavailableError(
            f"the database {self._path} was busy for {seconds:.0f} s", "see which process writes for so long"
        )


class _Line:
    """A lock of the threads of one process that is handed on in the order of arrival."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def enter(self, seconds: float) -> bool:
        """Wait for the lock; return whether it came in time."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Event()
            self._waiting.append(mine)
        if mine.wait(seconds):
            return True
        with self._guard:
            if mine.is_set():
                return True
            self._waiting.remove(mine)
            return False

    def leave(self) -> None:
        """Hand the lock on."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


class _FileLock:
    """One lock file of this process, used by one thread at a time."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        self._asked: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._waiter: threading.Thread | None = None
        self._unanswered = 0
        self._guard = threading.Lock()

    def acquire(self, seconds: float) -> bool:
        """Take the lock: at once if it is free, else as soon as the kernel gives it; return whether it came in time.

        While the waiter still waits for somebody who has given up, it would get what is taken here: then ask it.
        """
        if not self._unanswered:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                pass
        if self._waiter is None:
            self._waiter = threading.Thread(target=self._wait, name="turnstile", daemon=True)
            self._waiter.start()
        with self._guard:
            self._unanswered += 1
        ticket = _Ticket()
        self._asked.put(ticket)
        return ticket.wait(seconds)

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; the waiter does it where it still waits for a lock."""
        if self._waiter is None:
            os.close(self._file)
            return
        self._asked.put(None)
        if not self._unanswered:
            self._waiter.join(1.0)

    def _wait(self) -> None:
        """Wait for the lock for others."""
        while (ticket := self._asked.get()) is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if not ticket.give():
                fcntl.flock(self._file, fcntl.LOCK_UN)
            with self._guard:
                self._unanswered -= 1
        os.close(self._file)


class _Ticket:
    """What a thread waits with for a lock: either it gets the lock or it gives up, never both."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._given = threading.Event()
        self._dropped = False

    def wait(self, seconds: float) -> bool:
        """Wait; return whether the lock came."""
        if self._given.wait(max(0.0, seconds)):
            return True
        with self._guard:
            self._dropped = not self._given.is_set()
            return not self._dropped

    def give(self) -> bool:
        """Hand the lock over; False when nobody waits any more."""
        with self._guard:
            if not self._dropped:
                self._given.set()
            return not self._dropped
