"""One key of the configuration: its kind, its default, what it means, and how its text is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dtscore.errors import UsageError
from dtscore.units import parse_duration, parse_size

Kind = Literal["text", "url", "path", "count", "duration", "size", "choice"]
Value = str | int | float


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the configuration; `default` is written as in the file, and None means that the key must be given.

    `minimum` bounds counts, durations (s) and sizes (bytes); `choices` are the words of a choice. What is `live` may be
    changed in a running daemon (dtsSet).
    """

    section: str
    key: str
    kind: Kind
    default: str | None
    doc: str
    minimum: float = 0
    choices: tuple[str, ...] = ()
    live: bool = False

    def parse(self, text: str) -> Value:
        """Return the typed value of `text`; raise UsageError, which says what was expected."""
        if self.kind == "choice":
            if text not in self.choices:
                raise UsageError(
                    f"{text!r} is not one of {', '.join(self.choices)}", f"choose: {' or '.join(self.choices)}"
                )
            return text
        if self.kind in ("text", "url", "path"):
            return text
        value = _NUMBERS[self.kind](text)
        if value < self.minimum:
            raise UsageError(f"{text!r} is too small", f"the least is {self.minimum:g}")
        return value


def _parse_count(text: str) -> int:
    digits = text.strip().replace(",", "")
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(f"{text!r} is not a whole number", "write digits only, comments on a line of their own")
    return int(digits)


_NUMBERS = {"count": _parse_count, "duration": parse_duration, "size": parse_size}
