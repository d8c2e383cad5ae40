"""One transfer of the daemon, as it goes on: what it is told of, how it is stopped, and its two kinds.

An `Arrival` has streams that somebody sends on, one thread each. An `Errand` is work of our own in one thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from dtscore.errors import DtsError, ProtocolError, StateError, StreamLostError, WorkCancelledError
from dtsnet.frames import Stream
from dtsnet.receiver import Receiver, Target
from dtsnet.xmlrpc import clean

log = structlog.get_logger(__name__)

REMEMBERED = 10_000
"""Files of one transfer whose results are kept, and as many that were refused; all are counted."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a transfer is for: kind, path here, who asked, from where, bytes declared (0: unknown), whose attempt."""

    kind: str
    path: str
    user: str
    peer: str = ""
    size: int = 0
    origin: str = ""


@dataclass(slots=True)
class _Tally:
    files: int = 0
    landed: int = 0
    refused: int = 0
    bytes_landed: int = 0
    good: list[dict[str, Any]] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)


class Job:
    """A transfer: numbered, running until it is Done, Failed or Cancelled."""

    def __init__(self, number: int, session: str, purpose: Purpose) -> None:
        """Begin; `session` is the daemon's own, so that numbers of two runs are not taken for each other."""
        self.number = number
        self.session = session
        self.purpose = purpose
        self.state = "Running"
        self.streams = 0
        self.most = 0
        self.decisions: list[str] = []
        self.answer: dict[str, Any] = {}
        self.error: DtsError | None = None
        self.over = threading.Event()
        self._tally = _Tally()
        self._begun = time.time()
        self._started = time.monotonic()
        self._seconds = 0.0
        self._stopping: DtsError | None = None
        self._lock = threading.Lock()

    def moved(self) -> int:
        """Return the bytes that went over the connections so far."""
        return 0

    def note(
        self, path: str, size: int, checksums: Mapping[str, str], error: DtsError | None = None, **more: int | bool
    ) -> None:
        """Keep how one file ended; `more` may say `resumed` (bytes) and `moved`."""
        with self._lock:
            tally = self._tally
            tally.files += 1
            tally.landed += error is None
            tally.refused += error is not None
            tally.bytes_landed += size if error is None else 0
            kept = tally.good if error is None else tally.bad
            if len(kept) < REMEMBERED:
                kept.append({"path": path, "size": size, "checksums": dict(checksums), **more, **describe(error)})

    def check(self) -> None:
        """Raise what the transfer is to end with, where it is to end: the guard of all work done for it."""
        if self._stopping is not None:
            raise self._stopping

    def stop(self, error: DtsError) -> None:
        """Have the transfer end with an error; what is not whole stays, with its journal, to be gone on with."""
        if self._stopping is None:
            self._stopping = error

    def join(self, seconds: float) -> None:
        """Wait until what was stopped has come to its end."""
        self.over.wait(seconds)

    def _end(self, error: DtsError | None) -> bool:
        """Keep how it ended; whether this was the first end."""
        with self._lock:
            if self.over.is_set():
                return False
            self.error = error
            cancelled = isinstance(error, WorkCancelledError)
            self.state = "Cancelled" if cancelled else "Failed" if error is not None else "Done"
            self._seconds = time.monotonic() - self._started
            self.over.set()
        log.info("transfer ended", number=self.number, kind=self.purpose.kind, path=self.purpose.path,
                 state=self.state, bytes=self.moved(), reason=error.message if error else "")  # fmt: skip
        return True

    def status(self, *, results: bool = False) -> dict[str, Any]:
        """Return all that is known, times in unix seconds, rate in bytes a second; with the results of its files."""
        seconds = self._seconds if self.over.is_set() else time.monotonic() - self._started
        purpose, tally, moved = self.purpose, self._tally, self.moved()
        found: dict[str, Any] = {
            "number": self.number, "session": self.session, "kind": purpose.kind, "path": purpose.path,
            "user": purpose.user, "peer": purpose.peer, "state": self.state, "size": purpose.size, "moved": moved,
            "landed": tally.bytes_landed, "files": tally.files, "good": tally.landed, "refused": tally.refused,
            "streams": self.streams, "most": self.most, "decisions": list(self.decisions), "begun": self._begun,
            "seconds": round(seconds, 3), "rate": round(moved / seconds) if seconds > 0 else 0,
            **describe(self.error),
        }  # fmt: skip
        if results:
            with self._lock:
                found["results"] = [dict(one) for one in (*tally.bad, *tally.good)]
            found["answer"] = dict(self.answer)
        return found


