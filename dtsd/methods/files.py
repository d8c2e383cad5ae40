"""Files and folders below the daemon's root. Every path is resolved inside the sandbox, and nothing else is reached.

A name's last part is never followed where something is changed: links are removed and renamed, not what they point to.
"""

from __future__ import annotations

import os
import stat as kinds
from collections.abc import Iterator
from contextlib import contextmanager

from dtscore.checksums import ALGORITHMS, check_algorithm
from dtscore.checksums import new as new_hasher
from dtscore.errors import DestinationDiffersError, NameRefusedError, UnsupportedError, UsageError
from dtscore.linux import rename_noreplace
from dtsd.methods.copying import copy_file
from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Method
from dtsnet.sandbox import Sandbox
from dtsnet.xmlrpc import Value, clean, is_text

LONGEST_CAT = 1024 * 1024
LONGEST_LISTING = 10_000
_BLOCK = 1024 * 1024
_ACCESS = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}
_KINDS = ((kinds.S_ISREG, "file"), (kinds.S_ISDIR, "folder"), (kinds.S_ISLNK, "link"))


@contextmanager
def looked_at(sandbox: Sandbox, path: str) -> Iterator[int]:
    """Give a descriptor that only names a file or folder, opening nothing; raises NameRefusedError and OSError."""
    descriptor = sandbox.open(path, os.O_PATH)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def placed(sandbox: Sandbox, path: str) -> Iterator[tuple[int, str]]:
    """Give the folder that a name stands in, and its last part; raises NameRefusedError and OSError."""
    above, _, name = path.rpartition("/")
    if not name:
        raise NameRefusedError("the root itself is not changed", "name a file or folder below it")
    descriptor = sandbox.folder(above)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)


