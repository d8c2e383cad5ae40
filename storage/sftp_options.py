"""How the settings of an sftp element are read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from dtscore.errors import ConfigurationError


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


def number_option(place: str, options: Mapping[str, str], key: str, default: int, largest: int) -> int:
    """Return a number of 1 to the largest allowed, or raise ConfigurationError."""
    text = options.get(key, str(default))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= largest:
        raise ConfigurationError(f"{place} {key}: {text!r} is not a number of 1 to {largest}", f"{key} = {default}")
    return int(text)
