"""The keywords of a FITS file, as routes look at them: no library, for a submitting program starts in an instant."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

HEAD = 100 * 2880
"""So many bytes from the beginning are looked at."""

_BLOCK, _CARD = 2880, 80


def cards_of(head: bytes) -> dict[str, str]:
    """Return the values by keyword of the first header; where it has no data, those of the second one beside them.

    A text is given without quotes and blanks at its end. Anything but FITS has no keywords.
    """
    if not head.startswith(b"SIMPLE  ="):
        return {}
    found, end = _header(head, 0)
    if found.get("NAXIS") == "0" and end:
        further, _ = _header(head, end)
        found = {**further, **found}
    return found


def _header(head: bytes, start: int) -> tuple[dict[str, str], int]:
    """Return the cards from an offset on, and where the data begin; 0 where the header does not end within."""
    found: dict[str, str] = {}
    for position in range(start, len(head) - _CARD + 1, _CARD):
        card = head[position : position + _CARD].decode("ascii", "replace")
        keyword = card[:8].rstrip()
        if keyword == "END":
            return found, start + -(-(position + _CARD - start) // _BLOCK) * _BLOCK
        if card[8:10] == "= ":
            found.setdefault(keyword, _value(card[10:]))
    return found, 0


def _value(text: str) -> str:
    rest = text.lstrip()
    if not rest.startswith("'"):
        return rest.partition("/")[0].strip()
    value, position = "", 1
    while (close := rest.find("'", position)) >= 0:
        value += rest[position:close]
        if rest[close + 1 : close + 2] != "'":
            break
        value, position = value + "'", close + 2
    return value.rstrip()


def reader(path: Path) -> Callable[[str], str | None]:
    """Return what gives the value of a keyword of a file, which is read when first asked; raises OSError then."""

    @cache
    def cards() -> dict[str, str]:
        with path.open("rb") as stream:
            return cards_of(stream.read(HEAD))

    return lambda keyword: cards().get(keyword)
