"""The daemon's folder as a storage element of other sites: what their elements of type dts ask for.

No part of a path may be a link; what was written, named or removed is durable before the answer goes out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dtscore import checksums
from dtscore.errors import UsageError
from dtsd import shelf
from dtsd.jobs import Errand, Purpose
from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Method
from dtsnet.xmlrpc import Value
from storage.served import ServedFolder, heard, told

MOST = 1 << 20
_SOON = 0.5
"""Seconds that a call waits for a job that may end at once."""


def find(site: Site, _caller: Caller, path: str) -> Value:
    """Say what is known of a file, nothing where there is none."""
    found = _element(site).find(path)
    return {} if found is None else told(found)


def read(site: Site, _caller: Caller, path: str, offset: int, length: int) -> Value:
    """Return bytes of a file, and what is known of it."""
    reader = _element(site).open(path)
    try:
        return {"data": os.pread(reader.descriptor, length, offset), **told(reader.stat())}
    finally:
        reader.close()


def write(site: Site, _caller: Caller, path: str, data: bytes) -> Value:
    """Make a small file."""
    element = _element(site)
    writer = element.create(path, len(data))
    try:
        writer.write(memoryview(data))
        writer.sync()
        return told(element.stat(path))
    except BaseException:
        with suppress(Exception):  # what went wrong before is what counts
            element.remove(path)
        raise
    finally:
        writer.close()


def publish(site: Site, _caller: Caller, temporary: str, final: str, replace: bool) -> Value:
    """Rename within a folder."""
    _element(site).publish(temporary, final, replace=replace)
    return True


def swap(site: Site, _caller: Caller, temporary: str, final: str, seen: dict[str, Any]) -> Value:
    """Publish in place of the file that was seen."""
    _element(site).swap(temporary, final, heard(seen))
    return True


def move(site: Site, _caller: Caller, path: str, target: str) -> Value:
    """Rename to a name that is free."""
    _element(site).move(path, target)
    return True


def remove(site: Site, _caller: Caller, path: str) -> Value:
    """Remove a file."""
    _element(site).remove(path)
    return True


def purge(site: Site, _caller: Caller, path: str) -> Value:
    """Remove a file, if it is there, and its folder, if that is empty then."""
    element = _element(site)
    if element.find(path) is not None:
        element.remove(path)
    element.remove_folder(path.rpartition("/")[0] or path)
    return True


def harden(site: Site, _caller: Caller, path: str) -> Value:
    """Make a file durable that somebody else made."""
    _element(site).harden(path)
    return True


def listing(site: Site, _caller: Caller, path: str, after: str, count: int) -> Value:
    """List a folder by name."""
    found = _element(site).entries(path, after, count)
    return [[name, {} if status is None else told(status)] for name, status in found]


def free(site: Site, _caller: Caller) -> Value:
    """Say how many bytes are free."""
    return _element(site).free()


def digest(site: Site, caller: Caller, path: str, algorithms: list[Value], fresh: bool) -> Value:
    """Read a file and return its checksums."""
    names = _names(algorithms)
    element = _element(site)
    element.stat(path)
    return _run(site, caller, "digest", path, lambda job: shelf.digest(element, job, path, names, fresh=fresh))


def copy(site: Site, caller: Caller, path: str, target: str, algorithms: list[Value]) -> Value:
    """Copy a file of ours."""
    names = _names(algorithms)
    element = _element(site)
    element.stat(path)
    return _run(site, caller, "copy", path, lambda job: shelf.copy(element, job, path, target, names))


def _run(site: Site, caller: Caller, kind: str, path: str, work: Callable[[Errand], None]) -> Value:
    job = site.transfers.run(Purpose(kind, path, caller.user.name, caller.address), work)
    job.over.wait(_SOON)
    return job.status(results=job.over.is_set())


def _names(algorithms: list[Value]) -> list[str]:
    if not all(isinstance(name, str) for name in algorithms):
        raise UsageError("algorithms: expected names", f"the names are {', '.join(checksums.ALGORITHMS)}")
    return [checksums.check_algorithm(str(name)) for name in algorithms]


def _element(site: Site) -> ServedFolder:
    return ServedFolder(site.config.site.name, str(site.config.dtsd.root))


_PATH = Argument("path", "path", "A file below the daemon's root.")
_TARGET = Argument("target", "path", "Its new name, which must be free.")
_TEMPORARY = Argument("temporary", "path", "The name that the file has.")
_FINAL = Argument("final", "path", "The name that it gets, in the same folder.")
_REPLACE = Argument("replace", "boolean", "Whether a file of that name is replaced.")
_SEEN = Argument("seen", "struct", "The file that may be replaced, as seFind told of it.")
_ALGORITHMS = Argument("algorithms", "array", "Names of checksums, such as adler32.", maximum=16)
_FRESH = Argument("fresh", "boolean", "Whether it is read from the disk, not from memory.", default=False)
_OFFSET = Argument("offset", "int", "The first byte.")
_LENGTH = Argument("length", "int", "Bytes at most.", maximum=MOST)
_DATA = Argument("data", "base64", "The content.", maximum=MOST)
_AFTER = Argument("after", "string", "The name behind which the list begins; empty: at its beginning.", maximum=255)
_COUNT = Argument("count", "int", "Entries at most.", minimum=1, maximum=5000)

METHODS = (
    Method("seFind", "read", (_PATH,), "struct", "Size, time and identity of a file; nothing where there is none.",
           find),
    Method("seRead", "read", (_PATH, _OFFSET, _LENGTH), "struct", "Bytes of a file, with its size and time.", read),
    Method("seWrite", "transfer", (_PATH, _DATA), "struct", "Makes a small file, durably, unless the name is taken.",
           write),
    Method("sePublish", "transfer", (_TEMPORARY, _FINAL, _REPLACE), "boolean", "Renames a file within its folder.",
           publish),
    Method("seSwap", "transfer", (_TEMPORARY, _FINAL, _SEEN), "boolean",
           "Publishes in place of one certain file, by an exchange of names where the disk can.", swap),
    Method("seMove", "transfer", (_PATH, _TARGET), "boolean", "Renames a file to a name that is free.", move),
    Method("seRemove", "transfer", (_PATH,), "boolean", "Removes a file.", remove),
    Method("sePurge", "transfer", (_PATH,), "boolean", "Removes a file, if it is there, and its folder if empty.",
           purge),
    Method("seHarden", "transfer", (_PATH,), "boolean", "Makes a file and its name durable.", harden),
    Method("seList", "read", (_PATH, _AFTER, _COUNT), "array", "Files and folders in a folder, by name, in parts.",
           listing),
    Method("seFree", "read", (), "int", "Bytes that are free on the disk of the root.", free),
    Method("digestFile", "read", (_PATH, _ALGORITHMS, _FRESH), "struct",
           "Reads a file and computes checksums: returns a transfer's status, whose answer has size and checksums.",
           digest),
    Method("copyFile", "transfer", (_PATH, _TARGET, _ALGORITHMS), "struct",
           "Copies a file here: returns a transfer's status, whose answer has size and checksums.", copy),
)  # fmt: skip
