"""A folder as files to be sent: what lies below it, under names at the receiver, folders that are empty included.

Symbolic links are never followed. They, and what is no file, end as errors of their own, so that nothing is left out
in silence.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial

from dtscore.errors import UnsupportedError
from dtsnet.outgoing import Outgoing
from dtsnet.sandbox import Sandbox

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def outgoing_tree(sandbox: Sandbox, path: str, name: str, *, overwrite: bool = False) -> Iterator[Outgoing]:
    """Yield what is to be sent of a file or folder below a sandbox, sorted, named `name` and below at the receiver.

    '' as path is the sandbox itself, '' as name the receiver's own folder. Raises NameRefusedError and OSError.
    """
    descriptor = sandbox.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        mode = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    if stat.S_ISDIR(mode):
        yield from _below(sandbox, path, name, overwrite)
    else:
        yield Outgoing(name, _opener(sandbox, path, mode), overwrite)


def _below(sandbox: Sandbox, path: str, name: str, overwrite: bool) -> Iterator[Outgoing]:
    """Go down one folder after the other, each listed when its turn comes: only their names are in memory."""
    waiting = [(path, name)]
    while waiting:
        folder, there = waiting.pop()
        found = _list(sandbox, folder)
        if not found and there:
            yield Outgoing(there, partial(_refuse, folder), folder=True)
        deeper: list[tuple[str, str]] = []
        for entry, mode in found:
            inner, outer = _join(folder, entry), _join(there, entry)
            if stat.S_ISDIR(mode):
                deeper.append((inner, outer))
            else:
                yield Outgoing(outer, _opener(sandbox, inner, mode), overwrite)
        waiting += reversed(deeper)


def _list(sandbox: Sandbox, path: str) -> list[tuple[str, int]]:
    descriptor = sandbox.folder(path)
    try:
        with os.scandir(descriptor) as entries:
            return sorted((entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries)
    finally:
        os.close(descriptor)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _opener(sandbox: Sandbox, path: str, mode: int) -> Callable[[], int]:
    if stat.S_ISREG(mode):
        return partial(sandbox.open, path, _FILE)
    return partial(_refuse, path)


def _refuse(path: str) -> int:
    raise UnsupportedError(f"{path!r} is a symbolic link or no file", "name the file itself")
