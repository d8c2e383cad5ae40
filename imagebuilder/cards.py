"""Writing the 80-byte records of a FITS header by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from dtscore.errors import UsageError
from imagebuilder.records import Card

BLOCK = 2880
"""Headers and data units of a FITS file are filled up to a multiple of this many bytes."""

RECORD = 80
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}\Z")
_STRING_ROOM = RECORD - len("KEYWORD = ''")


def is_keyword(text: str) -> bool:
    """Whether the text is a FITS keyword."""
    return _KEYWORD.match(text) is not None


def printable(text: str) -> str:
    """Return the text with each character that a FITS header may not hold replaced by '?'."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def records(card: Card) -> bytes:
    """Return the card as one 80-byte record; a string too long for one goes on in CONTINUE records."""
    head = f"{card.keyword:<8}= "
    if isinstance(card.value, str):
        return _string_records(head, printable(card.value), printable(card.comment)).encode("ascii")
    text = head + f"{_number(card.value):>20}"
    return _with_comment(text, printable(card.comment)).encode("ascii")


def comment_record(keyword: str, text: str) -> bytes:
    """Return a COMMENT or HISTORY record; text that does not fit is cut."""
    return f"{keyword:<8}{printable(text)}"[:RECORD].ljust(RECORD).encode("ascii")


def header(cards: Iterable[Card | bytes]) -> bytearray:
    """Return a whole header unit: the records, END, and blanks up to a multiple of 2,880 bytes."""
    made = bytearray(b"".join(card if isinstance(card, bytes) else records(card) for card in cards))
    lines = [made[place : place + 8] for place in range(0, len(made), RECORD)]
    if b"CONTINUE" in lines and b"LONGSTRN" not in lines:  # what fitsverify wants told
        made += records(Card("LONGSTRN", "OGIP 1.0", "Strings go on in CONTINUE records"))
    made += b"END".ljust(RECORD)
    made += b" " * (-len(made) % BLOCK)
    return made


def _number(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise UsageError(f"{value} can not stand in a FITS header", "leave the card out, or give a number")
    text = repr(value).upper()
    return text if "." in text else text.replace("E", ".0E")


def _with_comment(text: str, comment: str) -> str:
    if comment and len(text) + 3 < RECORD:
        text = f"{text} / {comment}"
    return text[:RECORD].ljust(RECORD)


def _string_records(head: str, value: str, comment: str) -> str:
    escaped = value.replace("'", "''")
    if len(escaped) <= _STRING_ROOM:
        return _with_comment(f"{head}{_quote(escaped):<20}", comment)
    pieces = _split(value)
    made = "".join(f"{head if not number else 'CONTINUE  '}'{piece}&'".ljust(RECORD)
                   for number, piece in enumerate(pieces[:-1]))  # fmt: skip
    return made + _with_comment(f"CONTINUE  '{pieces[-1]}'", comment)


def _quote(escaped: str) -> str:
    """Return the string in quotes, at least eight characters long as the fixed format has it."""
    return f"'{escaped:<8}'"


def _split(value: str) -> Sequence[str]:
    """Return the value in escaped pieces that leave room for '&', never cutting a doubled quote in two."""
    pieces = [""]
    for character in value:
        escaped = "''" if character == "'" else character
        if len(pieces[-1]) + len(escaped) > _STRING_ROOM - 1:
            pieces.append("")
        pieces[-1] += escaped
    return pieces
