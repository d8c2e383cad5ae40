"""What a camera's code hands to the client, checked before anything is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dtscore.errors import UsageError
from imagebuilder import wire
from imagebuilder.wire import WireError

TYPES: Mapping[str, str] = {"uint16": "<u2", "int16": "<i2", "uint32": "<u4", "int32": "<i4", "float32": "<f4"}
"""The types of pixels and how they go over the wire: little-endian."""


def check_name(value: str, what: str) -> str:
    """Return the name of a detector, amplifier, camera or PAN unchanged, or raise UsageError."""
    try:
        return wire.check_name(value, what)
    except WireError as error:
        raise UsageError(error.message, error.hint) from error


def check_begin(exposure: int, detectors: Sequence[str], pixel_type: str) -> None:
    """Raise UsageError unless an exposure can be begun so."""
    if exposure < 1 or not detectors or len(set(detectors)) < len(detectors):
        raise UsageError("an exposure needs a number above 0 and its detectors, each once", "see label()")
    if pixel_type not in TYPES:
        raise UsageError(f"{pixel_type[:40]!r} is not a type of pixels", f"use one of {', '.join(TYPES)}")
    for detector in detectors:
        check_name(detector, "a detector")


def card_lines(cards: Mapping[str, object] | str) -> str:
    """Return header cards as METADATA frames hold them; lines pass as they are. Raises UsageError for too many."""
    text = cards if isinstance(cards, str) else "".join(f"{key}={_value(value)}\n" for key, value in cards.items())
    if not 0 < len(text.encode()) <= wire.METADATA_CAP:
        what = f"metadata of {len(text)} characters; at once 1 to {wire.METADATA_CAP} bytes are taken"
        raise UsageError(what, "send it in several calls")
    return text


def _value(value: object) -> str:
    """Return a value as a FITS card writes it."""
    if isinstance(value, bool):
        return "T" if value else "F"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
