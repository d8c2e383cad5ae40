"""From errors of the operating system and of libraries to DTS's error tree."""

from __future__ import annotations

import errno
import socket
from types import TracebackType

from dtscore.errors import (
    ElementFullError,
    ElementReadOnlyError,
    ElementUnavailableError,
    FileMissingError,
    PermissionRefusedError,
    StorageFaultError,
    UnsupportedError,
    WorkError,
)
from storage.element import NameTakenError

_BY_NUMBER: dict[int, tuple[type[WorkError], str]] = {
    errno.ENOENT: (FileMissingError, "check the physical file name"),
    errno.EEXIST: (NameTakenError, "another file has this name"),
    errno.ENOTEMPTY: (NameTakenError, "a folder has this name"),
    errno.EACCES: (PermissionRefusedError, "grant the agent's user access to the file and its folders"),
    errno.EPERM: (PermissionRefusedError, "grant the agent's user access to the file and its folders"),
    errno.ENOSPC: (ElementFullError, "free some space on the storage element"),
    errno.EDQUOT: (ElementFullError, "raise the quota on the storage element, or free some space"),
    errno.EROFS: (ElementReadOnlyError, "mount the storage element for writing"),
    errno.EIO: (StorageFaultError, "look at the kernel's log: the device reports errors"),
    errno.EISDIR: (UnsupportedError, "this is a folder: only regular files are moved"),
    errno.ENOTDIR: (UnsupportedError, "a part of the path is a file or a symbolic link, not a folder"),
    errno.ELOOP: (UnsupportedError, "symbolic links below an element's root are not followed: name the file itself"),
    errno.ENXIO: (UnsupportedError, "only regular files are moved"),
    errno.ENODEV: (UnsupportedError, "only regular files are moved"),
    errno.EFBIG: (UnsupportedError, "the file system cannot hold a file of this size"),
    errno.ENAMETOOLONG: (UnsupportedError, "shorten the physical file name"),
    errno.EMFILE: (ElementUnavailableError, "raise the limit of open files (ulimit -n)"),
    errno.ENFILE: (ElementUnavailableError, "raise the limit of open files (fs.file-max)"),
}

# Libraries raise these without a number.
_BY_TYPE = ((FileNotFoundError, errno.ENOENT), (PermissionError, errno.EACCES), (FileExistsError, errno.EEXIST),
            (IsADirectoryError, errno.EISDIR), (NotADirectoryError, errno.ENOTDIR))  # fmt: skip

_CONNECTION = frozenset(
    {
        errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.ENETUNREACH,
        errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENOTCONN, errno.ESTALE, errno.ESHUTDOWN,
    }
)  # fmt: skip


def work_error(error: Exception, element: str, what: str) -> WorkError:
    """Return the error of our tree for one of the system, naming the element and what was being done."""
    message = f"element {element!r}: {what}: {_reason(error)}"
    number = getattr(error, "errno", None) or next((n for kind, n in _BY_TYPE if isinstance(error, kind)), None)
    if isinstance(error, (TimeoutError, socket.gaierror, ConnectionError, EOFError)) or number in _CONNECTION:
        return ElementUnavailableError(message, f"is what [se.{element}] names up, and there?", element=element)
    kind, hint = _BY_NUMBER.get(number or 0, (StorageFaultError, "see the log of the host that holds it"))
    return kind(message, hint, element=element)


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error or type(error).__name__)


class Mapped:
    """Turns an OSError of the block into a WorkError that says which element and what was being done.

    A class, not a generator: entered several times for each file, it is what a small file waits for.
    """

    __slots__ = ("_element", "_what")

    def __init__(self, element: str, what: str) -> None:
        """Keep what the error is to say."""
        self._element = element
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise work_error(error, self._element, self._what) from error
