"""Records as XML-RPC carries them: structs, arrays, seconds since 1970; what is None is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path

from dtsnet.xmlrpc import Value, clean


def plain(value: object) -> Value:
    """Return dataclasses and mappings as structs, moments as seconds since 1970 (UTC), and the like."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (bool, int, float, bytes)):
        return value
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, (str, Path)):
        return clean(str(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {clean(str(key)): plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    raise TypeError(f"{type(value).__name__} has no place in an answer")
