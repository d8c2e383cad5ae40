"""The queue agent: watches the folders of queues; what is put there becomes a request.

Nothing is moved and nothing is remembered but in the database: a file's request is named after the file as it is, so
that looking again, or two agents looking at once, makes no second one. Hidden names and names that end in .tmp, .part
or ~ are left alone: write under such a name and rename, and set `settle = 0 s`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import structlog
from sqlalchemy.engine import Connection

from agents.base import Agent
from agents.services import Services
from dtscore.errors import DatabaseUnavailableError, DtsError, ElementFullError
from dtscore.monitoring import say
from dtscore.queueing import QueueSettings
from reqdb import queues
from reqdb.queue_requests import identity_of
from reqdb.queues import LocalFile
from reqdb.spec import OPERATION_TYPES

MARKER = ".ok"
"""What stands behind the name of a file or folder that is whole."""

_UNFINISHED = (".tmp", ".part", "~", MARKER)
_TOGETHER = 100
_MOST_TOLD = 10_000
log = structlog.get_logger()

Seen = tuple[str, str]
"""Path and identity of something that was looked at."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Files that came together: one, or those of a folder."""

    path: Path
    files: tuple[LocalFile, ...]

    @property
    def seen(self) -> Seen:
        """What tells it from another of its name."""
        return str(self.path), " ".join(file.identity for file in self.files)


class QueueAgent(Agent):
    """Submits what lies in the folders of this host's queues."""

    kind = "queue"

    def __init__(self, services: Services) -> None:
        """Begin with nothing seen: what was submitted before is found in the database."""
        super().__init__(services)
        self._watched = [queue for queue in services.config.queues.values() if queue.folder is not None]
        self._done: dict[str, set[Seen]] = {}
        self._told: set[tuple[str, str]] = set()

    def run_once(self, wake: threading.Event | None = None) -> Counter[str]:
        """Submit what is whole and new; return how many requests were made, and how many files were refused."""
        summary: Counter[str] = Counter()
        for queue in self._watched:
            if self.draining:
                break
            try:
                summary.update(self._look(queue))
            except OSError as error:
                log.error("the folder of a queue cannot be read", queue=queue.name, error=str(error))
        if summary["queued"]:
            self.services.poke(OPERATION_TYPES)
        return +summary

    def _look(self, queue: QueueSettings) -> Counter[str]:
        """Look through the folder of one queue."""
        with self.services.database.read() as connection:
            if queues.state_of(connection, queue.name).state == queues.STOPPED:
                return Counter()
        summary: Counter[str] = Counter()
        before, there = self._done.get(queue.name, set()), set()
        fresh: list[Arrival] = []
        for path in sorted(self._whole(queue), key=_modified):
            if (seen := _seen(path)) in before:
                there.add(seen)
                continue
            arrival = self._arrival(queue, path)
            if arrival is None:
                continue
            if arrival.seen in before:
                there.add(arrival.seen)
            else:
                fresh.append(arrival)
        for start in range(0, len(fresh), _TOGETHER):
            if self.draining:
                break
            some = fresh[start : start + _TOGETHER]
            ended = self._submit(queue, some)
            summary.update(word for word in ended if word in ("queued", "refused"))
            there.update(one.seen for one, word in zip(some, ended, strict=True) if word != "later")
        self._done[queue.name] = there
        return summary

    def _whole(self, queue: QueueSettings) -> Iterator[Path]:
        """Yield the files, and with markers the folders, that nobody writes to any more."""
        assert queue.folder is not None
        queue.folder.mkdir(parents=True, exist_ok=True)
        for folder, inner, names in os.walk(queue.folder):
            inner[:] = [name for name in inner if not name.startswith(".") and f"{name}{MARKER}" not in names]
            here = Path(folder)
            for name in names:
                if queue.marker and name.endswith(MARKER) and len(name) > len(MARKER):
                    marked = here / name.removesuffix(MARKER)
                    if marked.is_dir() or _fits(queue, marked.name):
                        yield marked
                elif not queue.marker and _fits(queue, name) and _is_settled(here / name, queue.settle):
                    yield here / name

    def _arrival(self, queue: QueueSettings, path: Path) -> Arrival | None:
        """Look at a file, or at all files of a folder; None for what is gone or may not be taken."""
        try:
            paths = _inside(queue, path) if path.is_dir() and not path.is_symlink() else [path]
            files = tuple(queues.look_at(self.services.config, one, queue) for one in paths)
        except (DtsError, OSError) as error:
            if path.exists():
                self._tell(queue, path, str(error))
            return None
        return Arrival(path, files) if files else None

    def _submit(self, queue: QueueSettings, arrivals: Sequence[Arrival]) -> list[str]:
        """Submit in one transaction; return of each whether it is queued, known, refused, or to come later."""

        def work(connection: Connection) -> list[str]:
            return [self._submit_one(connection, queue, one) for one in arrivals]

        return self.services.database.run(work)

    def _submit_one(self, connection: Connection, queue: QueueSettings, arrival: Arrival) -> str:
        try:
            label = str(arrival.path.name) if len(arrival.files) > 1 else ""
            submitted = queues.submit_file(
                connection, self.services.config, queue, arrival.files, owner=_owner(arrival.path), label=label
            )
        except DatabaseUnavailableError:
            raise
        except DtsError as error:
            self._tell(queue, arrival.path, error.message)
            return "later" if isinstance(error, ElementFullError) else "refused"
        return "known" if submitted.existing else "queued"

    def _tell(self, queue: QueueSettings, path: Path, error: str) -> None:
        """Say once what is in the way of a file that is looked at again and again."""
        if (str(path), error) in self._told:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add((str(path), error))
        log.error("a file is not taken", queue=queue.name, path=str(path), error=error)
        say(self.services.config, "error", what=f"queue {queue.name}", message=f"{path}: {error}")


def _fits(queue: QueueSettings, name: str) -> bool:
    hidden = name.startswith(".") or name.endswith(_UNFINISHED)
    return not hidden and any(fnmatchcase(name, pattern) for pattern in queue.patterns)


def _inside(queue: QueueSettings, folder: Path) -> list[Path]:
    """Return all files below a folder that fit, in order."""
    found = []
    for here, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(here) / name for name in names if _fits(queue, name)]
    return sorted(found)


def _is_settled(path: Path, seconds: float) -> bool:
    """Whether a file was neither written nor renamed for so long: `ctime` counts too, for times can be preserved."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return False
    return seconds <= 0 or time.time() - max(status.st_mtime, status.st_ctime) >= seconds


def _seen(path: Path) -> Seen:
    """Return what an arrival of one file would be known by: most of them were seen before."""
    try:
        return str(path), identity_of(path.stat(follow_symlinks=False))
    except OSError:
        return str(path), ""


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _owner(path: Path) -> str:
    """Return the login name of a file's owner, who owns its request unless the queue names another."""
    try:
        return path.owner()
    except (KeyError, OSError):
        return "unknown"
