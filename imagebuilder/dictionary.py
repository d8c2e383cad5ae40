"""The dictionary of header cards: what each is called, its type, unit and range, and what breaks these rules.

A rule is written `KEYWORD = type | unit | range | comment`. The type is string, integer, float, logical or date
(ISO 8601); the range is `low .. high` (either may be left out) for numbers, and for strings a list `a, b, c` or a
pattern `/…/` that the whole string has to match. A card that breaks its rule is told of and, where a FITS header can
hold it at all, stands in the header all the same: only what FITS itself prescribes is left out if it is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, cast, get_args

from dtscore.errors import UsageError
from imagebuilder.cards import is_keyword, printable
from imagebuilder.records import Card, Value

CardType = Literal["string", "integer", "float", "logical", "date"]
_RANGE = re.compile(r"(\S*)\s*\.\.\s*(\S*)\Z")
_UNIT = re.compile(r"\[([^\]]*)\]\s*")
_STANDARD = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|BLOCKED|PCOUNT|GCOUNT|GROUPS|TFIELDS|THEAP|END|CONTINUE|COMMENT|HISTORY"
    r"|HIERARCH|LONGSTRN|INHERIT|EXTNAME|EXTVER|EXTLEVEL|HDUNAME|HDUVER|HDULEVEL|BSCALE|BZERO|BLANK|BUNIT|DATAM(IN|AX)"
    r"|CHECKSUM|DATASUM|CHECKVER|Z(HECKSUM|DATASUM|IMAGE|TENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|SIMPLE|EXTEND|BLOCKED)"
    r"|Z(TILE|NAME|VAL|FORM|CTYP)\d+|Z(CMPTYPE|QUANTIZ|DITHER0|MASKCMP|SCALE|ZERO|BLANK|TABLE|TILELEN|THEAP)|FZ[A-Z0-9]+"
    r"|T(FORM|TYPE|UNIT|NULL|SCAL|ZERO|DISP|DIM|BCOL|DMIN|DMAX|LMIN|LMAX|CTYP|CUNI|CRPX|CRVL|CDLT)\d+|P(TYPE|SCAL|ZERO)\d+"
    r"|WCSAXES[A-Z]?|WCSNAME[A-Z]?|C(TYPE|RVAL|RPIX|DELT|ROTA|UNIT|NAME|RDER|SYER|ZPHS|PERI)\d+[A-Z]?"
    r"|(CD|PC)\d+_\d+[A-Z]?|P[SV]\d.*|(LON|LAT)POLE[A-Z]?|EQUINOX[A-Z]?|RADESYS[A-Z]?|RADECSYS|EPOCH|[BJ]EPOCH"
    r"|S(PEC|SYS)(SYS|OBS|SRC)[A-Z]?|VEL(OSYS|ANGL|REF)[A-Z]?|ZSOURCE[A-Z]?|REST(FRQ|WAV|FREQ)[A-Z]?|OBSGEO-[A-Z]"
    r"|DATE(-[A-Z]+|REF)?|(MJD|JD)(-[A-Z]+|REF[IF]?)|TIME(SYS|UNIT|OFFS|DEL|PIXR)|TREF(POS|DIR)|PLEPHEM|T(START|STOP)"
)
"""Keywords whose meaning and type FITS prescribes, with which a wrong card would break the file."""
_STANDARD_TEXT = frozenset(["ORIGIN", "AUTHOR", "REFERENC", "INSTRUME", "TELESCOP", "OBSERVER", "OBJECT"])


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with a card; `detector` is empty for the primary header."""

    keyword: str
    reason: str
    detector: str = ""

    def __str__(self) -> str:
        """Return the violation as a log tells it."""
        return f"{self.detector + ': ' if self.detector else ''}{self.keyword}: {self.reason}"


@dataclass(frozen=True, slots=True)
class CardRule:
    """What a card has to be; `low` and `high` are inclusive, `choices` empty means any string."""

    keyword: str
    type: CardType
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    comment: str = ""

    def check(self, value: Value) -> str:
        """Return what is wrong with a value of the right type, or ''."""
        if isinstance(value, str):
            if self.choices and value not in self.choices:
                return f"{value[:60]!r} is not one of {', '.join(self.choices)}"
            if self.pattern is not None and not self.pattern.fullmatch(value):
                return f"{value[:60]!r} is not of the form {self.pattern.pattern}"
        elif not isinstance(value, bool) and not self.low <= value <= self.high:
            return f"{value} is outside {self.low:g} .. {self.high:g}"
        return ""


