"""The import agent: the spool folder, where a request file that is dropped in `ToDo/` becomes a request.

    ToDo/ ──► Running/ ──► Done/ or Failed/

That is the seed's request database of files. One agent works on a spool at a time, the one that holds its lock;
submitting is safe to repeat, so a crash at any point is mended by doing it again. When the request ends, its file
stands in Done/ (or Failed/), annotated with ids, times, states and errors. A job description (NAME.jdl) goes on as
NAME.jdl.xml, with what its XML file says: that one takes its own way through the spool.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog
from sqlalchemy.exc import DBAPIError

from agents.base import Agent
from agents.services import Services
from dtscore.errors import DtsError, RequestFileError, StateError, UsageError
from reqdb import exporting, store
from reqdb.jdl import read_any
from reqdb.spec import OPERATION_TYPES, RequestSpec
from reqdb.states import ENDED, State
from reqdb.store import Submitted
from reqdb.xml import Limits, write_request

FOLDERS = ("ToDo", "Running", "Done", "Failed")
_SETTLED_SECONDS = 2.0
"""A file that cannot be parsed and was written to this recently may still be growing: look again later."""

_REFUSALS = (UsageError, StateError, DBAPIError)
"""What is wrong with a file and will be so at the next look; anything else is wrong with the site."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Adopted:
    """A request file in Running/ (`mark`: which one, for another may come under its name) and its request."""

    path: Path
    mark: tuple[int, int]
    request_id: int


