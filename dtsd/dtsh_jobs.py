"""Commands of dtsh in threads of their own: the one in the foreground is waited for, the others go on beside it."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from dtscore import command
from dtscore.errors import DtsError, WorkCancelledError
from dtsd.dtsh_verb import Command, ExitRequested

_PATIENCE = 3.0
"""Seconds for an interrupted command to end; then it is left to itself, and its result is nobody's."""


class Job(threading.Thread):
    """One command; `code` is its exit code when it has ended, `is_left` that it hangs and was left to itself."""

    def __init__(self, running: Command, text: str, number: int = 0) -> None:
        """Prepare; `number` is that of a background job."""
        super().__init__(name=f"dtsh-{running.verb.name}", daemon=True)
        self.command = running
        self.text = text
        self.number = number
        self.code: int | None = None
        self.ended = threading.Event()
        self.is_left = False

    def run(self) -> None:
        """Do the work; what goes wrong is told and becomes the exit code."""
        try:
            self.code = run_command(self.command)
        finally:
            self.ended.set()

    @property
    def state(self) -> str:
        """What it does, in words."""
        if self.code is None:
            return "running"
        return "done" if self.code == 0 else f"failed ({self.code})"

    def interrupt(self) -> None:
        """Ask it to end."""
        self.command.stop.set()

    def wait(self) -> int:
        """Wait for its end; KeyboardInterrupt ends it first. Returns the exit code.

        Not by `join`: interrupted, that takes the thread for ended.
        """
        try:
            self.ended.wait()
        except KeyboardInterrupt:
            self.interrupt()
            self.ended.wait(_PATIENCE)
            self.is_left = not self.ended.is_set()
            self.code = command.INTERRUPTED
            raise
        return self.code if self.code is not None else command.FAILED


def run_command(running: Command) -> int:
    """Do the work of a command in this thread; return the exit code, and tell what went wrong."""
    try:
        return running.verb.call(running) or command.OK
    except ExitRequested:
        raise
    except (DtsError, OSError) as error:
        return tell(error, running.label, interrupted=running.stop.is_set())
    except Exception as error:
        if os.environ.get("DTS_DEBUG") == "1":
            traceback.print_exc()
        return tell(error, running.label)


def tell(error: Exception, label: str = "", *, interrupted: bool = False) -> int:
    """Tell what went wrong, in a line and a hint; return the exit code."""
    prefix = f"[{label}] " if label else ""
    if interrupted and isinstance(error, (WorkCancelledError, OSError)):
        return command.INTERRUPTED  # whoever interrupted it knows
    if isinstance(error, DtsError):
        command.complain(f"{prefix}{error.message}", error.hint)
        return error.exit_code
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        command.complain(f"{prefix}{what}", "look at the path and its rights")
        return command.FAILED
    command.complain(f"{prefix}internal error: {type(error).__name__}: {error}", "DTS_DEBUG=1 shows the traceback")
    return command.FAILED


class Jobs:
    """The background jobs of a shell, by number."""

    def __init__(self, ended: Callable[[Job], None]) -> None:
        """`ended` hears of each job once, when it is waited for or looked at after its end."""
        self._jobs: dict[int, Job] = {}
        self._last = 0
        self._ended = ended

    def start(self, running: Command, text: str) -> Job:
        """Start a command in the background."""
        self._last += 1
        running.label = str(self._last)
        job = Job(running, text, self._last)
        self._jobs[job.number] = job
        job.start()
        return job

    def __iter__(self) -> Iterator[Job]:
        """Give the jobs that run or were not told of yet."""
        return iter(list(self._jobs.values()))

    def get(self, number: int) -> Job | None:
        """Return a job by its number."""
        return self._jobs.get(number)

    def reap(self) -> None:
        """Tell of the jobs that have ended."""
        for job in self:
            if job.ended.is_set():
                del self._jobs[job.number]
                self._ended(job)

    def wait(self, number: int | None = None) -> int:
        """Wait for one job or all; return the exit code of the first in order that failed. KeyboardInterrupt."""
        code = command.OK
        for job in self:
            if number not in (None, job.number):
                continue
            job.ended.wait()
            code = code or job.code or command.OK
        self.reap()
        return code

    @property
    def are_left(self) -> bool:
        """Whether any job hangs and was left to itself."""
        return any(job.is_left for job in self)

    def interrupt(self) -> None:
        """End all jobs."""
        for job in self:
            job.interrupt()
        until = time.monotonic() + _PATIENCE
        for job in self:
            job.ended.wait(max(until - time.monotonic(), 0.0))
            job.is_left = not job.ended.is_set()
