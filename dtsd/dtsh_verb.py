"""What a verb of dtsh is: its name, options and words, how they are read, and what it works with."""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dtscore import command
from dtscore.errors import UsageError, WorkCancelledError
from dtscore.inifile import nearest
from dtscore.units import parse_duration, parse_size
from dtsnet.rpc import Remote

if TYPE_CHECKING:
    from dtsd.dtsh_shell import Shell

Kind = Literal[
    "flag", "string", "path", "int", "size", "seconds", "double", "boolean", "base64", "array", "struct"
]  # fmt: skip
Completes = Literal["", "local", "remote", "queue", "target", "verb"]

_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_MOMENTS = frozenset({"mtime", "time", "begun", "since", "at", "oldest", "started"})
_printing = threading.RLock()


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a verb: `--name`, with a `short` form where there is one; a flag takes no value."""

    name: str
    kind: Kind
    doc: str
    short: str = ""


TARGET = Option("target", "string", "The site: NAME of [remote NAME], or HOST[:PORT] of one.", "t")
JSON = Option("json", "flag", "Print data as JSON, one object a line.")


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb; `call` does the work and returns the exit code (None: 0), `words` shows its words.

    `direct` verbs change the shell itself, and so cannot run in the background. `completes` says what its words are,
    the last of them for all that follow. `patterns` says whether `*` in its words means local files, `literal` that
    words with a dash are no options.
    """

    name: str
    words: str
    doc: str
    call: Callable[[Command], int | None]
    options: tuple[Option, ...] = ()
    least: int = 0
    most: int | None = None
    direct: bool = False
    remote: bool = True
    completes: tuple[Completes, ...] = ()
    patterns: bool = False
    literal: bool = False

    @property
    def known(self) -> tuple[Option, ...]:
        """All options that it takes."""
        shared = (*((TARGET,) if self.remote else ()), *(() if self.direct or self.literal else (JSON,)))
        return (*self.options, *shared)

    @property
    def usage(self) -> str:
        """Its name, options and words in one line."""
        shown = [f"[--{one.name}{'' if one.kind == 'flag' else f' {one.kind.upper()}'}]" for one in self.options]
        return " ".join([self.name, *(["[-t SITE]"] if self.remote else []), *shown, self.words]).strip()

    @property
    def summary(self) -> str:
        """What it does, in a few words."""
        return re.split(r"[.:;] ", self.doc)[0].rstrip(".")

    def help(self) -> str:
        """Explain it."""
        lines = [f"usage: {self.usage}", "", f"  {self.doc}"]
        if self.known:
            lines.append("")
        for one in self.known:
            short = f"-{one.short}, " if one.short else ""
            lines.append(f"  {short}--{one.name}{'' if one.kind == 'flag' else f' {one.kind.upper()}'}  {one.doc}")
        return "\n".join(lines)


