"""Header metadata posted for an exposure: before, during or after readout."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import now
from dtscore.errors import UsageError
from imagebuilder import models
from imagebuilder.intake import locked
from imagebuilder.records import Card, Value
from imagebuilder.upsert import upsert

__all__ = ["Card", "Value", "gather", "newest", "parse_card", "parse_cards", "post"]

_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}\Z")
_QUOTED = re.compile(r"'((?:[^']|'')*)'\s*(?:/(.*))?\Z", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d{1,18}\Z", re.ASCII)
_REAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d{1,3})?\Z", re.ASCII)
_LONGEST = 1024


def parse_card(text: str, detector: str = "") -> Card:
    """Return the card of one line `KEYWORD=value / comment`; unquoted text is a string. Raises UsageError.

    T and F are logical, digits are numbers, and in single quotes everything is a string ('' stands for one quote).
    Unquoted text ends at ' / '.
    """
    keyword, equals, rest = text.partition("=")
    keyword = keyword.strip().upper()
    if not equals:
        raise UsageError(f"{text[:80]!r} is not a card", "write KEYWORD=value / comment")
    if not _KEYWORD.match(keyword):
        raise UsageError(f"{keyword[:80]!r} is not a FITS keyword", "use 1 to 8 of A-Z, 0-9, '-' and '_'")
    value, comment = _value_of(rest.strip())
    _check_text(keyword, comment)
    if isinstance(value, str):
        _check_text(keyword, value)
    return Card(keyword, value, comment, detector)


def _value_of(text: str) -> tuple[Value, str]:
    quoted = _QUOTED.match(text)
    if quoted:
        return quoted.group(1).replace("''", "'").rstrip(), (quoted.group(2) or "").strip()
    if text.startswith("'"):
        raise UsageError(f"{text[:80]!r} has no closing quote", "write a quote inside a text twice")
    # A bare text may hold a slash (a URL, a date): only one with blanks around it begins the comment.
    plain, _, comment = f" {text} ".partition(" / ")
    return _plain_value(plain.strip()), comment.strip()


def _plain_value(text: str) -> Value:
    if text in ("T", "F"):
        return text == "T"
    if _INTEGER.match(text):
        return int(text)
    if _REAL.match(text):
        number = float(text.upper().replace("D", "E"))
        if not math.isfinite(number):
            raise UsageError(f"{text!r} is too large a number", "FITS has no infinite values")
        return number
    return text


def _check_text(keyword: str, text: str) -> None:
    if len(text) > _LONGEST or not all(" " <= letter <= "~" for letter in text):
        raise UsageError(
            f"{keyword}: {text[:40]!r} cannot stand in a FITS header", "use printable ASCII, at most 1024 characters"
        )


def parse_cards(text: str, detector: str = "") -> list[Card]:
    """Return the cards of a METADATA frame's text, one a line, empty lines left out; UsageError names the line."""
    cards = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            cards.append(parse_card(line, detector))
        except UsageError as error:
            raise UsageError(f"line {number}: {error.message}", error.hint) from error
    return cards


def post(connection: Connection, exposure: int, cards: Sequence[Card], source: str, *, camera: str = "") -> int:
    """Write metadata, the latest of a keyword counts; return how many cards. A file that is there will be revised.

    A card that says what is there already changes nothing. NotFoundError for an unknown exposure, UsageError for one
    that is not of the camera, where one is named. The exposure is locked, so that whoever posts later is later by
    `posted_at` too.
    """
    locked(connection, exposure, camera)
    moment = now(connection)
    latest = {(card.detector, card.keyword): card for card in cards}
    there = {(card.detector, card.keyword): _meaning(card) for card in gather(connection, exposure)}
    rows = [
        {
            "exposure_id": exposure, "detector": card.detector, "keyword": card.keyword, "value": card.value,
            "comment": card.comment, "source": source, "posted_at": moment,
        }
        for key, card in latest.items()
        if there.get(key) != _meaning(card)
    ]  # fmt: skip
    if rows:
        unique = ("exposure_id", "detector", "keyword")
        upsert(connection, models.headers, unique, rows, ("value", "comment", "source", "posted_at"))
        _revise(connection, exposure)
    return len(latest)


def _meaning(card: Card) -> tuple[str, Value, str]:
    """Return what a card says; for Python 1, 1.0 and T would be the same."""
    return type(card.value).__name__, card.value, card.comment


def _revise(connection: Connection, exposure: int) -> None:
    """Ask for a new version of a file that is saved, or being built."""
    table, files = models.exposures, models.files
    there = sa.exists().where(files.c.exposure_id == table.c.id, files.c.state.in_(("Requested", "Saved")))
    connection.execute(sa.update(table).where(table.c.id == exposure, there).values(revise=True))


def newest(connection: Connection, exposure: int) -> datetime | None:
    """Return when the latest of an exposure's metadata was posted, None if there are none."""
    table = models.headers
    query = sa.select(table.c.posted_at).where(table.c.exposure_id == exposure).order_by(table.c.posted_at.desc())
    moment: datetime | None = connection.execute(query.limit(1)).scalar()
    return moment


def gather(connection: Connection, exposure: int) -> list[Card]:
    """Return all metadata of an exposure, in the order in which the keywords first came."""
    table = models.headers
    query = sa.select(table).where(table.c.exposure_id == exposure).order_by(table.c.id)
    return [Card(row.keyword, row.value, row.comment, row.detector) for row in connection.execute(query)]
