"""The import agent: the spool folder, where a request file that is dropped in `ToDo/` becomes a request.

    ToDo/ ──► Running/ ──► Done/ or Failed/

That is the seed's request database of files. A file is taken by a rename, so that two agents never take the same;
submitting is safe to repeat, so a crash at any point is mended by doing it again. When the request ends, its file
stands in Done/ (or Failed/), annotated with ids, times, states and errors.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import structlog

from agents.base import Agent
from agents.services import Services
from dtscore.errors import DtsError, RequestFileError
from reqdb import exporting, store
from reqdb.jdl import read_any
from reqdb.states import ENDED, State
from reqdb.xml import Limits, write_request

FOLDERS = ("ToDo", "Running", "Done", "Failed")
_SETTLED_SECONDS = 2.0
"""A file that cannot be parsed and was written to this recently may still be growing: look again later."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Adopted:
    """A request file in Running/ and the request that it became."""

    path: Path
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
        for path in self._files("ToDo"):
            if self.draining:
                break
            summary.update(self._take(path))
        for path in self._files("Running"):
            if path.name not in self._adopted:
                summary.update(self._submit(path, fresh=False))
        summary.update(self._move_ended())
        return +summary

    def _files(self, folder: str) -> list[Path]:
        """Return the request files of a folder, oldest first; hidden and half-written names are left alone."""
        found = []
        with os.scandir(self._spool / folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") or entry.name.endswith((".tmp", ".part", "~"))
                if not hidden and entry.is_file(follow_symlinks=False):
                    found.append((entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)))
        return [path for _, path in sorted(found)]

    def _take(self, path: Path) -> Counter[str]:
        """Move a file from ToDo/ to Running/ under a free name and submit it."""
        running = self._free_name("Running", path.name)
        try:
            path.rename(running)
        except FileNotFoundError:
            return Counter()  # another agent was quicker
        return self._submit(running, fresh=True)

    def _submit(self, path: Path, *, fresh: bool) -> Counter[str]:
        try:
            spec = read_any(path, limits=self._limits(), elements=self.services.config.elements)
            owner = _owner_of(path)
            submitted = self.services.database.run(
                lambda connection: store.submit(connection, spec, owner=owner, origin=f"spool:{path.name}")
            )
        except FileNotFoundError:
            return Counter()
        except RequestFileError as error:
            return self._refuse(path, error, growing=fresh and _just_written(path))
        except (DtsError, OSError) as error:
            if getattr(error, "exit_code", 5) == 5:
                raise
            return self._refuse(path, error, growing=False)
        self._adopted[path.name] = _Adopted(path, submitted.id)
        log.info("request file imported", file=path.name, request=submitted.id, existing=submitted.existing)
        self.services.poke(["transfer", "register", "remove", "verify"])
        return Counter(imported=1)

    def _limits(self) -> Limits:
        return Limits(**dataclasses.asdict(self.services.config.limits))

    def _refuse(self, path: Path, error: Exception, *, growing: bool) -> Counter[str]:
        """Put a file that is no request into Failed/, with the reason beside it; one still being written goes back."""
        if growing:
            path.rename(self._free_name("ToDo", path.name))
            return Counter()
        target = self._free_name("Failed", path.name)
        hint = error.hint if isinstance(error, DtsError) else ""
        _write_whole(target.with_name(f"{target.name}.error.txt"), f"error: {error}\nhint: {hint}\n".encode())
        path.rename(target)
        log.warning("request file refused", file=path.name, error=str(error))
        return Counter(refused=1)

    def _move_ended(self) -> Counter[str]:
        summary: Counter[str] = Counter()
        if not self._adopted:
            return summary
        with self.services.database.read() as connection:
            states = store.states_of(connection, [adopted.request_id for adopted in self._adopted.values()])
        for name, adopted in list(self._adopted.items()):
            state = states.get(adopted.request_id)
            if state in ENDED:
                self._annotate(adopted, "Done" if state is State.DONE else "Failed")
                del self._adopted[name]
                summary[state.value] += 1
        return summary

    def _annotate(self, adopted: _Adopted, folder: str) -> None:
        """Write the request with what became of it, whole, and only then drop the file in Running/."""
        name = adopted.path.name if adopted.path.suffix == ".xml" else f"{adopted.path.name}.xml"
        target = self._free_name(folder, name)
        temporary = target.with_name(f".{target.name}.tmp")
        with self.services.database.read() as connection:
            spec = exporting.to_spec(connection, adopted.request_id)
            annotations = exporting.annotations_of(connection, adopted.request_id)
        with temporary.open("wb") as stream:
            write_request(spec, stream, annotations)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(target)
        adopted.path.unlink(missing_ok=True)

    def _free_name(self, folder: str, name: str) -> Path:
        """Return a path in a folder that is not taken: `a.xml`, `a.2.xml`, …"""
        path = self._spool / folder / name
        number = 2
        while path.exists():
            path = self._spool / folder / f"{Path(name).stem}.{number}{Path(name).suffix}"
            number += 1
        return path


def _just_written(path: Path) -> bool:
    return time.time() - path.stat().st_mtime < _SETTLED_SECONDS


def _owner_of(path: Path) -> str:
    """Return the login name of the file's owner, who is the request's owner unless the file names another."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def _write_whole(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
