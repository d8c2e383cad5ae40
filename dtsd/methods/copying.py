"""Copying a file between two open places: under a temporary name, durable, then published."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

from crc32c import crc32c

from dtscore.errors import DestinationDiffersError
from dtsd.server.table import Caller
from dtsnet.xmlrpc import Value

_BLOCK = 1024 * 1024


def copy_file(source: int, folder: int, name: str, caller: Caller, *, overwrite: bool) -> dict[str, Value]:
    """Copy an open file into a folder and return size and crc32c; raises DestinationDiffersError and OSError."""
    temporary = f".dts-copy.{secrets.token_hex(8)}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    target = os.open(temporary, flags, 0o640, dir_fd=folder)
    try:
        try:
            size, checksum = _pour(source, target, caller)
            os.fsync(target)
        finally:
            os.close(target)
        if overwrite:
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            _publish(folder, temporary, name)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)
    return {"size": size, "crc32c": f"{checksum:08x}"}


def _pour(source: int, target: int, caller: Caller) -> tuple[int, int]:
    size, checksum = 0, 0
    while data := os.pread(source, _BLOCK, size):
        caller.check()
        checksum = crc32c(data, checksum)
        size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    return size, checksum


def _publish(folder: int, temporary: str, name: str) -> None:
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError as error:
        raise DestinationDiffersError(f"{name!r} exists", "choose another name, or overwrite") from error
    os.unlink(temporary, dir_fd=folder)