@dataclass(frozen=True, slots=True)
class CardDictionary:
    """The rules by keyword, the cards that every primary header has, and the keywords that it must have."""

    rules: Mapping[str, CardRule]
    constants: tuple[Card, ...] = ()
    required: tuple[str, ...] = ()

    def apply(self, posted: Iterable[Card], taken: frozenset[str]) -> tuple[list[Card], list[Violation]]:
        """Return the cards of a header and the violations; of cards with one keyword the last wins.

        `taken` are keywords that the image builder writes itself: a card posted under one of them is left out.
        """
        made: dict[str, Card] = {}
        found: dict[str, list[Violation]] = {}
        for posted_card in posted:
            card, reasons = self._one(posted_card, taken)
            keyword, detector = posted_card.keyword, posted_card.detector
            found[keyword] = [Violation(keyword, reason, detector) for reason in reasons if reason]
            if card is not None:
                made[keyword] = card
        return list(made.values()), [violation for several in found.values() for violation in several]

    def missing(self, present: Iterable[str]) -> list[Violation]:
        """Return a violation for each keyword that the primary header must have and has not."""
        there = set(present)
        return [Violation(keyword, "is missing") for keyword in self.required if keyword not in there]

    def _one(self, card: Card, taken: frozenset[str]) -> tuple[Card | None, list[str]]:
        if not is_keyword(card.keyword):
            return None, ["is not a FITS keyword; left out"]
        if card.keyword in taken:
            return None, ["is written by the image builder itself; the card that was posted is left out"]
        if isinstance(card.value, float) and not math.isfinite(card.value):
            return None, ["is not a finite number; left out"]
        rule = self.rules.get(card.keyword)
        reasons = [] if rule else ["is not in the dictionary of this camera"]
        if rule is not None:
            value, reason = _typed(card.value, rule)
            reasons.append(reason or rule.check(value))
            unit = _UNIT.match(card.comment)
            if unit and unit[1] != rule.unit:
                reasons.append(f"its unit is [{rule.unit}], not [{unit[1][:40]}]")
            comment = card.comment if unit else f"[{rule.unit}] {rule.comment}" if rule.unit else rule.comment
            card = replace(card, value=value, comment=comment)
        number = card.keyword in _STANDARD_TEXT and not isinstance(card.value, str)
        if number or (any(reasons) and _STANDARD.fullmatch(card.keyword)):
            return None, [*reasons, "is not as FITS prescribes; left out"]
        if isinstance(card.value, str) and card.value != printable(card.value):
            reasons.append("has characters that a FITS header can not hold; they stand as '?'")
        return card, reasons


def parse_rule(keyword: str, text: str) -> CardRule:
    """Return the rule written `type | unit | range | comment`, or raise UsageError."""
    parts = [part.strip() for part in text.split("|", 3)]
    if len(parts) != 4 or parts[0] not in get_args(CardType) or not is_keyword(keyword):
        hint = f"write KEYWORD = type | unit | range | comment, with the type one of {', '.join(get_args(CardType))}"
        raise UsageError(f"{keyword} = {text[:80]} is not a rule for a card", hint)
    type_, unit, limits, comment = cast(CardType, parts[0]), *parts[1:]
    if not limits:
        return CardRule(keyword, type_, unit, comment=comment)
    if type_ in ("integer", "float"):
        low, high = _limits(keyword, limits)
        return CardRule(keyword, type_, unit, low, high, comment=comment)
    if limits.startswith("/") and limits.endswith("/") and len(limits) > 2:
        return CardRule(keyword, type_, unit, pattern=_pattern(keyword, limits[1:-1]), comment=comment)
    choices = tuple(word.strip() for word in limits.split(","))
    return CardRule(keyword, type_, unit, choices=choices, comment=comment)


def _limits(keyword: str, text: str) -> tuple[float, float]:
    match = _RANGE.match(text)
    try:
        if match:
            return float(match[1] or "-inf"), float(match[2] or "inf")
    except ValueError:
        pass
    raise UsageError(f"{keyword}: {text[:60]!r} is not a range", "write low .. high, either of which may be left out")


def _pattern(keyword: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"{keyword}: /{text[:60]}/ is not a pattern: {error}", "write a regular expression") from error


def constant(rule: CardRule, text: str) -> Card:
    """Return the card of a constant, or raise UsageError if its text breaks the rule."""
    value, reason = _typed(text if rule.type in ("string", "date") else _plain(text), rule)
    if reason := reason or rule.check(value):
        raise UsageError(f"{rule.keyword}: {reason}", "correct the constant, or its rule in [cards]")
    return Card(rule.keyword, value)


def _plain(text: str) -> Value:
    if text in ("T", "F"):
        return text == "T"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _typed(value: Value, rule: CardRule) -> tuple[Value, str]:
    """Return the value as its rule has it, and what is wrong if it is of another type (then as it came)."""
    if rule.type == "string":
        return _text(value), ""
    if rule.type == "date":
        right = isinstance(value, str) and _is_date(value)
    elif rule.type == "float" and type(value) in (int, float):
        return float(value), ""
    else:
        right = type(value) is {"integer": int, "float": float, "logical": bool}[rule.type]
    return value, "" if right else f"{_text(value)[:60]!r} is not of type {rule.type}"


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    return str(value)


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
