"""Request files: the one door for reading them, writing them and printing their schema."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from dtscore.errors import RequestFileError
from reqdb.spec import RequestSpec
from reqdb.xml_checks import ANNOTATION
from reqdb.xml_forms import RequestTarget
from reqdb.xml_schema import schema_text
from reqdb.xml_stream import Stream
from reqdb.xml_values import Limits
from reqdb.xml_write import Annotations, write_request

__all__ = ["ANNOTATION", "Annotations", "Limits", "read_request", "schema_text", "write_request"]

_DEFAULT_LIMITS = Limits()


def read_request(
    source: Path | BinaryIO,
    *,
    limits: Limits = _DEFAULT_LIMITS,
    name: str = "",
    elements: Collection[str] | None = None,
) -> RequestSpec:
    """Return the request that a file or an open binary stream holds, in either form, or raise RequestFileError.

    `name` is what errors call the file (default: its path, or <stdin>); `elements` are the storage elements that
    exist, None to let any name by. Nothing is returned unless everything is right.
    """
    if not isinstance(source, Path):
        return _read(source, name or "<stdin>", limits, elements)
    try:
        with source.open("rb") as stream:
            return _read(stream, name or str(source), limits, elements)
    except OSError as error:
        raise RequestFileError(
            f"{name or source}: cannot be read ({error.strerror or error})", "check the name and its permissions"
        ) from error


def _read(stream: BinaryIO, name: str, limits: Limits, elements: Collection[str] | None) -> RequestSpec:
    target = RequestTarget(name, limits, frozenset(elements) if elements is not None else None)
    Stream(stream, name, limits).run(target)
    return target.spec()