class ImportAgent(Agent):
    """Watches the spool folder."""

    kind = "import"

    def __init__(self, services: Services) -> None:
        """Make the spool's folders where they are missing."""
        super().__init__(services)
        self._spool = services.config.spool.folder
        self._adopted: dict[str, _Adopted] = {}
        for name in FOLDERS:
            (self._spool / name).mkdir(parents=True, exist_ok=True)

    def run_once(self, wake: threading.Event | None = None) -> Counter[str]:
        """Import what lies in ToDo/, and move what has ended; return how many files did which."""
        summary: Counter[str] = Counter()
        with self._locked() as ours:
            if ours:
                self._forget_replaced()
                # Job descriptions come first: the XML files that they name still lie beside them.
                for path in sorted(self._files("ToDo"), key=lambda one: not _is_jdl(one)):
                    summary.update(self._carefully(self._take, path))
                for path in self._files("Running"):
                    if path.name not in self._adopted:
                        summary.update(self._carefully(self._adopt, path))
                summary.update(self._move_ended())
        return +summary

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the spool's lock, which ends with the process; False while another agent holds it."""
        with (self._spool / ".lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _files(self, folder: str) -> list[Path]:
        """Return the request files of a folder, oldest first; hidden and half-written names are left alone."""
        found = []
        with os.scandir(self._spool / folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") or entry.name.endswith((".tmp", ".part", "~"))
                if not hidden and entry.is_file(follow_symlinks=False):
                    found.append((entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)))
        return [path for _, path in sorted(found)]

    def _forget_replaced(self) -> None:
        """Forget files that another agent, or a person, took out of Running/: their names may come again."""
        self._adopted = {name: one for name, one in self._adopted.items() if _mark_of(one.path) == one.mark}

    def _carefully(self, work: Callable[[Path], str], path: Path) -> Counter[str]:
        """Do something with one file; what goes wrong with it does not hold back the others."""
        if self.draining:
            return Counter()
        try:
            word = work(path)
        except FileNotFoundError:
            return Counter()  # its owner took it away
        except OSError as error:
            log.error("a file of the spool is left for the next look", path=str(path), error=str(error))
            return Counter()
        return Counter({word: 1} if word else {})

    def _take(self, path: Path) -> str:
        """Move a file from ToDo/ to Running/ under a free name and submit it."""
        if _is_jdl(path):
            return self._take_jdl(path)
        running = self._free_name("Running", path.name)
        path.rename(running)
        return self._adopt(running, fresh=True)

    def _take_jdl(self, path: Path) -> str:
        """Submit what a job description names; from then on it stands in Running/ as plain XML."""
        running = self._free_name("Running", f"{path.name}.xml")
        try:
            spec = self._read(path)
            submitted = self._submit(spec, _owner_of(path), running.name)
        except _REFUSALS as error:
            return self._refuse(path, error, growing=isinstance(error, RequestFileError) and _just_written(path))
        with _whole(running) as stream:
            write_request(spec, stream)
        path.unlink()
        return self._adopted_as(running, submitted)

    def _adopt(self, path: Path, *, fresh: bool = False) -> str:
        """Submit a file that lies in Running/; what a crash left there is submitted again, to no effect."""
        try:
            submitted = self._submit(self._read(path), _owner_of(path), path.name)
        except _REFUSALS as error:
            growing = fresh and isinstance(error, RequestFileError) and _just_written(path)
            return self._refuse(path, error, growing=growing)
        return self._adopted_as(path, submitted)

    def _read(self, path: Path) -> RequestSpec:
        limits = Limits(**dataclasses.asdict(self.services.config.limits))
        return read_any(path, limits=limits, elements=self.services.config.elements)

    def _submit(self, spec: RequestSpec, owner: str, name: str) -> Submitted:
        return self.services.database.run(
            lambda connection: store.submit(connection, spec, owner=owner, origin=f"spool:{name}")
        )

    def _adopted_as(self, path: Path, submitted: Submitted) -> str:
        mark = _mark_of(path)
        if mark is not None:
            self._adopted[path.name] = _Adopted(path, mark, submitted.id)
        log.info("request file imported", file=path.name, request=submitted.id, existing=submitted.existing)
        self.services.poke(OPERATION_TYPES)
        return "imported"

    def _refuse(self, path: Path, error: Exception, *, growing: bool) -> str:
        """Put a file that is no request into Failed/, with the reason beside it; one still being written goes back."""
        if growing:
            if path.parent.name != "ToDo":
                path.rename(self._free_name("ToDo", path.name))
            return ""
        target = self._free_name("Failed", path.name)
        hint = error.hint if isinstance(error, DtsError) else "the database refuses what it says"
        with _whole(target.with_name(f"{target.name}.error.txt")) as stream:
            stream.write(f"error: {error}\nhint: {hint}\n".encode(errors="backslashreplace"))
        path.rename(target)
        log.warning("request file refused", file=path.name, error=str(error))
        return "refused"

    def _move_ended(self) -> Counter[str]:
        """Annotate the files whose requests have ended."""
        if not self._adopted:
            return Counter()
        with self.services.database.read() as connection:
            states = store.states_of(connection, [adopted.request_id for adopted in self._adopted.values()])
        summary: Counter[str] = Counter()
        for name, adopted in list(self._adopted.items()):
            state = states.get(adopted.request_id)
            if state not in ENDED:
                continue
            try:
                self._annotate(adopted, "Done" if state is State.DONE else "Failed")
            except OSError as error:
                log.error("the end of a request stays unwritten for now", file=name, error=str(error))
                continue
            del self._adopted[name]
            summary[state.value] += 1
        return summary

    def _annotate(self, adopted: _Adopted, folder: str) -> None:
        """Write the request with what became of it, whole, and only then drop the file in Running/."""
        name = adopted.path.name if adopted.path.suffix == ".xml" else f"{adopted.path.name}.xml"
        with self.services.database.read() as connection:
            spec = exporting.to_spec(connection, adopted.request_id)
            annotations = exporting.annotations_of(connection, adopted.request_id)
        with _whole(self._free_name(folder, name)) as stream:
            write_request(spec, stream, annotations)
        adopted.path.unlink(missing_ok=True)

    def _free_name(self, folder: str, name: str) -> Path:
        """Return a path in a folder that is not taken: `a.xml`, `a.2.xml`, …"""
        path = self._spool / folder / name
        number = 2
        while path.exists():
            path = self._spool / folder / f"{Path(name).stem}.{number}{Path(name).suffix}"
            number += 1
        return path


def _is_jdl(path: Path) -> bool:
    return path.suffix.lower() == ".jdl"


def _just_written(path: Path) -> bool:
    return abs(time.time() - path.stat().st_mtime) < _SETTLED_SECONDS


def _mark_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of its name; None if there is none."""
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _owner_of(path: Path) -> str:
    """Return the login name of the file's owner, who is the request's owner unless the file names another."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file so that it is seen whole or not at all, also after a loss of power."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)
