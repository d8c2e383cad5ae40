"""Folders below a root, opened so that no name and no symbolic link leads outside.

Each part of a path is opened relative to the folder before it, with O_NOFOLLOW. The check and the use are one
system call, so nobody can slip a link in between; the price is that links below the root are never followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from dtscore.errors import ElementUnavailableError
from dtscore.names import check_pfn

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _root(root: str, element: str) -> int:
    # Opened anew each time: a kept descriptor would hold a mount busy, or go on in an unmounted, empty folder.
    try:
        return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ElementUnavailableError(
            f"element {element!r}: its root folder {root!r} is not there", "mount the disk, or make the folder",
            element=element,
        ) from error  # fmt: skip


def sync_folder(folder: int) -> None:
    """Make the names in a folder durable."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(readable)
    finally:
        os.close(readable)


def _step(folder: int, part: str, make: bool) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(part, dir_fd=folder)
    except FileExistsError:
        pass  # another attempt made it this instant
    else:
        sync_folder(folder)
    return os.open(part, _FOLDER, dir_fd=folder)


def open_folder(root: str, element: str, parts: Sequence[str], *, make: bool = False) -> int:
    """Return a descriptor (O_PATH) of the folder at `parts` below the root; missing folders are made if `make`."""
    descriptor = _root(root, element)
    try:
        for part in parts:
            below = _step(descriptor, part, make)
            os.close(descriptor)
            descriptor = below
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def folder(root: str, element: str, parts: Sequence[str]) -> Iterator[int]:
    """Give what `open_folder` returns, and close it."""
    descriptor = open_folder(root, element, parts)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@lru_cache(maxsize=4096)
def split(path: str) -> tuple[tuple[str, ...], str]:
    """Return the folders and the base name of a PFN, or raise NameRefusedError."""
    parts = check_pfn(path).split("/")
    return tuple(parts[:-1]), parts[-1]
