"""A folder that no path leads out of: not by '..', not by an absolute name, not by a symbolic link, not in a race.

openat2(2) with RESOLVE_BENEATH lets the kernel resolve the whole path below the root in one call. Where the kernel
has no openat2 (before 5.6), each part is opened with O_NOFOLLOW, and links below the root are refused as well.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from dtscore.errors import NameRefusedError
from dtscore.names import check_pfn

_OPENAT2 = 437
_BENEATH, _NO_MAGICLINKS = 0x08, 0x02
_HOW = struct.Struct("QQQ")
_libc = ctypes.CDLL(None, use_errno=True)


class Sandbox:
    """One folder, opened once; every path is relative to it."""

    def __init__(self, root: str) -> None:
        """Open the root; raises OSError if it is not a folder."""
        self.root = root
        self._descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._has_openat2 = True

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        """Open a path below the root; raises NameRefusedError where it would lead out, and OSError."""
        if path:
            check_pfn(path)
        return self._resolve(path or ".", flags | os.O_CLOEXEC, mode)

    def folder(self, path: str, *, make: bool = False) -> int:
        """Return a descriptor of a folder below the root ('' is the root); if `make`, missing ones are made."""
        try:
            return self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if not make:
                raise
        above, _, name = path.rpartition("/")
        parent = self.folder(above, make=True)
        try:
            try:
                os.mkdir(name, 0o750, dir_fd=parent)
            except FileExistsError:
                pass  # somebody else made it this instant
            else:
                os.fsync(parent)
        finally:
            os.close(parent)
        return self.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def _resolve(self, path: str, flags: int, mode: int) -> int:
        if self._has_openat2:
            how = _HOW.pack(flags, mode if flags & os.O_CREAT else 0, _BENEATH | _NO_MAGICLINKS)
            opened = _libc.syscall(_OPENAT2, self._descriptor, os.fsencode(path), how, len(how))
            if opened >= 0:
                return int(opened)
            number = ctypes.get_errno()
            if number in (errno.EXDEV, errno.ELOOP):
                raise NameRefusedError(f"{path!r} leads out of the folder that is served", "name a file below it")
            if number == errno.EAGAIN:  # something was renamed while the kernel looked
                return self._resolve(path, flags, mode)
            if number != errno.ENOSYS:
                raise OSError(number, os.strerror(number), path)
            self._has_openat2 = False
        return self._walk(path, flags, mode)

    def _walk(self, path: str, flags: int, mode: int) -> int:
        *folders, name = path.split("/")
        descriptor = os.dup(self._descriptor)
        try:
            for part in folders:
                below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise NameRefusedError(f"{path!r} leads over a symbolic link", "name the file itself") from error
            raise
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the root."""
        os.close(self._descriptor)
