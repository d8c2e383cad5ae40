"""The one thread of a node or supervisor that talks to the database; all others leave their work with it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError, DtsError, NotFoundError, StateError, UsageError
from imagebuilder.wire import WireError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Work:
    do: Callable[[Connection], Any]
    result: Future[Any]


class Clerk:
    """Does work on the database, one piece after the other, in the thread that calls `work`."""

    def __init__(self, database: Database, patience: float) -> None:
        """`patience` (s) is how long others wait for their work to be done."""
        self._database = database
        self._patience = patience
        # no more can wait than there are sessions; and a signal handler may put into this kind of queue
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()

    def ask(self, do: Callable[[Connection], T]) -> T:
        """Have work done in one transaction, by the clerk's thread, and return its result; from any other thread.

        Raises WireError: `unavailable` when the database is away or slow, `unknown-exposure`, `not-here` (StateError),
        `refused` (UsageError).
        """
        work = _Work(do, Future())
        try:
            self._queue.put(work)
            result: T = work.result.result(self._patience)
        except (FutureTimeoutError, DatabaseUnavailableError) as error:
            work.result.cancel()
            raise WireError("unavailable", "the database does not answer", "everything is kept: try again") from error
        except NotFoundError as error:
            raise WireError("unknown-exposure", error.message, error.hint) from error
        except StateError as error:
            raise WireError("not-here", error.message, error.hint) from error
        except UsageError as error:
            raise WireError("refused", error.message, error.hint) from error
        return result

    def wake(self) -> None:
        """Have `work` return soon; from any thread or a signal handler."""
        self._queue.put(None)

    def work(self, seconds: float) -> None:
        """Do what is asked for so many seconds, or until woken."""
        until = time.monotonic() + seconds
        while True:
            try:
                work = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            if work is None:
                return
            if work.result.set_running_or_notify_cancel():
                self._do(work)

    def _do(self, work: _Work) -> None:
        try:
            work.result.set_result(self._database.run(work.do))
        except DtsError as error:
            work.result.set_exception(error)
        except Exception as error:
            work.result.set_exception(error)

    def run(self, do: Callable[[Connection], T]) -> T:
        """Do work in one transaction, in the clerk's own thread."""
        return self._database.run(do)

    def read(self, do: Callable[[Connection], T]) -> T:
        """Look something up, in the clerk's own thread."""
        with self._database.read() as connection:
            return do(connection)
