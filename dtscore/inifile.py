"""Reading an ini file with the line of every key, and naming what is wrong with it."""

from __future__ import annotations

import configparser
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dtscore.errors import ConfigurationError

_SECTION = re.compile(r"\[(?P<name>.+)\]")
_KEY = re.compile(r"(?P<name>[^\s#;=\[][^=]*?)\s*=")
_NO_DEFAULT_SECTION = "\0"


@dataclass(frozen=True, slots=True)
class IniFile:
    """The content of one ini file: sections with their keys (lower case), and where each one stands.

    A section's name is written with dots, whether its heading has dots or blanks.
    """

    path: Path
    sections: Mapping[str, Mapping[str, str]]
    lines: Mapping[tuple[str, str], int]

    def place(self, section: str, key: str = "") -> str:
        """Return 'path:line' of a key, or of a section's head."""
        line = self.lines.get((section, key))
        return f"{self.path}:{line}" if line else str(self.path)


def read_ini(path: Path) -> IniFile:
    """Read an ini file; ConfigurationError names the file and, where known, the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the configuration {path} cannot be read: {error}", "check the path and its rights"
        ) from error
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), default_section=_NO_DEFAULT_SECTION, empty_lines_in_values=False
    )
    try:
        parser.read_string(text, source=str(path))
    except configparser.Error as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(
            f"the configuration {path} is no ini file: {said}", "write [section] and key = value"
        ) from error
    sections: dict[str, dict[str, str]] = {}
    lines = _lines(text)
    for head in parser.sections():
        name = dotted(head)
        if name in sections:
            where = f"{path}:{lines.get((name, ''), 0)}"
            raise ConfigurationError(f"{where}: the section [{name}] stands twice, as [{head}] too", "keep one of them")
        sections[name] = dict(parser.items(head))
    return IniFile(path, sections, lines)


def dotted(head: str) -> str:
    """Return the name of a section: blanks in its heading stand for dots, `[queue des]` is `[queue.des]`."""
    return ".".join(head.split())


def _lines(text: str) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if head := _SECTION.match(line):
            section = dotted(head["name"])
            found.setdefault((section, ""), number)
        elif key := _KEY.match(line):
            found.setdefault((section, key["name"].strip().lower()), number)
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to an unknown one, or all of them when none is near."""
    words = sorted(set(known))
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(words)}"
