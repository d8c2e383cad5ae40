"""Reading the wanted keywords of the first FITS headers of a file from its first bytes.

Cards are cut and read here, not by astropy: that is some ten times as fast for the few keywords that are wanted, and
astropy speaks of odd cards through the interpreter's one list of warning filters, which threads share. Source: the
FITS standard 4.0, sections 4.1, 4.2 and 4.4.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = str | int | float | bool

BLOCK = 2880
CARD = 80
_MOST_EXTENSIONS = 4
_MOST_CARDS = 3600
_STRING = re.compile(r"\s*'((?:[^']|'')*)'")
_INTEGER = re.compile(r"[+-]?\d{1,18}\Z", re.ASCII)
_REAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d{1,3})?\Z", re.ASCII)
_AXES = tuple(b"NAXIS%d" % axis for axis in range(1, 10))
_STRUCTURE = frozenset({b"BITPIX", b"NAXIS", b"PCOUNT", b"GCOUNT", b"GROUPS", *_AXES})


@dataclass(frozen=True, slots=True)
class Header:
    """The wanted keywords of one header: `start` and `end` in bytes of the file, `data` the size of what follows."""

    values: dict[str, Value]
    start: int
    end: int
    data: int


def is_fits(head: bytes) -> bool:
    """Tell by its first card whether a file is FITS."""
    return head[:9] == b"SIMPLE  ="


def read_headers(head: bytes, wanted: frozenset[bytes]) -> Iterator[Header]:
    """Give the primary header and the first extension headers, as far as they lie within `head`.

    Of a keyword that stands twice in a header the first counts. A header that is cut off gives what it has.
    """
    at = 0
    for _ in range(_MOST_EXTENSIONS + 1):
        if at and head[at : at + 9] != b"XTENSION=":
            return
        header = _read_header(head, at, wanted)
        yield header
        at = header.end + header.data
        if at >= len(head):
            return


def _read_header(head: bytes, start: int, wanted: frozenset[bytes]) -> Header:
    values: dict[str, Value] = {}
    structure: dict[str, Value] = {}
    at = start
    stop = min(len(head), start + _MOST_CARDS * CARD)
    while at < stop:
        name = head[at : at + 8].rstrip()
        if name == b"END":
            break
        if (name in wanted or name in _STRUCTURE) and head[at + 8 : at + 9] == b"=":
            value = read_value(head[at + 9 : at + CARD])
            keyword = name.decode("ascii")
            if value is not None:
                (values if name in wanted else structure).setdefault(keyword, value)
        at += CARD
    end = start + -(-(at + CARD - start) // BLOCK) * BLOCK
    return Header(values, start, end, _data_size(structure))


def read_value(card: bytes) -> Value | None:
    """Return the value of a card from behind its '='; None for an undefined or unreadable one."""
    text = card.decode("latin-1")
    quoted = _STRING.match(text)
    if quoted:
        return quoted.group(1).replace("''", "'").rstrip()
    plain = text.partition("/")[0].strip()
    if plain in ("T", "F"):
        return plain == "T"
    if _INTEGER.match(plain):
        return int(plain)
    if _REAL.match(plain):
        return float(plain.upper().replace("D", "E"))
    return None


def _data_size(structure: dict[str, Value]) -> int:
    """Return the bytes of the data behind a header, filled up to whole blocks."""
    sizes = [_count(structure, f"NAXIS{axis}", 0) for axis in range(1, min(_count(structure, "NAXIS", 0), 9) + 1)]
    if not sizes:
        return 0
    if structure.get("GROUPS") is True and sizes[0] == 0:
        sizes = sizes[1:]
    pixels = 1
    for size in sizes:
        pixels *= size
    width = abs(_count(structure, "BITPIX", 8, least=-64)) // 8
    total = width * _count(structure, "GCOUNT", 1) * (_count(structure, "PCOUNT", 0) + pixels)
    return -(-total // BLOCK) * BLOCK


def _count(structure: dict[str, Value], name: str, default: int, *, least: int = 0) -> int:
    value = structure.get(name, default)
    return max(least, value) if isinstance(value, int) else default
