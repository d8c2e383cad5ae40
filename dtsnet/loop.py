"""Sessions, one after the other, until a whole transfer is done: over cut connections and restarted daemons."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from dtscore.errors import DtsError, ElementUnavailableError, NotFoundError, StreamLostError
from dtsnet.carriage import Carriage, Carried, CarryOptions, SessionOverError, error_of, fields
from dtsnet.rpc import Remote

log = structlog.get_logger(__name__)

Guard = Callable[[], None]
"""Called some ten times a second; stops what goes on by raising."""

Progress = Callable[[int], None]
"""Called with the bytes that went over connections so far."""

POLL = 0.5
"""Seconds between two looks at what goes on at a daemon."""


class Loop:
    """Begins sessions until all is done, or nothing has gone on for too long."""

    def __init__(self, remote: Remote, options: CarryOptions, guard: Guard, progress: Progress) -> None:
        """Prepare; `origin` names this whole transfer to the daemon, over all its sessions."""
        self.remote = remote
        self.options = options
        self.guard = guard
        self.origin = secrets.token_hex(16)
        self.sessions = 0
        self.streams = 0
        self.decisions: list[str] = []
        self.ended: dict[str, Carried] = {}
        self._progress = progress
        self._moved_before = 0
        self._moved = 0
        self._started = time.monotonic()
        self._last = self._started

    def run(self) -> Carriage:
        """Go on until all is done."""
        pause = 0.1
        while True:
            before = self._moved
            self.sessions += 1
            try:
                self.session()
                return self.result()
            except (StreamLostError, SessionOverError, ElementUnavailableError) as error:
                pause = 0.1 if self._moved > before else min(2 * pause, 5.0)
                self._wait(error, pause)
            finally:
                self._moved_before = self._moved

    def session(self) -> None:
        """Carry on once; raises StreamLostError, SessionOverError or ElementUnavailableError to begin anew."""
        raise NotImplementedError

    def result(self) -> Carriage:
        """Return how it went."""
        seconds = time.monotonic() - self._started
        files = tuple(self.ended.values())
        return Carriage(files, self._moved, seconds, self.streams, self.sessions, tuple(self.decisions))

    def moved(self, count: int) -> None:
        """Take note of the bytes that this session has moved so far."""
        if self._moved_before + count > self._moved:
            self._moved = self._moved_before + count
            self.alive()
        self._progress(self._moved)

    def alive(self) -> None:
        """Something has gone on."""
        self._last = time.monotonic()

    def impatient(self) -> bool:
        """Whether nothing has gone on for too long."""
        return time.monotonic() - self._last > self.options.patience

    def _wait(self, error: DtsError, pause: float) -> None:
        """Wait a moment before the next session; raises the error when it has been too long."""
        if self.impatient():
            raise StreamLostError(error.message, error.hint) if isinstance(error, SessionOverError) else error
        log.warning("a transfer is begun anew", with_=self.remote.address.name, reason=error.message)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            self.guard()
            time.sleep(0.05)

    def status(self, number: int, session: str) -> dict[str, Any]:
        """Ask how a transfer stands; raises SessionOverError where the daemon does not know it any more."""
        try:
            found = fields(self.remote.call("transferStatus", number, timeout=20.0))
        except NotFoundError as error:
            raise SessionOverError(error.message, error.hint) from error
        if found["session"] != session:
            raise SessionOverError(f"transfer {number} ended with the daemon that it began with", "it is begun anew")
        return found

    def cancel(self, number: int) -> None:
        """Have a transfer ended that we give up, so that it holds nothing up; never raises a DtsError."""
        try:
            self.remote.call("cancelTransfer", number, timeout=10.0)
        except DtsError as error:
            log.info("a transfer that was given up could not be cancelled", number=number, reason=error.message)

    def finish(self, number: int, session: str) -> dict[str, Any]:
        """Say that all is sent or fetched; return the daemon's last word on it."""
        return fields(self.remote.call("endTransfer", number, session))


@dataclass(frozen=True, slots=True)
class Found:
    """Size in bytes and checksums by algorithm of a file that was read."""

    size: int
    checksums: Mapping[str, str]


def digest(
    remote: Remote, path: str, algorithms: Iterable[str], guard: Guard, *, fresh: bool = False
) -> Found:  # fmt: skip
    """Have a daemon read a file of its own, past its cache if `fresh`, and return size and checksums."""
    return _found(remote, remote.call("digestFile", path, list(algorithms), fresh), guard)


def copy(remote: Remote, path: str, target: str, algorithms: Iterable[str], guard: Guard) -> Found:
    """Have a daemon copy a file of its own to a name that is free; return size and checksums of what it read."""
    return _found(remote, remote.call("copyFile", path, target, list(algorithms)), guard)


def _found(remote: Remote, value: object, guard: Guard) -> Found:
    """Wait for a job of a daemon and return what it found; raises what it failed with."""
    job = fields(value)
    number, session = job["number"], job["session"]
    while job["state"] == "Running":
        guard()
        time.sleep(0.02 if job["seconds"] < 1 else POLL)
        job = fields(remote.call("transferStatus", number))
        if job["session"] != session:
            raise SessionOverError(f"{job['path']!r}: the daemon was started anew meanwhile", "try again")
    if job["error"]:
        raise error_of(job["error"], job["message"], job["hint"])
    return Found(job["answer"]["size"], job["answer"]["checksums"])