class ExitRequested(Exception):
    """The shell is to end; `code` is what was asked for, None: what its commands say."""

    def __init__(self, code: int | None) -> None:
        """Keep the exit code."""
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class Command:
    """A verb with its words and options, in work; it stops when `stop` is set. `label` names a background job."""

    shell: Shell
    verb: Verb
    words: list[str]
    options: dict[str, Any]
    label: str = ""
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def json(self) -> bool:
        """Whether data is printed as JSON."""
        return self.shell.json or bool(self.options.get("json"))

    @property
    def target(self) -> str:
        """The name of the site that was chosen, for people."""
        return self.shell.sites.name(self.options.get("target", ""))

    def remote(self) -> Remote:
        """Return the daemon that was chosen; raises UsageError, NotFoundError and ConfigurationError."""
        return self.shell.sites.remote(self.options.get("target", ""))

    def guard(self) -> None:
        """Raise WorkCancelledError when it is to end."""
        if self.stop.is_set():
            raise WorkCancelledError("interrupted")

    def word(self, number: int, default: str = "") -> str:
        """Return one of its words, or the default."""
        return self.words[number] if number < len(self.words) else default

    def say(self, line: str) -> None:
        """Print a line for people, whole."""
        with _printing:
            print(f"[{self.label}] {line}" if self.label else line, flush=True)

    def show(self, value: Any, columns: Sequence[str] = ()) -> None:
        """Print what a daemon answered: as JSON, or as text and tables of these columns (none: of all)."""
        with _printing:
            show(value, self.json, columns)
            sys.stdout.flush()

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        with _printing:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def show(value: Any, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Print a value, a list of structs as a table of `columns` (none: of all that there are)."""
    if as_json:
        command.print_json(_plain(value), lines=True)
    elif isinstance(value, dict):
        command.table(("NAME", "VALUE"), [(name, _cell(one, name)) for name, one in value.items()])
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        names = list(columns) or list(dict.fromkeys(name for one in value for name in one))
        rows = [[_cell(one.get(name, ""), name) for name in names] for one in value]
        command.table([name.upper() for name in names], rows)
    elif isinstance(value, list):
        for one in value:
            print(command.cell(_cell(one)))
    elif isinstance(value, bytes):
        sys.stdout.buffer.write(value)
    else:
        print("\n".join(command.cell(line) for line in str(_cell(value)).splitlines()))


def _cell(value: Any, name: str = "") -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and (name in _MOMENTS or name.endswith("_at")):
        return moment(value)
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, (list, dict, bytes)):
        return json.dumps(_plain(value), ensure_ascii=False)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def moment(seconds: float) -> str:
    """Return seconds since 1970 as a moment in UTC; 0 stands for none."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds)) if seconds else ""


def read_words(verb: Verb, words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words and the options of a verb; raises UsageError."""
    found: list[str] = list(words) if verb.literal else []
    options: dict[str, Any] = {}
    rest = [] if verb.literal else list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            found += rest
            break
        if not word.startswith("-") or word == "-" or _is_number(word):
            found.append(word)
            continue
        option, text = _option(verb, word)
        if option.kind != "flag" and text is None:
            if not rest:
                raise UsageError(f"{verb.name}: {word} needs a value", f"usage: {verb.usage}")
            text = rest.pop(0)
        options[option.name] = True if option.kind == "flag" else value_of(option.kind, text or "", word)
    if len(found) < verb.least or (verb.most is not None and len(found) > verb.most):
        what = "too many words" if len(found) > verb.least else "words are missing"
        raise UsageError(f"{verb.name}: {what}", f"usage: {verb.usage}")
    return found, options


def _option(verb: Verb, word: str) -> tuple[Option, str | None]:
    """Return the option that a word names, and the value after its `=`."""
    name, equals, text = word.partition("=")
    for one in verb.known:
        if name in (f"--{one.name}", f"-{one.short}"):
            return one, text if equals else None
    hint = nearest(name, [f"--{one.name}" for one in verb.known]) if verb.known else "it has no options"
    raise UsageError(f"{verb.name}: there is no option {name}", hint)


def _is_number(word: str) -> bool:
    return word[1:].replace(".", "", 1).isdigit()


def value_of(kind: Kind, text: str, where: str) -> Any:
    """Return the value that a text stands for; raises UsageError, which says `where` it stands."""
    try:
        return _READERS[kind](text)
    except (ValueError, OSError) as error:
        raise UsageError(f"{where}: {text!r:.80} is no {kind}", _HINTS.get(kind, "")) from error


def _boolean(text: str) -> bool:
    if text.lower() not in _YES:
        raise ValueError(text)
    return _YES[text.lower()]


def _bytes(text: str) -> bytes:
    return Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()


def _array(text: str) -> Any:
    return json.loads(text) if text.startswith("[") else [one for one in text.split(",") if one]


def _struct(text: str) -> Any:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(text)
    return found


_READERS: dict[Kind, Callable[[str], Any]] = {
    "string": str, "path": lambda text: text.lstrip("/"), "int": int, "size": parse_size, "seconds": parse_duration,
    "double": float, "boolean": _boolean, "base64": _bytes, "array": _array, "struct": _struct,
}  # fmt: skip
_HINTS: dict[str, str] = {
    "int": "write a whole number", "double": "write a number", "boolean": "write yes or no",
    "base64": "write the text, or @FILE for what a file holds", "array": "write a,b,c or a JSON array",
    "struct": 'write a JSON object, as in {"name": 1}',
}  # fmt: skip
