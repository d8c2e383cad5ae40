"""The language of dtsh: lines of words with quotes, comments, `;`, `&` and the arguments of a script. No `if`, no pipe.

A word is never split or expanded again after `$1` was put in, so a file name with blanks stays one word.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dtscore.errors import UsageError

_BLANKS = " \t\r"
_ENDS = "\n;&"
_FOREIGN = "|<>()`"
_SPECIAL = frozenset(_BLANKS + _ENDS + _FOREIGN)
_VARIABLES = "0123456789#@*?"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a word: plain text, or (`variable`) one of `0`…, `#`, `@`, `*`, `?`; `quoted`: no pattern is meant."""

    text: str
    quoted: bool = False
    variable: bool = False


Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One command of a script: its words, the line where it begins, and whether it goes to the background."""

    words: tuple[Word, ...]
    line: int
    text: str
    background: bool


@dataclass(frozen=True, slots=True)
class Values:
    """What `$0`, `$1`, …, `$#`, `$@` and `$?` stand for."""

    name: str = "dtsh"
    arguments: tuple[str, ...] = ()
    status: int = 0

    def value(self, variable: str) -> str:
        """Return what a variable stands for; raises UsageError for an argument that was not given."""
        if variable == "#":
            return str(len(self.arguments))
        if variable == "?":
            return str(self.status)
        if variable in "@*":
            return " ".join(self.arguments)
        number = int(variable)
        if number > len(self.arguments):
            raise UsageError(
                f"${number} was not given: there are {len(self.arguments)} arguments", f"call {self.name} with more"
            )
        return self.arguments[number - 1] if number else self.name


def parse(text: str, source: str = "") -> list[Statement]:
    """Return the statements of a text; raises UsageError that names `source` and the line."""
    return list(_Scanner(text, source).statements())


def expand(words: Sequence[Word], values: Values, *, patterns: bool) -> list[str]:
    """Return the words with variables put in and, if `patterns`, local files for `*`, `?`, `[`; raises UsageError."""
    found: list[str] = []
    for word in words:
        found += _expand(word, values, patterns)
    return found


def _expand(word: Word, values: Values, patterns: bool) -> list[str]:
    if len(word) == 1 and word[0].variable and word[0].text in "@*":
        return list(values.arguments)
    texts = [values.value(part.text) if part.variable else part.text for part in word]
    plain = "".join(part.text for part in word if not part.quoted)
    if not patterns or not any(mark in plain for mark in "*?["):
        return ["".join(texts)]
    pattern = "".join(glob.escape(text) if part.quoted else text for part, text in zip(word, texts, strict=True))
    return sorted(glob.glob(pattern)) or ["".join(texts)]


class _Scanner:
    """Goes through a text once, from left to right."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._at = 0
        self._line = 1

    def statements(self) -> Iterator[Statement]:
        """Give one statement after the other."""
        words: list[Word] = []
        begin, line = 0, 1
        while mark := self._skip():
            if mark in _ENDS:
                text = self._text[begin : self._at].strip()
                self._step()
                if words:
                    yield Statement(tuple(words), line, text, mark == "&")
                elif mark != "\n":
                    raise self._wrong(f"there is no command before {mark!r}")
                words = []
                continue
            if not words:
                begin, line = self._at, self._line
            words.append(self._word(mark))
        if words:
            yield Statement(tuple(words), line, self._text[begin:].strip(), False)

    def _skip(self) -> str:
        """Pass over blanks, comments and joined lines; return the next character, '' at the end."""
        while mark := self._next():
            if mark == "#":
                end = self._text.find("\n", self._at)
                self._at = end if end >= 0 else len(self._text)
            elif mark == "\\" and self._text.startswith("\\\n", self._at):
                self._step()
                self._step()
            elif mark not in _BLANKS:
                return mark
            else:
                self._step()
        return ""

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _step(self) -> str:
        mark = self._next()
        self._at += 1
        self._line += mark == "\n"
        return mark

    def _word(self, mark: str) -> Word:
        parts: list[Part] = []
        while mark and mark not in _SPECIAL:
            if mark == "'":
                parts.append(Part(self._quoted("'"), quoted=True))
            elif mark == '"':
                parts += self._double()
            elif mark == "$":
                parts.append(self._variable())
            elif mark == "\\":
                self._step()
                escaped = self._step()
                parts.append(Part("" if escaped == "\n" else escaped, quoted=True))
            else:
                parts.append(Part(self._step()))
            mark = self._next()
        if mark and mark in _FOREIGN:
            raise self._wrong(f"{mark!r} means nothing to dtsh", "quote it, or use a script of the system's shell")
        return _joined(parts)

    def _quoted(self, mark: str) -> str:
        end = self._text.find(mark, self._at + 1)
        if end < 0:
            raise self._wrong(f"a quotation mark {mark} is not closed")
        text = self._text[self._at + 1 : end]
        self._line += text.count("\n")
        self._at = end + 1
        return text

    def _double(self) -> Iterator[Part]:
        """Give the parts between double quotation marks, where `$` and `\\` keep their meaning."""
        self._step()
        yield Part("", quoted=True)
        while (mark := self._next()) != '"':
            if not mark:
                raise self._wrong('a quotation mark " is not closed')
            if mark == "$":
                yield self._variable()
                continue
            if mark == "\\" and self._text[self._at + 1 : self._at + 2] in ('"', "\\", "$"):
                self._step()
            yield Part(self._step(), quoted=True)
        self._step()

    def _variable(self) -> Part:
        self._step()
        if self._next() == "{":
            name = self._quoted("}")
        else:
            name = self._step()
        if name.isascii() and (name.isdigit() or (len(name) == 1 and name in _VARIABLES)):
            return Part(name, quoted=True, variable=True)
        raise self._wrong(f"${name} is not known", "there are $0, $1 …, $#, $@ and $?; quote a plain $ as '$'")

    def _wrong(self, what: str, hint: str = "look at the quotation marks and ends of commands there") -> UsageError:
        place = f"{self._source}, line {self._line}: " if self._source else ""
        return UsageError(f"{place}{what}", hint)


def _joined(parts: Sequence[Part]) -> Word:
    """Join neighbours of one kind; an empty pair of quotation marks still makes a word."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if last and not last.variable and not part.variable and last.quoted == part.quoted:
            found[-1] = Part(last.text + part.text, part.quoted)
        elif part.text or len(parts) == 1:
            found.append(part)
    return tuple(found)
