"""What one transfer may bring into a folder: only names that were agreed on, and only where there is room."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from dtscore.errors import ElementFullError, NameRefusedError
from dtsnet.arriving import Description
from dtsnet.incoming import is_temporary
from dtsnet.sandbox import Sandbox


def within(scope: str) -> Callable[[Description], None]:
    """Return what refuses all files but one named `scope`, or below it; '' lets any name in."""

    def admit(description: Description) -> None:
        path = description.path
        if scope and path != scope and not path.startswith(scope + "/"):
            raise NameRefusedError(f"{path!r} is not what this transfer is for: {scope!r}", "ask for another transfer")

    return admit


def ask_for_room(sandbox: Sandbox, path: str, size: int, promised: int = 0) -> None:
    """Raise ElementFullError unless `size` bytes fit where a path is to go, beside what is promised to others.

    What an attempt before has left of the file is there already and need not fit once more.
    """
    folder = _nearest(sandbox, path)
    try:
        status = os.fstatvfs(folder)
        free = status.f_bavail * status.f_frsize
        needed = size + promised
        if needed > free:
            needed -= _left(folder, path.rpartition("/")[2])
    finally:
        os.close(folder)
    if needed > free:
        what = f"{path or 'what comes'!r} needs {needed:,} bytes, {free:,} are free"
        raise ElementFullError(what, "free some space at the receiver")


def _nearest(sandbox: Sandbox, path: str) -> int:
    """Return a descriptor of the nearest folder above a path that exists."""
    while path:
        path = path.rpartition("/")[0]
        with suppress(FileNotFoundError, NotADirectoryError):
            return sandbox.folder(path)
    return sandbox.folder("")


def _left(folder: int, name: str) -> int:
    """Return the bytes of disk that unfinished attempts at a file hold."""
    held = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if name and entry.name.startswith(f".{name[:100]}") and is_temporary(entry.name):
                held += entry.stat(follow_symlinks=False).st_blocks * 512
    return held