@contextmanager
def read_from(sandbox: Sandbox, path: str) -> Iterator[int]:
    """Give a regular file that is open for reading; raises UnsupportedError for anything else, and OSError."""
    descriptor = sandbox.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not kinds.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnsupportedError(f"{path!r} is not a file", "name a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _self(descriptor: int) -> str:
    """Return a name for what a descriptor stands for, good for calls that want a name."""
    return f"/proc/self/fd/{descriptor}"


def access(site: Site, _caller: Caller, path: str, mode: str) -> Value:
    """Whether the daemon may read, write, enter; False where nothing is there."""
    wanted = os.F_OK
    for letter in mode:
        if letter not in _ACCESS:
            raise UsageError(f"access: argument 2 (mode): {mode!r:.20} holds {letter!r}", "letters of r, w and x")
        wanted |= _ACCESS[letter]
    try:
        with looked_at(site.sandbox, path) as descriptor:
            return os.access(_self(descriptor), wanted, effective_ids=True)
    except (FileNotFoundError, NotADirectoryError):
        return False


def stat(site: Site, _caller: Caller, path: str) -> Value:
    """Return size, times and kind."""
    with looked_at(site.sandbox, path) as descriptor:
        return _status(os.fstat(descriptor))


def _status(status: os.stat_result) -> dict[str, Value]:
    return {
        "type": next((name for test, name in _KINDS if test(status.st_mode)), "other"), "size": status.st_size,
        "mode": kinds.S_IMODE(status.st_mode), "mtime": status.st_mtime_ns / 1e9, "links": status.st_nlink,
        "allocated": status.st_blocks * 512, "uid": status.st_uid, "gid": status.st_gid,
    }  # fmt: skip


def fsize(site: Site, _caller: Caller, path: str) -> Value:
    """Return the size in bytes."""
    with looked_at(site.sandbox, path) as descriptor:
        return os.fstat(descriptor).st_size


def ftime(site: Site, _caller: Caller, path: str) -> Value:
    """Return when it was written to."""
    with looked_at(site.sandbox, path) as descriptor:
        return os.fstat(descriptor).st_mtime_ns / 1e9


def is_dir(site: Site, _caller: Caller, path: str) -> Value:
    """Whether there is a folder."""
    try:
        with looked_at(site.sandbox, path) as descriptor:
            return kinds.S_ISDIR(os.fstat(descriptor).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def listing(site: Site, caller: Caller, path: str, offset: int, limit: int) -> Value:
    """List a folder."""
    folder = site.sandbox.folder(path)
    try:
        names = sorted(os.listdir(folder))
        found: list[Value] = []
        for name in names[offset : offset + limit]:
            caller.check()
            try:
                status = _status(os.stat(name, dir_fd=folder, follow_symlinks=False))
            except FileNotFoundError:
                continue  # gone since the folder was read
            status["name"] = clean(name)
            if not is_text(name):
                status["raw"] = os.fsencode(name)
            found.append(status)
        return {"entries": found, "total": len(names)}
    finally:
        os.close(folder)


def cat(site: Site, _caller: Caller, path: str, offset: int, length: int) -> Value:
    """Return bytes of a file."""
    with read_from(site.sandbox, path) as descriptor:
        return os.pread(descriptor, length, offset)


def checksum(site: Site, caller: Caller, path: str, algorithms: str) -> Value:
    """Compute checksums of a file in one pass."""
    hashers = {name: new_hasher(name) for name in map(check_algorithm, algorithms.replace(",", " ").split())}
    if not hashers:
        raise UsageError("checksum: argument 2 (algorithms): there is none", f"use some of {', '.join(ALGORITHMS)}")
    with read_from(site.sandbox, path) as descriptor:
        before = os.fstat(descriptor)
        buffer = memoryview(bytearray(_BLOCK))
        size = 0
        while count := os.readv(descriptor, [buffer]):
            caller.check()
            size += count
            for hasher in hashers.values():
                hasher.update(buffer[:count])
        after = os.fstat(descriptor)
    changed = (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or size != after.st_size
    sums: dict[str, Value] = {name: hasher.hexdigest() for name, hasher in hashers.items()}
    return {"size": size, "checksums": sums, "changed": changed}


def copy(site: Site, caller: Caller, path: str, target: str, overwrite: bool) -> Value:
    """Copy a file."""
    with read_from(site.sandbox, path) as source, placed(site.sandbox, target) as (folder, name):
        return copy_file(source, folder, name, caller, overwrite=overwrite)


def rename(site: Site, _caller: Caller, path: str, target: str, overwrite: bool) -> Value:
    """Rename a file or folder."""
    with placed(site.sandbox, path) as (folder, name), placed(site.sandbox, target) as (new_folder, new_name):
        if overwrite:
            os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)
        else:
            try:
                rename_noreplace(folder, name, new_folder, new_name)
            except FileExistsError as error:
                raise DestinationDiffersError(f"{target!r} exists", "choose another name, or overwrite") from error
        for changed in {folder, new_folder}:
            os.fsync(changed)
    return True


def delete(site: Site, _caller: Caller, path: str) -> Value:
    """Remove a file or an empty folder."""
    with placed(site.sandbox, path) as (folder, name):
        if kinds.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
        os.fsync(folder)
    return True


def mkdir(site: Site, _caller: Caller, path: str, parents: bool) -> Value:
    """Make a folder."""
    above, _, name = path.rpartition("/")
    if not name:
        raise NameRefusedError("the root is there already", "name a folder below it")
    folder = site.sandbox.folder(above, make=parents)
    try:
        os.mkdir(name, 0o750, dir_fd=folder)
        os.fsync(folder)
    except FileExistsError:
        if parents and kinds.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return False
        raise
    finally:
        os.close(folder)
    return True


def touch(site: Site, _caller: Caller, path: str, mtime: float) -> Value:
    """Make an empty file, or set the time of what is there."""
    times = (mtime, mtime) if mtime else None
    try:
        with looked_at(site.sandbox, path) as descriptor:
            os.utime(_self(descriptor), times)
            return False
    except FileNotFoundError:
        pass
    with placed(site.sandbox, path) as (folder, name):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        made = os.open(name, flags, 0o640, dir_fd=folder)
        try:
            os.utime(made, times)
            os.fsync(made)
        finally:
            os.close(made)
        os.fsync(folder)
    return True


def chmod(site: Site, _caller: Caller, path: str, mode: int) -> Value:
    """Change the mode."""
    if not path:
        raise NameRefusedError("the root itself is not changed", "name a file or folder below it")
    with looked_at(site.sandbox, path) as descriptor:
        os.chmod(_self(descriptor), mode)
    return True


_PATH = Argument("path", "path", "A name below the daemon's root.")
_FOLDER = Argument("path", "path", "A folder below the daemon's root; '' is the root.", "")
_TARGET = Argument("target", "path", "The new name below the daemon's root.")
_OVERWRITE = Argument("overwrite", "boolean", "Whether what has the new name may be replaced.", False)
_OFFSET = Argument("offset", "int", "Where to begin.", 0, maximum=(1 << 63) - 1)

METHODS = (
    Method("access", "read", (
        _PATH, Argument("mode", "string", "Letters of r, w, x; none asks whether it is there.", "", maximum=3),
    ), "boolean", "Says whether the daemon may read, write or enter something; false where nothing is there.", access),
    Method("cat", "read", (
        _PATH, _OFFSET, Argument("length", "int", "Bytes at most.", 65536, maximum=LONGEST_CAT),
    ), "base64", "Returns bytes of a file; fewer than asked for at its end.", cat),
    Method("checksum", "read", (
        _PATH, Argument("algorithms", "string", f"Some of {', '.join(ALGORITHMS)}.", "crc32c,adler32", maximum=200),
    ), "struct", "Reads a file and returns size, checksums (hexadecimal by name), and whether it changed meanwhile.",
        checksum),
    Method("chmod", "operate", (
        _PATH, Argument("mode", "int", "The new mode, such as 416 for 0640.", maximum=0o777),
    ), "boolean", "Changes the mode of a file or folder.", chmod),
    Method("copy", "transfer", (_PATH, _TARGET, _OVERWRITE), "struct",
           "Copies a file below the root and returns size and crc32c; the copy is durable, and whole or not there.",
           copy),
    Method("del", "operate", (_PATH,), "boolean",
           "Removes a file, a link or an empty folder, at once and for good; nothing below a folder.", delete),
    Method("dir", "read", (
        _FOLDER, _OFFSET, Argument("limit", "int", "Entries at most.", 1000, 1, LONGEST_LISTING),
    ), "struct", "Lists a folder by name: entries (name, type, size, mode, mtime, …; raw holds the bytes of a name "
        "that is not UTF-8) and their total.", listing),
    Method("isDir", "read", (_FOLDER,), "boolean", "Says whether there is a folder of that name.", is_dir),
    Method("fsize", "read", (_PATH,), "int", "Returns the size of a file in bytes, 64 bits.", fsize),
    Method("ftime", "read", (_PATH,), "double", "Returns when a file was written to, seconds since 1970.", ftime),
    Method("mkdir", "transfer", (
        _PATH, Argument("parents", "boolean", "Make what is missing above it; it may be there already.", False),
    ), "boolean", "Makes a folder; false if it was there.", mkdir),
    Method("rename", "operate", (_PATH, _TARGET, _OVERWRITE), "boolean",
           "Renames a file or folder below the root, durably; what has the new name stays unless it may be replaced.",
           rename),
    Method("touch", "transfer", (
        _PATH, Argument("mtime", "double", "Seconds since 1970; 0: now.", 0.0, maximum=253402300799.0),
    ), "boolean", "Makes an empty file, or sets the time of what is there; true if it was made.", touch),
    Method("stat", "read", (_FOLDER,), "struct", "Returns type (file, folder, link, other), size and allocated in "
           "bytes, mode, mtime, links, uid and gid.", stat),
)  # fmt: skip
