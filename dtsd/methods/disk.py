"""Room on the disk below the daemon's root, in bytes."""

from __future__ import annotations

import os

from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Method
from dtsnet.xmlrpc import Value


def _room(site: Site, path: str) -> os.statvfs_result:
    folder = site.sandbox.folder(path)
    try:
        return os.fstatvfs(folder)
    finally:
        os.close(folder)


def disk_free(site: Site, _caller: Caller, path: str) -> Value:
    """Return the bytes that may still be written."""
    room = _room(site, path)
    return room.f_bavail * room.f_frsize


def disk_used(site: Site, _caller: Caller, path: str) -> Value:
    """Return the bytes that are taken."""
    room = _room(site, path)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


_FOLDER = Argument("path", "path", "A folder below the daemon's root; '' is the root.", "")

METHODS = (
    Method("diskFree", "read", (_FOLDER,), "int",
           "Returns the bytes, 64 bits, that the daemon may still write to the file system of a folder.", disk_free),
    Method("diskUsed", "read", (_FOLDER,), "int",
           "Returns the bytes, 64 bits, that are taken on the file system of a folder.", disk_used),
)  # fmt: skip