def describe(error: DtsError | None) -> dict[str, str]:
    """Return an error as three words of text, empty where there is none."""
    if error is None:
        return {"error": "", "message": "", "hint": ""}
    word = getattr(error, "error_class", type(error).__name__)
    return {"error": word, "message": clean(error.message), "hint": clean(error.hint)}


class Arrival(Job):
    """Files that somebody sends to us; it ends when that somebody says so, or does not come any more."""

    def __init__(self, number: int, session: str, purpose: Purpose, target: Callable[[Arrival], Target]) -> None:
        """`target` makes the place where the files go."""
        super().__init__(number, session, purpose)
        self.receiver = Receiver(target(self))
        self.void: Callable[[], None] = lambda: None
        self._streams = 0
        self._quiet_since = time.monotonic()

    def moved(self) -> int:
        """Return the bytes that came."""
        return self.receiver.bytes_received

    def serve(self, stream: Stream) -> None:
        """Serve one connection in the caller's thread until it ends; never raises for what its other end does."""
        with self._lock:
            self._streams += 1
            self.streams = max(self.streams, self._streams)
        try:
            self.receiver.serve(stream)
        except StreamLostError as error:
            log.info("a data connection broke", number=self.number, stream=stream.number, reason=error.message)
        except (DtsError, OSError, ValueError) as error:
            log.warning("a data connection was ended", number=self.number, stream=stream.number, reason=str(error))
        finally:
            stream.abort()
            stream.close()
            with self._lock:
                self._streams -= 1
                self._quiet_since = time.monotonic()

    def quiet(self) -> float:
        """Return for how many seconds there has been no connection."""
        with self._lock:
            return 0.0 if self._streams else time.monotonic() - self._quiet_since

    def deserted(self) -> bool:
        """Whether there were connections and none is left."""
        return self.streams > 0 and self.quiet() > 0

    def finish(self) -> None:
        """The sender says that all is sent."""
        refused = self._tally.refused
        self._close(StateError(f"{refused} files were refused", "see the results") if refused else None)

    def stop(self, error: DtsError) -> None:
        """End at once."""
        super().stop(error)
        self._close(error)

    def _close(self, error: DtsError | None) -> None:
        self.void()
        if self._end(error):
            self.receiver.close()


class Errand(Job):
    """Work of our own: sending, or digesting a file. Its thread calls `check` and `counted` now and then."""

    def __init__(self, number: int, session: str, purpose: Purpose, work: Callable[[Errand], None]) -> None:
        """Nothing begins before `start`."""
        super().__init__(number, session, purpose)
        self._count = 0
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"transfer-{number}", daemon=True)

    def start(self) -> None:
        """Begin the work."""
        self._thread.start()

    def moved(self) -> int:
        """Return the bytes that went."""
        return self._count

    def counted(self, count: int) -> None:
        """Take note of the bytes that went so far."""
        self._count = max(self._count, count)

    def _run(self) -> None:
        try:
            self._work(self)
        except DtsError as error:
            self._end(self._stopping or error)
        except OSError as error:
            self._end(StateError(f"{self.purpose.path!r}: {error.strerror or error}", "see the daemon's log"))
        except Exception as error:  # whoever asks for the transfer must be told that it is over
            log.exception("a transfer broke off", number=self.number)
            self._end(ProtocolError(f"{type(error).__name__}: {error}", "see the daemon's log"))
        else:
            refused = self._tally.refused
            self._end(StateError(f"{refused} files were refused", "see the results") if refused else None)

    def join(self, seconds: float) -> None:
        """Wait until the work has ended."""
        if self._thread.is_alive():
            self._thread.join(seconds)
