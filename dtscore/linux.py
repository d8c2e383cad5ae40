"""The few calls of Linux that Python has no function for."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re

_FICLONE = 0x40049409
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_TMPFS = 0x01021994
_SYNC_WHOLE = frozenset({0xEF53, 0x58465342, 0x9123683E})
"""Magic numbers of ext4, XFS and Btrfs: statfs(2)."""
_NOT_OFFERED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})

_libc = ctypes.CDLL(None, use_errno=True)


def rename_noreplace(folder: int, old: str, new_folder: int, new: str) -> None:
    """Rename between two folders given as descriptors; raises FileExistsError if the new name exists.

    Uses renameat2(2); where the file system does not offer it, link(2), which refuses as well, and unlink.
    """
    if _renameat2(folder, old, new_folder, new, _RENAME_NOREPLACE):
        return
    os.link(old, new, src_dir_fd=folder, dst_dir_fd=new_folder, follow_symlinks=False)
    os.unlink(old, dir_fd=folder)


def exchange(folder: int, one: str, other: str) -> bool:
    """Exchange two names of a folder in one step; False where the file system does not offer it.

    Raises FileNotFoundError if one of them is missing. Source: renameat2(2), RENAME_EXCHANGE.
    """
    return _renameat2(folder, one, folder, other, _RENAME_EXCHANGE)


def _renameat2(folder: int, old: str, new_folder: int, new: str, flags: int) -> bool:
    if not hasattr(_libc, "renameat2"):
        return False
    if _libc.renameat2(folder, os.fsencode(old), new_folder, os.fsencode(new), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_OFFERED:
        return False
    raise OSError(number, os.strerror(number), old, None, new)


def syncs_whole(descriptor: int) -> bool:
    """Whether `sync_file_system` on this file makes all that was written to its file system durable, and tells errors.

    Only where that is known: ext4, XFS and Btrfs, from Linux 5.8 on. Source: syncfs(2).
    """
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release is None or (int(release[1]), int(release[2])) < (5, 8) or not hasattr(_libc, "fstatfs64"):
        return False
    return _file_system(descriptor) in _SYNC_WHOLE


def in_memory(descriptor: int) -> bool:
    """Whether an open file lies in memory (tmpfs) and not on a disk."""
    return _file_system(descriptor) == _TMPFS


def _file_system(descriptor: int) -> int:
    """Return the magic number of a file's file system, 0 where it cannot be had. Source: statfs(2)."""
    answer = ctypes.create_string_buffer(512)
    if not hasattr(_libc, "fstatfs64") or _libc.fstatfs64(descriptor, answer) != 0:
        return 0
    return ctypes.c_long.from_buffer(answer).value


def sync_file_system(descriptor: int) -> None:
    """Make all that was written to a file system durable; OSError for errors since the descriptor was opened."""
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def reserve(descriptor: int, size: int) -> None:
    """Reserve room for a file without changing its size; raises OSError (ENOSPC) only if there is too little.

    Not posix_fallocate: where the file system cannot reserve, that one writes the whole file full of zeros.
    """
    if not hasattr(_libc, "fallocate64"):
        return
    arguments = (ctypes.c_int(descriptor), _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size))
    if _libc.fallocate64(*arguments) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(number, os.strerror(number))


def punch(descriptor: int, offset: int, length: int) -> bool:
    """Make a hole of zeros in a file; False where the file system does not offer it. Source: fallocate(2)."""
    if not hasattr(_libc, "fallocate64"):
        return False
    mode = ctypes.c_int(_FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE)
    return bool(_libc.fallocate64(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0)


def clone(source: int, target: int) -> bool:
    """Share the source's blocks with the empty target (a reflink); False where the file system does not offer it."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
