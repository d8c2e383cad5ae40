"""A large file that is coming into a folder, under a temporary name with a journal beside it, until it is whole.

The temporary name is made of the file's name and its identity at the source, so that a later attempt at the same file
finds what an earlier one has left, and an attempt at another state of it does not.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress

from dtscore import linux
from dtscore.errors import DestinationDiffersError, ElementFullError, StateError, UnsupportedError
from dtsnet.arriving import REREAD, Description, Standing
from dtsnet.frames import PAGE
from dtsnet.journal import Journal
from dtsnet.sums import RunningSum, combine

Landed = Callable[[Description, Mapping[str, str]], None]

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.part(\.journal)?\Z", re.DOTALL)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECT_FROM = 16 * 1024 * 1024
"""Files of this size and larger, in bytes, are written past the page cache: it would cost a copy and a late flush."""


def temporary_name(name: str, key: str) -> str:
    """Return the name under which a file is received; `key` tells files of the same name apart."""
    short = name.encode()[:200].decode(errors="ignore")
    return f".{short}.{hashlib.sha256(key.encode()).hexdigest()[:16]}.part"


def is_temporary(name: str) -> bool:
    """Whether a name is one of ours for a file on its way, or for its journal."""
    return _TEMPORARY.match(name) is not None


class IncomingFile:
    """The temporary file and its journal."""

    def __init__(self, folder: int, name: str, description: Description, landed: Landed | None) -> None:
        """Take over the folder's descriptor and open both.

        Raises StateError where another session has them open, ElementFullError where there is no room, OSError.
        """
        self._folder, self._name, self._description, self._landed = folder, name, description, landed
        self._temporary = temporary_name(name, f"{description.path}\0{description.size}\0{description.identity}")
        self._descriptor = self._direct = -1
        try:
            self._open()
        except BaseException:
            self._close()
            raise

    def _open(self) -> None:
        description = self._description
        self._descriptor = os.open(self._temporary, _FLAGS, 0o640, dir_fd=self._folder)
        self._lock()
        try:
            self._make_room()
            os.ftruncate(self._descriptor, description.size)
            journal = os.open(self._temporary + ".journal", _FLAGS, 0o640, dir_fd=self._folder)
            self.journal = Journal(journal, description.size, description.identity)
        except (OSError, ElementFullError):
            if not os.fstat(self._descriptor).st_blocks:
                self.discard()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateError(f"{self._description.path!r} is being received already", "wait for that to end") from error
        if not os.fstat(self._descriptor).st_nlink:
            raise StateError(f"{self._description.path!r} was just cleared away", "try again")

    def _make_room(self) -> None:
        """Ask for the room that is missing, and reserve it where the file has no holes and lies on a disk."""
        description = self._description
        needed = min(description.stored, description.size) - os.fstat(self._descriptor).st_blocks * 512
        status = os.fstatvfs(self._descriptor)
        if needed > (free := status.f_bavail * status.f_frsize):
            message = f"{description.path!r} needs {needed:,} bytes more, {free:,} are free"
            raise ElementFullError(message, "free some space at the receiver")
        if description.size < _DIRECT_FROM or linux.in_memory(self._descriptor):
            return
        if description.stored >= description.size:
            linux.reserve(self._descriptor, description.size)
        with suppress(OSError):
            self._direct = os.open(f"/proc/self/fd/{self._descriptor}", os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)

    def write(self, view: memoryview, offset: int) -> None:
        """Write bytes, whole pages straight to the disk where it takes them so; raises OSError."""
        done = 0
        if self._direct >= 0 and not (offset % PAGE or len(view) % PAGE):
            try:
                done = os.pwrite(self._direct, view, offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        while done < len(view):
            done += os.pwrite(self._descriptor, view[done:], offset + done)

    def read(self, length: int, offset: int) -> bytes:
        """Read bytes again, fewer where the file ends; raises OSError."""
        return os.pread(self._descriptor, length, offset)

    def clear(self, offset: int, length: int) -> None:
        """Make sure that these bytes are zero, and a hole where that is offered; raises OSError."""
        end = offset + length
        try:
            data = os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            data = offset  # nobody knows of holes here
        if data >= end or linux.punch(self._descriptor, offset, length):
            return
        for begin in range(data, end, REREAD):
            os.pwrite(self._descriptor, bytes(min(REREAD, end - begin)), begin)

    def publish(self, checksums: Mapping[str, str]) -> None:
        """Make the bytes durable and give the file its name; raises DtsError and OSError.

        After a failed flush nobody knows what is on the disk: what came is thrown away.
        """
        try:
            os.fsync(self._descriptor)
        except OSError:
            self.discard()
            raise
        try:
            give_name(self._folder, self._temporary, self._name, self._description, checksums)
        finally:
            self.discard()
        os.fsync(self._folder)
        if self._landed is not None:
            self._landed(self._description, checksums)

    def discard(self) -> None:
        """Remove both files; never raises."""
        for name in (self._temporary, self._temporary + ".journal"):
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)

    def close(self) -> None:
        """Let go; what is not published stays for an attempt to come."""
        self.journal.close()
        self._close()

    def _close(self) -> None:
        for descriptor in (self._direct, self._descriptor, self._folder):
            if descriptor >= 0:
                os.close(descriptor)


def give_name(folder: int, temporary: str, name: str, description: Description, checksums: Mapping[str, str]) -> None:
    """Give a durable file its final name; the folder is the caller's to flush.

    Raises DestinationDiffersError where other bytes have the name and were not to be replaced, and OSError.
    """
    if description.overwrite:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        linux.rename_noreplace(folder, temporary, folder, name)
    except FileExistsError:
        there = standing(folder, name, description)
        if there is None or (there.size, there.checksums) != (description.size, checksums):
            raise differs(description, there, checksums) from None
        os.unlink(temporary, dir_fd=folder)


def differs(description: Description, there: Standing | None, checksums: Mapping[str, str]) -> DestinationDiffersError:
    """Return the error for a name that is taken by other bytes, with the checksums of both."""
    size = there.size if there is not None else 0
    sums = there.checksums if there is not None else {}
    return destination_differs(description.path, (size, sums), (description.size, checksums))


def destination_differs(
    path: str, there: tuple[int, Mapping[str, str]], ours: tuple[int, Mapping[str, str]]
) -> DestinationDiffersError:
    """Return the error for a name that is taken by other bytes: both sizes and both adler32."""
    shown = [f"{size:,} bytes, adler32:{sums.get('adler32', 'unknown')}" for size, sums in (there, ours)]
    message = f"{path!r} is there with other bytes: {shown[0]}; the source has {shown[1]}"
    return DestinationDiffersError(message, "ask to overwrite it, or choose another name")


def standing(folder: int, name: str, description: Description) -> Standing | None:
    """Return what has a name, read once and made durable; None where nothing has it.

    None too for what will be replaced in any case: with `overwrite`, all but a file of the same size.
    Raises UnsupportedError where it is not a file, and OSError.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsupportedError(f"{description.path!r} is a symbolic link there", "remove it") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedError(f"{description.path!r} is there and is no file", "choose another name")
        if description.overwrite and status.st_size != description.size:
            return None
        found = _read(descriptor)
        os.fsync(descriptor)
        os.fsync(folder)
    finally:
        os.close(descriptor)
    return found


def _read(descriptor: int) -> Standing:
    running = RunningSum(0)
    buffer = memoryview(bytearray(REREAD))
    while count := os.preadv(descriptor, [buffer], running.length):
        running.add(buffer[:count])
    return Standing(running.length, combine([running.sum()] if running.length else []))
