"""The files that dtsq is given: found, looked at without being read, and proved to be written by nobody just now."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, NoReturn

from dtscore.errors import (
    NotFoundError,
    PermissionRefusedError,
    SourceChangedError,
    UsageError,
)
from dtsd.dtsq_records import storage_error

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ENDING_OF_TOKENS = ".dtsq"


class Seen(NamedTuple):
    """A file as it is: its path without symbolic links, size in bytes, time of change (ns since 1970), what it is."""

    path: str
    size: int
    modified: int
    identity: tuple[int, int]


def find(names: Sequence[str], most: int) -> list[Seen]:
    """Return the files that names stand for, each once, none of them being written.

    Raises NotFoundError, PermissionRefusedError, SourceChangedError (somebody writes to one), UsageError.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel's word that somebody wants to write to a file held here
    paths: dict[str, None] = {}
    for path in _all_paths(names):
        paths.setdefault(path)
        if len(paths) > most:
            raise UsageError(f"more than {most} files", "queue fewer at once, or raise [limits] max_files")
    if not paths:
        raise NotFoundError(f"there is no file below {names[0]}", "name a file, or a folder with files")
    return [_look(path) for path in paths]


def check_unchanged(files: Iterable[Seen]) -> None:
    """Raise SourceChangedError where a file is not what it was a moment ago."""
    for file in files:
        try:
            status = os.stat(file.path, follow_symlinks=False)
        except OSError as error:
            raise SourceChangedError(f"{file.path} went away just now", "queue it when it is complete") from error
        if _seen(file.path, status) != file:
            raise SourceChangedError(f"{file.path} is changing just now", "queue it when it is complete")


def _all_paths(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            path = os.path.realpath(name, strict=True)
            is_folder = os.path.isdir(path)
        except OSError as error:
            _refuse(name, error)
        if is_folder:
            yield from _below(path)
        else:
            yield path


def _below(folder: str) -> Iterator[str]:
    """Give the files below a folder, in order; hidden ones and token files are no data."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        _refuse(folder, error)
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith(_ENDING_OF_TOKENS):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path)
        elif entry.is_symlink():
            raise UsageError(f"{entry.path} is a symbolic link", "queue what it points to, by its own name")
        else:
            yield entry.path


def _look(path: str) -> Seen:
    try:
        descriptor = os.open(path, _READING)
    except OSError as error:
        _refuse(path, error)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is no regular file", "name a file or a folder")
        _refuse_written(descriptor, path)
    finally:
        os.close(descriptor)
    return _seen(path, status)


def _refuse_written(descriptor: int, path: str) -> None:
    """Raise where anybody has the file open for writing: the kernel gives a read lease only on a file that nobody has.

    On file systems without leases, and on files of other users, nobody can tell: then its size and time have to do.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise SourceChangedError(f"{path} is open for writing", "close it first, then queue it") from error
        return
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _seen(path: str, status: os.stat_result) -> Seen:
    return Seen(path, status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino))


def _refuse(path: str, error: OSError) -> NoReturn:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise NotFoundError(f"there is no file {path}", "look at the path") from error
    if error.errno in (errno.EACCES, errno.EPERM):
        raise PermissionRefusedError(f"{path} may not be read", "look at its owner and rights") from error
    raise storage_error(error, path) from error
