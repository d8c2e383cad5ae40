"""Clearing away what cut-off transfers have left and nobody has gone on with."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

import structlog

from dtsnet.incoming import is_temporary
from dtsnet.sandbox import Sandbox

log = structlog.get_logger(__name__)

OLD = 7 * 86400.0
"""Seconds for which an unfinished file waits for its sender."""


def sweep(sandbox: Sandbox, older: float = OLD) -> list[str]:
    """Remove temporary files and journals not written for `older` seconds, unless one is in use; return their names."""
    limit, swept = time.time() - older, []
    top = sandbox.folder("")
    try:
        for place, _, names, folder in os.fwalk(".", dir_fd=top):
            for name in filter(is_temporary, names):
                with suppress(OSError):  # somebody else was quicker, or holds it
                    if _remove(folder, name, limit):
                        swept.append(os.path.normpath(os.path.join(place, name)))
    finally:
        os.close(top)
    if swept:
        log.info("abandoned temporary files removed", files=len(swept))
    return swept


def _remove(folder: int, name: str, limit: float) -> bool:
    if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > limit:
        return False
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(descriptor)
    return True
