"""The storage elements of a site by name, made from its settings when they are first asked for."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from dtscore.checksums import ALGORITHMS
from dtscore.errors import ConfigurationError
from storage.element import StorageElement


class ElementSettingsLike(Protocol):
    """What the registry needs to know of an element."""

    @property
    def name(self) -> str:
        """The element's name."""

    @property
    def type(self) -> str:
        """The element's type: file, sftp, fsspec or dts."""

    @property
    def options(self) -> Mapping[str, str]:
        """The type's own settings."""


_Maker = Callable[[str, Mapping[str, str]], StorageElement]
_TYPES = ("file", "sftp", "fsspec", "dts")

COMMON: Mapping[str, str] = {
    "checksum": "the checksum to compute for files that land here, where the request names none (default adler32)",
    "direct": "no: files to and from here go in two hops through the local cache (default yes: bytes stream directly)",
}
"""Settings that every type has."""


def _element_type(kind: str) -> tuple[Mapping[str, str], _Maker]:
    # Imported when wanted: paramiko and fsspec take a good part of a second, and most sites need one of them.
    if kind == "file":
        from storage.file import FileElement

        return FileElement.OPTIONS, FileElement.from_options
    if kind == "sftp":
        from storage.sftp import SftpElement

        return SftpElement.OPTIONS, SftpElement.from_options
    if kind == "dts":
        from storage.dts import DtsElement

        return DtsElement.OPTIONS, DtsElement.from_options
    from storage.fsspec import FsspecElement

    return FsspecElement.OPTIONS, FsspecElement.from_options


def _nearest(word: str, words: Iterable[str]) -> str:
    known = sorted(words)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known) or '(none)'}"


def options_of(kind: str) -> Mapping[str, str]:
    """Return the settings of a type, name and explanation; raises ConfigurationError for an unknown type."""
    if kind not in _TYPES:
        raise ConfigurationError(f"unknown type of storage element {kind!r}", _nearest(kind, _TYPES))
    return {**COMMON, **_element_type(kind)[0]}


def make(settings: ElementSettingsLike) -> StorageElement:
    """Make one element; raises ConfigurationError that names the section and the nearest known word."""
    place = f"[se.{settings.name}]"
    if settings.type not in _TYPES:
        raise ConfigurationError(f"{place} type: unknown type {settings.type!r}", _nearest(settings.type, _TYPES))
    options, maker = options_of(settings.type), _element_type(settings.type)[1]
    for key in settings.options:
        if key not in options and not (settings.type == "fsspec" and key.startswith("option_")):
            message = f"{place} {key}: an element of type {settings.type!r} has no such setting"
            raise ConfigurationError(message, _nearest(key, options))
    _check_common(place, settings.options)
    return maker(settings.name, settings.options)


def _check_common(place: str, options: Mapping[str, str]) -> None:
    for key, allowed in (("checksum", ALGORITHMS), ("direct", ("yes", "no"))):
        value = options.get(key, allowed[0])
        if value not in allowed:
            raise ConfigurationError(f"{place} {key}: {value!r} is not allowed", _nearest(value, allowed))


class _Wished:
    """The settings of an element with some options changed."""

    def __init__(self, settings: ElementSettingsLike, wishes: Mapping[str, str]) -> None:
        self.name, self.type = settings.name, settings.type
        self.options = {**settings.options, **wishes}


class Elements:
    """The elements of a site; threads share them."""

    def __init__(self, settings: Mapping[str, ElementSettingsLike]) -> None:
        """Keep the settings; nothing is made or connected yet."""
        self._settings = dict(settings)
        self._made: dict[tuple[object, ...], StorageElement] = {}
        self._lock = threading.Lock()

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._settings))

    def get(self, name: str, wishes: Mapping[str, str] = MappingProxyType({})) -> StorageElement:
        """Return the element, the same one each time, or raise ConfigurationError if there is none or it is wrong.

        `wishes` stand above its options: another element then, for whoever has the same ones.
        """
        key = (name, *sorted(wishes.items()))
        with self._lock:
            if key not in self._made:
                if name not in self._settings:
                    raise ConfigurationError(f"no storage element {name!r}", _nearest(name, self._settings))
                self._made[key] = make(_Wished(self._settings[name], wishes) if wishes else self._settings[name])
            return self._made[key]

    def close(self) -> None:
        """Close all elements."""
        with self._lock:
            for element in self._made.values():
                element.close()
            self._made.clear()
