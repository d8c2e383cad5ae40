"""What dts.ini says of queues, routes and deliveries, as frozen settings, and the small languages of their values."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from pathlib import Path

from dtscore.errors import UsageError
from dtscore.names import check_element_name
from dtscore.units import parse_size

ANY_QUEUE = "*"
"""Stands for the queue that the routes choose, where a queue is named."""


@dataclass(frozen=True, slots=True)
class Handover:
    """Another queue as a target: `REMOTE:QUEUE`, or `:QUEUE` of this site; the queue `*` is the routes' choice."""

    remote: str
    queue: str

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.remote}:{self.queue}"


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """One queue: how it turns a local file into a request; durations in seconds, sizes in bytes (rate: a second).

    `mode` is 'element' and `streams` 0 where the storage element decides.
    `source` and `folder` are empty and None where nothing is said; `elements` and `handovers` are its targets;
    `start` is the second of the day (UTC) at which a scheduled queue first works, again after each `interval`.
    """

    name: str
    type: str
    source: str
    folder: Path | None
    patterns: tuple[str, ...]
    marker: bool
    settle: float
    elements: tuple[str, ...]
    handovers: tuple[Handover, ...]
    lfn: str
    mode: str
    streams: int
    rate: int
    purge: bool
    delivery: str
    priority: int
    interval: float
    start: float
    owner: str
    reserve: int

    def next_moment(self, now: datetime) -> datetime | None:
        """Return when a file that comes now may be worked on; None: at once. `now` is aware, UTC."""
        if self.type != "scheduled":
            return None
        midnight = datetime(now.year, now.month, now.day, tzinfo=timezone.utc)
        first = midnight + timedelta(seconds=self.start)
        passed = (now - first).total_seconds()
        steps = -(-passed // self.interval)
        moment = first + timedelta(seconds=steps * self.interval)
        return None if moment <= now else moment


_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_COMPARISON = re.compile(r"\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>.+?)\s*\Z")
_CONDITION = re.compile(r"\s*(?P<keyword>[A-Za-z0-9_-]{1,8})\s*(?P<rest>(?:<|>|!|=).*)\Z")


@dataclass(frozen=True, slots=True)
class Comparison:
    """`> 30`, `= 2012B-*|2013A-*`: by number where both sides are one, else by shell patterns (= and != alone)."""

    sign: str
    value: str

    def holds(self, found: str) -> bool:
        """Return whether a value that was found satisfies it."""
        right, left = _number(self.value), _number(found)
        if right is not None and left is not None:
            return _OPERATORS[self.sign](left, right)
        if self.sign not in ("=", "!="):
            return False
        matches = any(fnmatchcase(found, pattern.strip()) for pattern in self.value.split("|"))
        return matches is (self.sign == "=")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse_comparison(text: str) -> Comparison:
    """Return the comparison of a text such as `>= 100`, or raise UsageError."""
    match = _COMPARISON.match(text)
    if not match:
        raise UsageError(f"{text!r} is not a comparison", "write = != < <= > or >= and a value")
    if match["sign"] not in ("=", "!=") and _number(match["value"]) is None:
        raise UsageError(f"{match['value']!r} is not a number", "patterns go with = and != alone")
    return Comparison(match["sign"], match["value"])


def parse_size_comparison(text: str) -> Comparison:
    """Return the comparison of a text such as `> 1 GiB`, its value in bytes, or raise UsageError."""
    match = _COMPARISON.match(text)
    if not match:
        raise UsageError(f"{text!r} is not a comparison", "write it like > 1 GiB")
    return Comparison(match["sign"], str(parse_size(match["value"])))


def parse_keywords(text: str) -> tuple[tuple[str, Comparison], ...]:
    """Return the conditions of `PROPID = 2012B-*, EXPTIME > 30` by FITS keyword, or raise UsageError."""
    found = []
    for part in (part for part in text.split(",") if part.strip()):
        match = _CONDITION.match(part)
        if not match:
            raise UsageError(f"{part.strip()!r} is not a condition", "write KEYWORD = VALUE, conditions between commas")
        found.append((match["keyword"].upper(), parse_comparison(match["rest"])))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """One rule: files of which all its conditions hold go to `queue`; a rule without any takes every file."""

    name: str
    queue: str
    files: tuple[str, ...]
    sizes: tuple[Comparison, ...]
    keywords: tuple[tuple[str, Comparison], ...]

    def takes(self, path: str, size: int, card: Callable[[str], str | None]) -> bool:
        """Return whether it takes a file: its path, its size in bytes, and `card`, the value of a FITS keyword."""
        name = path.rpartition("/")[2]
        if self.files and not any(fnmatchcase(path if "/" in one else name, one) for one in self.files):
            return False
        if not all(one.holds(str(size)) for one in self.sizes):
            return False
        values = ((card(keyword), comparison) for keyword, comparison in self.keywords)
        return all(value is not None and comparison.holds(value) for value, comparison in values)


MACROS: Mapping[str, str] = {
    "P": "the whole path of the file", "F": "its name", "D": "its folder", "S": "its size in bytes",
    "C": "its checksum", "L": "its logical name", "Q": "the queue", "N": "the request's number",
    "R": "the request's name", "A": "the number of this attempt",
}  # fmt: skip
"""The macros of a delivery by letter; `$$` is a dollar."""

DELIVERY_VARIABLES = tuple(
    f"DTS_{word}"
    for word in (
        "FILE", "LFN", "SIZE", "CHECKSUM", "STATUS", "QUEUE", "REQUEST", "REQUEST_NAME", "OWNER", "ATTEMPT", "SITE",
        "DELIVERY",
    )
)  # fmt: skip
"""What the program of a delivery finds in its environment: no settings, should it call a program of DTS."""

_MACRO = re.compile(r"\$(.?)", re.DOTALL)


def expand(template: str, values: Mapping[str, str]) -> str:
    """Return a word with its macros replaced, once: what they stand for is not looked at again."""
    return _MACRO.sub(lambda match: "$" if match[1] == "$" else values[match[1]], template)


def has_macros(words: Iterable[str]) -> bool:
    """Return whether any of the words holds a macro."""
    return any(letter != "$" for word in words for letter in _MACRO.findall(word))


def check_macros(template: str) -> str:
    """Return the word unchanged, or raise UsageError for a macro that there is not."""
    for letter in _MACRO.findall(template):
        if letter != "$" and letter not in MACROS:
            known = ", ".join(f"${one} {what}" for one, what in MACROS.items())
            raise UsageError(f"${letter} in {template!r} is not a macro", f"the macros are: {known}; $$ is a dollar")
    return template


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How landed files are given to whoever waits for them.

    `command` is a literal list of words, empty: none; `folder` takes a private copy, named by `name` (macros);
    `timeout` in seconds; `environment` names the variables that the command inherits.
    """

    name: str
    command: tuple[str, ...]
    folder: Path | None
    move: bool
    naming: str
    policy: str
    timeout: float
    environment: tuple[str, ...]
    flag_damaged: bool


@dataclass(frozen=True, slots=True)
class Queueing:
    """All queues, routes (in their order) and deliveries of a site."""

    queues: Mapping[str, QueueSettings] = field(default_factory=dict)
    routes: tuple[RouteSettings, ...] = ()
    deliveries: Mapping[str, DeliverySettings] = field(default_factory=dict)


def parse_target(text: str) -> Handover | str:
    """Return one target: a storage element's name, or a queue as REMOTE:QUEUE; raises NameRefusedError."""
    remote, colon, queue = text.partition(":")
    if not colon:
        return check_element_name(text)
    if remote:
        check_element_name(remote)
    if queue != ANY_QUEUE:
        check_element_name(queue)
    return Handover(remote, queue)
