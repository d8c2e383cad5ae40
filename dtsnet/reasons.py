"""Why a file will not land, as the error of our tree and as the words that travel."""

from __future__ import annotations

import errno

from dtscore.errors import (
    DtsError,
    ElementFullError,
    ElementReadOnlyError,
    ElementUnavailableError,
    PermissionRefusedError,
    StorageFaultError,
    UnsupportedError,
    WorkError,
)
from dtsnet.frames import write_fields

_BY_NUMBER: dict[int, tuple[type[WorkError], str]] = {
    errno.ENOSPC: (ElementFullError, "free some space at the receiver"),
    errno.EDQUOT: (ElementFullError, "raise the quota at the receiver, or free some space there"),
    errno.EROFS: (ElementReadOnlyError, "mount the receiver's disk for writing"),
    errno.EACCES: (PermissionRefusedError, "grant the receiver's user access to the folder"),
    errno.EPERM: (PermissionRefusedError, "grant the receiver's user access to the folder"),
    errno.EISDIR: (UnsupportedError, "a folder has this name"),
    errno.ENOTDIR: (UnsupportedError, "a part of the path is a file"),
    errno.EEXIST: (UnsupportedError, "a file has the name of a folder"),
    errno.ENAMETOOLONG: (UnsupportedError, "shorten the name"),
    errno.EFBIG: (UnsupportedError, "the receiver's file system cannot hold a file of this size"),
    errno.EMFILE: (ElementUnavailableError, "raise the receiver's limit of open files (ulimit -n)"),
    errno.ENFILE: (ElementUnavailableError, "raise the receiver's limit of open files (fs.file-max)"),
}


def storage_error(error: OSError, path: str) -> WorkError:
    """Return the error of our tree for one of the disk, met while receiving a path."""
    kind, hint = _BY_NUMBER.get(error.errno or 0, (StorageFaultError, "see the log and the disk of the receiver"))
    return kind(f"receiving {path!r}: {error.strerror or error}", hint)


def word(error: DtsError) -> str:
    """Return the stable word for an error's class."""
    return str(getattr(error, "error_class", type(error).__name__))


def words(error: DtsError) -> bytes:
    """Return an error as a description: its class, message and hint."""
    return write_fields({"class": word(error), "message": error.message[:4000], "hint": error.hint[:1000]})
