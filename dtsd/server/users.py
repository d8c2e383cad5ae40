"""Changing the users file: a line is added or taken out, and the file is there as a whole or as it was."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dtscore.config import read_secret
from dtscore.errors import ConfigurationError, NotFoundError, StateError
from dtsnet.credentials import BY_CERTIFICATE, Role, check_user_name, new_secret, read_users

_HEAD = "# The users of this site's dtsd, NAME ROLE SECRET a line; see: dtsd user --help\n"


def add_user(path: Path, name: str, role: Role, *, certified: bool = False) -> str:
    """Add a user and return the new secret, '' for one who shows a certificate.

    Raises UsageError for a wrong name, StateError where there is one already, ConfigurationError.
    """
    check_user_name(name)
    secret = "" if certified else new_secret()

    def add(text: str) -> str:
        if name in _names(text):
            raise StateError(f"{name} is a user already", f"take it out first: dtsd user remove {name}")
        return f"{text}{name} {role} {secret or BY_CERTIFICATE}\n"

    _change(path, add)
    return secret


def remove_user(path: Path, name: str) -> None:
    """Take a user out; raises NotFoundError, and ConfigurationError where no admin would be left."""

    def remove(text: str) -> str:
        if name not in _names(text):
            raise NotFoundError(f"{name!r} is no user", "see: dtsd user list")
        kept = [line for line in text.splitlines(keepends=True) if line.split()[:1] != [name]]
        read_users("".join(kept), str(path))
        return "".join(kept)

    _change(path, remove)


def make_users(path: Path, secret_file: Path) -> None:
    """Write a users file with one admin, and the admin's new secret into a file of its own; what is there stays.

    Raises ConfigurationError.
    """
    if path.exists():
        return
    secret = new_secret()
    _write(secret_file, f"{secret}\n")
    _change(path, lambda text: text if _names(text) else f"{text}admin admin {secret}\n")


def _names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _change(path: Path, change: Callable[[str], str]) -> None:
    try:
        with _locked(path):
            if path.exists():
                read_secret(path)  # refuses a file that others can read
            _write(path, change(path.read_text() if path.exists() else _HEAD))
    except OSError as error:
        what = f"the users file {path} cannot be changed: {error.strerror}"
        raise ConfigurationError(what, "check its path and owner") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder: two who change the file at once do so one after the other."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_secret(path: Path, secret: str) -> None:
    """Write a secret into a new file of mode 0600; raises ConfigurationError."""
    if path.exists():
        raise ConfigurationError(f"{path} exists", "name another file")
    try:
        _write(path, f"{secret}\n")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}", "name another file") from error


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(part, path)
