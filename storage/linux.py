"""The few calls of Linux that Python has no function for."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

_FICLONE = 0x40049409
_RENAME_NOREPLACE = 1
_FALLOC_FL_KEEP_SIZE = 1
_NOT_OFFERED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})

_libc = ctypes.CDLL(None, use_errno=True)


def rename_noreplace(folder: int, old: str, new_folder: int, new: str) -> None:
    """Rename between two folders given as descriptors; raises FileExistsError if the new name exists.

    Uses renameat2(2); where the file system does not offer it, link(2), which refuses as well, and unlink.
    """
    if hasattr(_libc, "renameat2"):
        arguments = (folder, os.fsencode(old), new_folder, os.fsencode(new), _RENAME_NOREPLACE)
        if _libc.renameat2(*arguments) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NOT_OFFERED:
            raise OSError(number, os.strerror(number), old, None, new)
    os.link(old, new, src_dir_fd=folder, dst_dir_fd=new_folder, follow_symlinks=False)
    os.unlink(old, dir_fd=folder)


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


def clone(source: int, target: int) -> bool:
    """Share the source's blocks with the empty target (a reflink); False where the file system does not offer it."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
