"""Cutting a search expression into tokens, each with its position; and the error that points at one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dtscore.errors import UsageError

LONGEST = 4096
MOST_TOKENS = 600
KEYWORDS = frozenset({"and", "or", "not", "in", "like", "between", "is", "null"})

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
  | (?P<date>\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?Z?)?(?![\w.-]))
  | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign><=|>=|!=|<>|==|[=<>(),])
  )""",
    re.VERBOSE | re.ASCII,
)
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an expression: `kind` is string, date, number, word, keyword, sign or end; `at` counts from 0."""

    kind: str
    text: str
    at: int


def complaint(text: str, at: int, what: str, hint: str = "") -> UsageError:
    """Return the error that shows the expression with a mark below the place, counted from 1."""
    start = max(0, at - 60)
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", text[start : at + 40])
    return UsageError(f"expression, position {at + 1}: {what}\n  {line}\n  {' ' * (at - start)}^", hint or _EXAMPLE)


_EXAMPLE = "an example: filter='r' and night='2026-11-20'"


def tokenize(text: str) -> list[Token]:
    """Return the tokens with an end token after them, or raise UsageError at the first thing that is none."""
    if len(text) > LONGEST:
        raise UsageError(f"the expression has {len(text)} characters", f"{LONGEST} are allowed")
    found: list[Token] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _no_token(text, at)
        found.append(_token(match))
        at = match.end()
        if len(found) > MOST_TOKENS:
            raise complaint(text, found[-1].at, f"more than {MOST_TOKENS} words", "ask in several steps")
    return [*found, Token("end", "", end)]


def _token(match: re.Match[str]) -> Token:
    kind = match.lastgroup or ""
    text = match.group(kind)
    if kind == "word" and text.lower() in KEYWORDS:
        return Token("keyword", text.lower(), match.start(kind))
    if kind == "string":
        text = text[1:-1].replace(text[0] * 2, text[0])
    return Token(kind, text, match.start(kind))


def _no_token(text: str, at: int) -> UsageError:
    space = _SPACE.match(text, at)
    at = space.end() if space else at
    if text[at] in "'\"":
        return complaint(text, at, "the text is not closed", "end it with the same quotation mark")
    return complaint(text, at, f"{text[at]!r} is not understood", "put texts into quotation marks: filter='r'")
