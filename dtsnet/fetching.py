"""From a daemon to here: its connections come to us, or ours go to it, and the files land in a folder of ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from dtscore.errors import DtsError, StreamLostError
from dtsnet.arrivals import within
from dtsnet.arriving import Description
from dtsnet.carriage import Carried, CarryOptions, carried_from, fields
from dtsnet.folder import FolderTarget
from dtsnet.frames import Stream
from dtsnet.loop import Guard, Loop, Progress
from dtsnet.meeting import Meeting
from dtsnet.reach import Hearing, channel_of
from dtsnet.receiver import Receiver, Target
from dtsnet.rpc import Remote
from dtsnet.sandbox import Sandbox

log = structlog.get_logger(__name__)

_QUIET = 2.0
"""Seconds without a byte after which the daemon is asked whether it still sends."""


class Fetching(Loop):
    """Fetches a file or folder of a daemon; it is named `name` in the sandbox."""

    def __init__(
        self, remote: Remote, path: str, sandbox: Sandbox, name: str, options: CarryOptions, guard: Guard,
        progress: Progress, *, listen: bool,
    ) -> None:  # fmt: skip
        """Prepare; nothing is asked yet."""
        super().__init__(remote, options, guard, progress)
        self._path = path
        self._sandbox = sandbox
        self._name = name
        self._listen = listen

    def session(self) -> None:
        """Fetch once; raises StreamLostError, SessionOverError or ElementUnavailableError to begin anew."""
        reception = Reception(FolderTarget(self._sandbox, admit=within(self._name), landed=self._landed))
        try:
            job = self._listening(reception) if self._listen else self._coming(reception)
        finally:
            reception.close()
        for one in job["results"]:
            self._note(one)
        self.streams, self.decisions = job["streams"], job["decisions"]
        if job["error"] and not any(one.error for one in self.ended.values()) and not job["refused"]:
            raise carried_from({**job, "checksums": {}}).error or AssertionError

    def _call(self, name: str, *more: Any) -> dict[str, Any]:
        options = self.options
        common = (self._path, self._name, options.streams, float(options.rate), options.overwrite, self.origin)
        return fields(self.remote.call(name, *common, *more))

    def _coming(self, reception: Reception) -> dict[str, Any]:
        offer = self._call("xferPull")
        reception.come(channel_of(self.remote, offer, self.options).connect, offer["most"])
        return self._watch(reception, offer)

    def _listening(self, reception: Reception) -> dict[str, Any]:
        with Hearing(self.remote, self.options) as hearing:
            ticket = hearing.issue(Meeting(reception.serve), self.options.streams)
            job = self._call("xferTake", hearing.host, hearing.port, str(ticket), hearing.encrypted)
            return self._watch(reception, job)

    def _watch(self, reception: Reception, job: dict[str, Any]) -> dict[str, Any]:
        """Wait until the sender has said on a connection that nothing more will come, or is over."""
        number, session = job["number"], job["session"]
        last, since = -1, time.monotonic()
        while not reception.ended.wait(0.05):
            self._guarded(number)
            moved = reception.receiver.bytes_received
            self.moved(moved)
            if moved != last:
                last, since = moved, time.monotonic()
            elif not reception.busy() and self.impatient():
                self.cancel(number)
                what = f"no data connection with {self.remote.address.name}"
                raise StreamLostError(what, "does a firewall stand between? try the other mode")
            elif time.monotonic() - since > _QUIET:
                if self.status(number, session)["state"] != "Running":
                    break
                since = time.monotonic()
        self.moved(reception.receiver.bytes_received)
        return self.finish(number, session)

    def _guarded(self, number: int) -> None:
        try:
            self.guard()
        except BaseException:
            self.cancel(number)
            raise

    def _landed(self, description: Description, sums: Mapping[str, str]) -> None:
        if not description.folder:
            self.ended[description.path] = Carried(description.path, description.size, dict(sums))

    def _note(self, one: Mapping[str, Any]) -> None:
        """Take what the daemon says of one file; that it landed is our own to know."""
        carried, landed = carried_from(one), self.ended.get(one["path"])
        if landed is not None and landed.error is None:
            moved = carried.moved or self.sessions > 1
            self.ended[carried.path] = Carried(
                landed.path, landed.size, landed.checksums, carried.resumed, moved
            )
        elif carried.error is not None:
            self.ended[carried.path] = carried


class Reception:
    """The connections of one session on which we receive, each served by a thread."""

    def __init__(self, target: Target) -> None:
        """Begin with no connection; `ended` is set when the sender has said goodbye on all that there were."""
        self.receiver = Receiver(target)
        self.ended = threading.Event()
        self._over = threading.Event()
        self._open = 0
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def come(self, connect: Callable[[int], Stream], most: int) -> None:
        """Connect as often as the sender wants, at most so many times at once, and anew where a connection breaks."""
        for number in range(most):
            thread = threading.Thread(target=self._keep, args=(connect, number), name=f"fetch-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _keep(self, connect: Callable[[int], Stream], number: int) -> None:
        pause = 0.1
        while not self._over.is_set() and not self.ended.is_set():
            if not self.receiver.wait_wanted(number, 0.1):
                continue
            try:
                stream = connect(number)
            except (DtsError, OSError) as error:
                log.info("cannot connect to the sender", stream=number, reason=str(error))
                pause = min(2 * pause, 2.0)
            else:
                pause = 0.1
                if self.served(stream):
                    return
            self._over.wait(pause)

    def serve(self, stream: Stream) -> None:
        """Serve one connection in the caller's thread until it ends; never raises for what its other end does."""
        self.served(stream)

    def served(self, stream: Stream) -> bool:
        """Serve one connection as `serve` does; return whether the sender said goodbye."""
        goodbye = False
        with self._lock:
            self._open += 1
        try:
            goodbye = self.receiver.serve(stream)
        except (DtsError, OSError, ValueError) as error:
            log.info("a data connection ended", stream=stream.number, reason=str(error))
        finally:
            stream.abort()
            stream.close()
            with self._lock:
                self._open -= 1
                if goodbye and not self._open:
                    self.ended.set()
        return goodbye

    def busy(self) -> bool:
        """Whether there is a connection."""
        return self._open > 0

    def close(self) -> None:
        """End all connections; what is not whole stays under temporary names, with its journals."""
        self._over.set()
        self.receiver.close()
        for thread in self._threads:
            thread.join()
