"""What dtsq was asked for and has not ended: one file for each request, so that no death of a process loses it.

    FOLDER/pending/NAME.json ──► a token file (done)
                             └─► FOLDER/failed/NAME.json, from where `dtsq --recover` brings it back

FOLDER/log has a line of JSON for each thing that happened. Imports little: it is loaded before dtsq has answered.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from dtscore.errors import DtsError, ElementFullError, ElementReadOnlyError, PermissionRefusedError, StorageFaultError

ENDING = ".json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class QueuedFile(NamedTuple):
    """One file of a request: where it lay, its logical name, size in bytes and time of change (ns since 1970)."""

    path: str
    lfn: str
    size: int
    modified: int


class Record(NamedTuple):
    """One request as dtsq accepted it; `xml` is the request file itself, `error` why it failed (empty: not yet).

    `partly` says of one that failed that some of its files are done.
    """

    name: str
    queue: str
    asked: str
    host: str
    user: str
    files: tuple[QueuedFile, ...]
    xml: str
    error: str = ""
    partly: bool = False

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


def moment(seconds: float | None = None) -> str:
    """Return a moment (now, or seconds since 1970) in UTC as ISO 8601 with milliseconds."""
    at = time.time() if seconds is None else seconds
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d}Z"


def storage_error(error: OSError, what: str) -> DtsError:
    """Return our error for what the system said about a file or folder of this host."""
    said = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return ElementFullError(said, "make room there")
    if error.errno == errno.EROFS:
        return ElementReadOnlyError(said, "see why it is mounted so")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionRefusedError(said, "look at its owner and rights")
    return StorageFaultError(said, "look at the disk and the path")


def write_durably(path: str, data: bytes, mode: int = 0o640) -> None:
    """Put a file there whole, after any that was there, so that a loss of power keeps it; raises OSError."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        _drop(temporary)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Records:
    """The folder of [dtsq] folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Name the folders; they are made when first used."""
        self.folder = os.fspath(folder)
        self.pending = os.path.join(self.folder, "pending")
        self.failed = os.path.join(self.folder, "failed")

    def keep(self, record: Record) -> None:
        """Write down a request that is accepted; raises OSError."""
        os.makedirs(self.pending, exist_ok=True)
        write_durably(_in(self.pending, record.name), _text(record))

    def is_pending(self, name: str) -> bool:
        """Whether a request has not ended yet."""
        return os.path.exists(_in(self.pending, name))

    def read_pending(self, name: str) -> Record | None:
        """Return a request that has not ended, None where it has."""
        return _read(_in(self.pending, name))

    def failure(self, name: str) -> Record | None:
        """Return a request that failed, None where it did not."""
        return _read(_in(self.failed, name))

    def list_pending(self) -> list[Record]:
        """Return the requests that have not ended, oldest first."""
        return _sorted(self.pending)

    def list_failed(self) -> list[Record]:
        """Return the requests that failed, oldest first."""
        return _sorted(self.failed)

    def names_pending(self) -> list[str]:
        """Return the names of the requests that have not ended."""
        return sorted(name.removesuffix(ENDING) for name in _names(self.pending))

    def has_pending(self) -> bool:
        """Whether any request has not ended."""
        return any(True for _ in _names(self.pending))

    def end(self, record: Record) -> None:
        """Forget a request that is done, or that is given up."""
        _drop(_in(self.pending, record.name))
        _drop(_in(self.failed, record.name))

    def fail(self, record: Record, error: str, *, partly: bool = False) -> None:
        """Keep a request among those that failed, with the reason; raises OSError."""
        failed = record._replace(error=error, partly=partly)
        os.makedirs(self.failed, exist_ok=True)
        write_durably(_in(self.failed, record.name), _text(failed))
        _drop(_in(self.pending, record.name))
        self.log("failed", record, error=error)

    def bring_back(self, record: Record) -> None:
        """Take a request that failed among those that have not ended; raises OSError."""
        self.keep(record._replace(error="", partly=False))
        _drop(_in(self.failed, record.name))
        self.log("recovered", record)

    def log(self, event: str, record: Record, **more: Any) -> None:
        """Add what happened to a request to the log."""
        sizes = {"files": len(record.files), "bytes": record.size, "first": record.files[0].path}
        self.note(event, request=record.name, queue=record.queue, **sizes, **more)

    def note(self, event: str, **told: Any) -> None:
        """Add a line to the log; a full disk loses the line and nothing else."""
        line = json.dumps({"at": moment(), "event": event, **told, "pid": os.getpid()}) + "\n"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(os.path.join(self.folder, "log"), flags, 0o640)
        except OSError:
            return
        try:
            os.write(descriptor, line.encode())
        except OSError:
            return
        finally:
            os.close(descriptor)


def _in(folder: str, name: str) -> str:
    return os.path.join(folder, f"{name}{ENDING}")


def _text(record: Record) -> bytes:
    values = {**record._asdict(), "files": [file._asdict() for file in record.files]}
    return json.dumps(values, indent=1).encode()


def _read(path: str) -> Record | None:
    """Return what a file says; None when another process ended the request meanwhile, or the file is none of ours."""
    try:
        with open(path, "rb") as stream:
            values = json.loads(stream.read())
        files = tuple(QueuedFile(**one) for one in values.pop("files"))
        return Record(**values, files=files)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _names(folder: str) -> Iterator[str]:
    try:
        found = os.listdir(folder)
    except FileNotFoundError:
        return
    yield from (name for name in found if name.endswith(ENDING) and not name.startswith("."))


def _sorted(folder: str) -> list[Record]:
    records = (_read(os.path.join(folder, name)) for name in _names(folder))
    return sorted((one for one in records if one is not None and one.files), key=lambda one: (one.asked, one.name))
