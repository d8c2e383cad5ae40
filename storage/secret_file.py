"""Secrets come from files that only their owner can read, never from settings themselves."""

from __future__ import annotations

import os
import stat

from dtscore.errors import ConfigurationError


def check_private(path: str, place: str) -> str:
    """Return the path of an existing file that is closed to group and others, or raise ConfigurationError."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigurationError(f"{place}: {path!r}: {error.strerror}", "name a file that exists") from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise ConfigurationError(f"{place}: {path!r} is open to others (mode {mode & 0o777:04o})", f"chmod 600 {path}")
    return path


def read_secret(path: str, place: str) -> str:
    """Return the first line of a private file; `place` is the section and key for the message."""
    with open(check_private(path, place), encoding="utf-8") as lines:
        return lines.readline().rstrip("\r\n")
