"""How the settings of an sftp element are read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping

from dtscore.errors import ConfigurationError

_ON, _OFF = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


def word_option(place: str, options: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str:
    """Return one of the allowed words, the first by default, or raise ConfigurationError."""
    word = options.get(key, allowed[0])
    if word not in allowed:
        raise ConfigurationError(f"{place} {key}: {word!r} is not allowed", f"use one of {', '.join(allowed)}")
    return word


def program_option(place: str, options: Mapping[str, str]) -> str | None:
    """Return the ssh program to connect by, None for paramiko, which alone can log in with a password."""
    transport = word_option(place, options, "transport", ("auto", "ssh", "paramiko"))
    password = bool(options.get("password_file"))
    if transport == "paramiko" or (transport == "auto" and password):
        return None
    program = shutil.which("ssh")
    if transport == "ssh" and (program is None or password):
        problem = "there is no ssh program" if program is None else "the ssh program cannot use password_file"
        raise ConfigurationError(f"{place} transport: {problem}", "transport = auto")
    return program


_HOST = re.compile(r"[^\W_][\w.:%-]*\Z|:[\w.:%-]*\Z")
_USER = re.compile(r"[^\s@/-][^\s@/]*\Z")


def name_options(place: str, host: str, user: str) -> tuple[str, str]:
    """Return host and user, which name nothing but that to any program, or raise ConfigurationError."""
    if not _HOST.match(host):
        raise ConfigurationError(f"{place} host: {host!r} is no name or address", "write host = archive.example.org")
    if not _USER.match(user):
        raise ConfigurationError(f"{place} user: {user!r} is no name of a user", "write user = dts")
    return host, user


def flag_option(place: str, options: Mapping[str, str], key: str) -> bool:
    """Return whether an option is on, by default not, or raise ConfigurationError."""
    word = options.get(key, "no").lower()
    if word not in (*_ON, *_OFF):
        raise ConfigurationError(f"{place} {key}: {word!r} is neither yes nor no", f"{key} = no")
    return word in _ON


def number_option(place: str, options: Mapping[str, str], key: str, default: int, largest: int) -> int:
    """Return a number of 1 to the largest allowed, or raise ConfigurationError."""
    text = options.get(key, str(default))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= largest:
        raise ConfigurationError(f"{place} {key}: {text!r} is not a number of 1 to {largest}", f"{key} = {default}")
    return int(text)
