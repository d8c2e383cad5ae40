"""Values of request files: limits, errors that say found and expected, and one check for each kind of value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from dtscore.checksums import check_algorithm, parse
from dtscore.errors import NameRefusedError, RequestFileError, UsageError
from dtscore.names import check_element_name
from reqdb.spec import LONGEST_WORDS

BLANKS = " \t\r\n"
_LONGEST_SHOWN = 80
_SIZE = re.compile(r"[0-9]{1,19}\Z")
_SIZE_END = 2**63
_DIGIT = re.compile(r"[0-9]\Z")
_ALGORITHM = re.compile(r"[A-Za-z0-9-]+\Z")
_CHECKSUM = re.compile(r"[A-Za-z0-9-]+:[0-9A-Fa-f]+\Z")
_NAIVE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_MOMENT = re.compile(_NAIVE + r"(Z|[+-][0-9]{2}:[0-9]{2})\Z")
_NAIVE_MOMENT = re.compile(_NAIVE + r"\Z")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request file may hold at most; a file beyond is refused before it costs memory.

    `max_bytes` counts the file as it is stored; `max_depth` counts nested elements, the request itself being 1;
    `max_elements` counts every element, comment and annotation; `max_attribute_bytes` is for one attribute value in
    UTF-8; `max_markup_bytes` and `max_markup_lines` are for one tag or comment.
    """

    max_bytes: int = 512 * 1024 * 1024
    max_files: int = 1_000_000
    max_depth: int = 16
    max_elements: int = 4_000_000
    max_attribute_bytes: int = 4 * 1024 * 1024
    max_markup_bytes: int = 8 * 1024 * 1024
    max_markup_lines: int = 100_000


def shown(text: str) -> str:
    """Return the text as an error shows it: quoted, escaped and cut to 80 characters."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "...")


def refuse(place: str, found: str, expected: str, hint: str = "") -> RequestFileError:
    """Return the error "PLACE: found FOUND, expected EXPECTED"; a place is FILE:LINE."""
    return RequestFileError(f"{place}: found {found}, expected {expected}", hint)


def suggest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the hint "did you mean 'NEAREST'?", or the other hint when nothing is near."""
    spellings = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word[:_LONGEST_SHOWN].lower(), spellings, n=1)
    return f"did you mean {spellings[near[0]]!r}?" if near else otherwise


def one_of(words: Collection[str]) -> str:
    """Return the words as an error lists them."""
    return ", ".join(sorted(words))


def check_words(place: str, what: str, text: str) -> str:
    """Return a name that people chose (request, owner, node), or raise RequestFileError."""
    if not text or text != text.strip() or _UNPRINTABLE.search(text) or len(text) > LONGEST_WORDS:
        expected = f"1 to {LONGEST_WORDS} printable characters without blanks at the ends"
        raise refuse(place, f"{what}={shown(text)}", expected)
    return text


def check_priority(place: str, what: str, text: str) -> int:
    """Return the priority, 0 to 9, or raise RequestFileError."""
    if not _DIGIT.match(text):
        raise refuse(place, f"{what}={shown(text)}", "a digit from 0 (lowest) to 9 (highest)")
    return int(text)


def check_moment(place: str, what: str, text: str) -> datetime:
    """Return the moment in UTC, or raise RequestFileError; a moment without a zone is refused."""
    if _NAIVE_MOMENT.match(text):
        hint = f"add the zone: {text}Z for UTC, or an offset as in {text}-03:00"
        raise refuse(place, f"{what}={shown(text)} without a time zone", "an ISO 8601 time with a zone", hint)
    expected = "an ISO 8601 time with a zone, as in 2026-11-20T22:30:00Z"
    if not _MOMENT.match(text):
        raise refuse(place, f"{what}={shown(text)}", expected)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise refuse(place, f"{what}={shown(text)} ({error})", expected) from error


def check_size(place: str, text: str) -> int:
    """Return the size in bytes, below 2**63, or raise RequestFileError."""
    size = int(text) if _SIZE.match(text) else _SIZE_END
    if size >= _SIZE_END:
        raise refuse(place, f"size={shown(text)}", "a whole number of bytes from 0 to 2**63 - 1")
    return size


def check_checksum(place: str, text: str) -> str:
    """Return the checksum in canonical form, or raise RequestFileError."""
    try:
        if _CHECKSUM.match(text):
            return str(parse(text))
    except UsageError as error:
        raise refuse(place, f"checksum={shown(text)} ({error.message})", "algorithm:value", error.hint) from error
    raise refuse(place, f"checksum={shown(text)}", "algorithm:value, as in adler32:03da0195")


def check_algorithm_name(place: str, what: str, text: str) -> str:
    """Return the canonical name of a checksum algorithm, or raise RequestFileError that suggests the nearest."""
    try:
        if _ALGORITHM.match(text):
            return check_algorithm(text)
    except UsageError as error:
        raise refuse(place, f"{what}={shown(text)}", "a known checksum algorithm", error.hint) from error
    raise refuse(place, f"{what}={shown(text)}", "a checksum algorithm, as in adler32")


def check_element(place: str, what: str, text: str, elements: Collection[str] | None) -> str:
    """Return the name of a storage element, known if `elements` says which there are, or raise RequestFileError."""
    try:
        check_element_name(text)
    except NameRefusedError as error:
        raise refuse(place, f"{what}={shown(text)}", "the name of a storage element", error.hint) from error
    if elements is not None and text not in elements:
        hint = suggest(text, elements, "`dts se list` shows the storage elements of this site")
        raise refuse(place, f"unknown storage element {text!r} in {what}", f"one of {one_of(elements)}", hint)
    return text
