"""Turning the words of a comparison into SQL with bound parameters."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

import sqlalchemy as sa

from catalog.columns import Column
from catalog.models import catalog_files as files
from catalog.models import catalog_folders as folders
from catalog.tokens import Token, complaint
from dtscore.names import split_lfn

Condition = sa.ColumnElement[bool]
_OPERATORS: dict[str, Callable[[Any, Any], Condition]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_LARGEST = 2**63 - 1
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_DAY = timedelta(days=1)


def compare(text: str, column: Column, sign: str, token: Token) -> Condition:
    """Return `column sign value`; raises UsageError if the column cannot hold such a value."""
    if column.kind == "moment" and _is_day(token):
        return _compare_day(column, sign, *_day_span(text, column, token))
    value = _value(text, column, token)
    if column.kind == "lfn" and sign in ("=", "!="):
        return _is_lfn(value) if sign == "=" else sa.not_(_is_lfn(value))
    return _OPERATORS[sign](column.clause, value)


def between(text: str, column: Column, low: Token, high: Token) -> Condition:
    """Return the condition that the column lies between two values, both included."""
    return sa.and_(compare(text, column, ">=", low), compare(text, column, "<=", high))


def among(text: str, column: Column, tokens: Sequence[Token]) -> Condition:
    """Return the condition that the column is one of the values."""
    if column.kind in ("moment", "lfn"):
        return sa.or_(*(compare(text, column, "=", token) for token in tokens))
    return column.clause.in_([_value(text, column, token) for token in tokens])


def like(text: str, column: Column, token: Token, *, sqlite: bool) -> Condition:
    """Return the condition that a text matches a pattern: `*` or `%` any text, `?` one character, all else itself.

    Upper and lower case differ, on both databases: SQLite's own LIKE does not tell them apart, its GLOB does.
    """
    if column.kind not in ("text", "lfn"):
        raise complaint(text, token.at, f"{column.name} is no text: like does not apply", "compare it with = < >")
    pattern = _text(text, token)
    if sqlite:
        glob = "".join({"%": "*", "[": "[[]"}.get(sign, sign) for sign in pattern)
        return column.clause.op("GLOB", is_comparison=True)(glob)
    escaped = "".join({"*": "%", "?": "_", "_": "\\_", "\\": "\\\\"}.get(sign, sign) for sign in pattern)
    return column.clause.like(escaped, escape="\\")


def _is_lfn(lfn: str) -> Condition:
    """Compare folder and name, which have an index; their concatenation has none."""
    folder, name = split_lfn(lfn)
    return sa.and_(folders.c.path == folder, files.c.name == name)


def _value(text: str, column: Column, token: Token) -> Any:
    reader = _READERS[column.kind]
    try:
        return reader(text, token)
    except (ValueError, OverflowError) as error:
        raise complaint(
            text, token.at, f"{column.name} cannot be compared with {token.text[:40]!r}", _HINTS[column.kind]
        ) from error


def _text(text: str, token: Token) -> str:
    if _UNSTORABLE.search(token.text):
        raise complaint(text, token.at, "the text holds a character that no name has", "leave it out")
    return token.text


def _integer(_text: str, token: Token) -> int:
    """Read 42, '42' or 1e9; 1.5 is refused, because the two databases would not agree on what it equals."""
    try:
        value = int(token.text)
    except ValueError:
        number = float(token.text)
        if not number.is_integer():
            raise
        value = int(number)
    if abs(value) > _LARGEST:
        raise OverflowError
    return value


def _number(_text: str, token: Token) -> float:
    value = float(token.text)
    if not math.isfinite(value):
        raise OverflowError
    return value


def _day(_text: str, token: Token) -> date:
    return date.fromisoformat(token.text.strip())


def _moment(_text: str, token: Token) -> datetime:
    moment = datetime.fromisoformat(token.text.strip())
    moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    return moment.astimezone(timezone.utc)


_READERS: dict[str, Callable[[str, Token], Any]] = {
    "text": _text,
    "lfn": _text,
    "integer": _integer,
    "number": _number,
    "day": _day,
    "moment": _moment,
}
_HINTS = {
    "text": "write a text in quotation marks",
    "lfn": "write a logical file name in quotation marks",
    "integer": "write a whole number",
    "number": "write a number",
    "day": "write a day, as in 2026-11-20",
    "moment": "write a moment in UTC, as in '2026-11-20T23:15:00', or a day",
}


def _is_day(token: Token) -> bool:
    return re.fullmatch(r"\d{4}-\d{2}-\d{2}", token.text.strip(), re.ASCII) is not None


def _day_span(text: str, column: Column, token: Token) -> tuple[datetime, datetime]:
    start: datetime = _value(text, column, token)
    if start.date() == date.max:
        raise complaint(text, token.at, "this day has no day after it", _HINTS["moment"])
    return start, start + _DAY


def _compare_day(column: Column, sign: str, start: datetime, end: datetime) -> Condition:
    """Compare a moment with a whole day: `date = 2026-11-20` holds at any time of it."""
    clause = column.clause
    if sign == "=":
        return sa.and_(clause >= start, clause < end)
    if sign == "!=":
        return sa.or_(clause < start, clause >= end)
    if sign in ("<", ">="):
        return _OPERATORS[sign](clause, start)
    return clause < end if sign == "<=" else clause >= end
