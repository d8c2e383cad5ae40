"""Files to be sent, one after the other: a file or all regular files below a folder, each under its name there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from dtscore.errors import FileMissingError, UnsupportedError
from dtsnet.outgoing import Outgoing
from dtsnet.sandbox import Sandbox

Files = Callable[[], Iterable[Outgoing]]
"""Gives the files to be sent, anew each time that it is called: a session that was lost is begun once more."""

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def local(path: str, name: str, *, overwrite: bool = False) -> Files:
    """Return the file, or the files below the folder, at a path of this host; the other side calls it `name`.

    A link that is named itself is followed, links in a folder are left out. Raises FileMissingError, UnsupportedError.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise FileMissingError(f"{path!r}: {error.strerror}", "check the path") from error
    if stat.S_ISDIR(mode):
        return lambda: _below(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), name, overwrite)
    if not stat.S_ISREG(mode):
        raise UnsupportedError(f"{path!r} is not a file", "only regular files and folders are sent")
    one = Outgoing(name, lambda: _regular(os.open(path, _READING & ~os.O_NOFOLLOW)), overwrite)
    return lambda: (one,)


def inside(sandbox: Sandbox, path: str, name: str, *, overwrite: bool = False) -> Files:
    """Return the file, or the files below the folder, at a path of a sandbox; the other side calls it `name`.

    Raises NameRefusedError where the path leads out, FileMissingError, UnsupportedError.
    """
    mode = _status(sandbox, path).st_mode
    if stat.S_ISDIR(mode):
        return lambda: _below(sandbox.folder(path), name, overwrite)
    if not stat.S_ISREG(mode):
        raise UnsupportedError(f"{path!r} is not a file", "only regular files and folders are sent")
    one = Outgoing(name, lambda: _regular(sandbox.open(path, _READING & ~os.O_CLOEXEC)), overwrite)
    return lambda: (one,)


def size_of(files: Files) -> tuple[int, int]:
    """Return how many files there are now, and their bytes; those that cannot be opened are left out."""
    count = total = 0
    for one in files():
        try:
            descriptor = one.open()
        except OSError:
            continue
        total += os.fstat(descriptor).st_size
        os.close(descriptor)
        count += 1
    return count, total


def _status(sandbox: Sandbox, path: str) -> os.stat_result:
    try:
        descriptor = sandbox.open(path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingError(f"{path!r} is not there", "check the path") from error
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _regular(descriptor: int) -> int:
    """Return a descriptor of a regular file; another kind is closed and raises OSError."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(22, "not a regular file")
    return descriptor


def _below(top: int, name: str, overwrite: bool) -> Iterator[Outgoing]:
    """Yield the regular files below a folder, which is closed at the end; no link is followed."""
    try:
        for place, folders, names, folder in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            folders.sort()
            prefix = PurePosixPath(name, place)
            for one in sorted(names):
                if _may_be_regular(one, folder):
                    yield Outgoing(str(prefix / one), _opener(top, str(PurePosixPath(place, one))), overwrite)
    finally:
        os.close(top)


def _may_be_regular(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:  # who sends it is told when it is opened
        return True


def _opener(top: int, path: str) -> Callable[[], int]:
    return lambda: _regular(os.open(path, _READING, dir_fd=top))
