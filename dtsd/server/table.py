"""What a method of the daemon is: its name, who may call it, its arguments with their types, what it returns.

The table itself is `dtsd.methods.METHODS`, literal tuples of the modules there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dtscore.errors import NameRefusedError, OutOfTimeError, StateError, UsageError
from dtscore.names import check_pfn
from dtsnet.credentials import Role, User
from dtsnet.xmlrpc import Value

if TYPE_CHECKING:
    from dtsd.server.site import Site

Kind: TypeAlias = Literal["string", "path", "int", "boolean", "double", "base64", "array", "struct"]
"""Types of arguments and answers as XML-RPC calls them; a path is a string, a name below the daemon's root."""

_TYPES: dict[Kind, type] = {
    "string": str, "path": str, "int": int, "boolean": bool, "double": float, "base64": bytes, "array": list,
    "struct": dict,
}  # fmt: skip
_WORDS = {
    bool: "a boolean", int: "an int", float: "a double", str: "a string", bytes: "base64", list: "an array",
    dict: "a struct",
}  # fmt: skip

_EXACT = 1 << 53
"""Up to here a double holds every whole number."""

LONGEST_TEXT = 64 * 1024
"""Characters of a string argument that does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a method; without a `default` it must be given, and those with one stand last.

    `minimum` and `maximum` bound an int or double, and `maximum` the length of a string, base64 or array. `choices`
    are the words that a string may be.
    """

    name: str
    kind: Kind
    doc: str
    default: Value | None = None
    minimum: float = 0
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Value, where: str) -> Value:
        """Return a value that came for this argument; raises UsageError and NameRefusedError, which say `where`."""
        if self.kind == "double" and type(value) is int:
            value = float(value)
        if self.kind == "int" and isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
            value = int(value)  # some clients cannot send <i8>
        if type(value) is not _TYPES[self.kind]:
            expected = _WORDS[_TYPES[self.kind]]
            raise UsageError(f"{where}: expected {expected}, got {_WORDS[type(value)]}", self.doc)
        if isinstance(value, str):
            self._check_text(value, where)
        elif isinstance(value, (bytes, list)) and len(value) > (self.maximum or LONGEST_TEXT):
            raise UsageError(f"{where}: {len(value)} are too many", f"at most {self.maximum or LONGEST_TEXT:.0f}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self._check_number(value, where)
        return value

    def _check_text(self, text: str, where: str) -> None:
        if self.kind == "path" and text:
            try:
                check_pfn(text)
            except NameRefusedError as error:
                raise NameRefusedError(f"{where}: {error.message}", error.hint) from error
        if self.choices and text not in self.choices:
            raise UsageError(f"{where}: {text!r:.60} is not one of {', '.join(self.choices)}", self.doc)
        if len(text) > (self.maximum or LONGEST_TEXT):
            raise UsageError(f"{where}: {len(text)} characters", f"at most {self.maximum or LONGEST_TEXT:.0f}")

    def _check_number(self, value: float, where: str) -> None:
        if value < self.minimum:
            raise UsageError(f"{where}: {value} is too small", f"the least is {self.minimum:.15g}")
        if self.maximum is not None and value > self.maximum:
            raise UsageError(f"{where}: {value} is too large", f"the most is {self.maximum:.15g}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, from where, and until when (monotonic, s) it may work."""

    user: User
    address: str
    deadline: float
    stopping: threading.Event

    def check(self) -> None:
        """Raise OutOfTimeError or StateError where the call is to end: what takes long asks now and then."""
        if self.stopping.is_set():
            raise StateError("the daemon is stopping", "make the call again in a moment")
        if time.monotonic() > self.deadline:
            raise OutOfTimeError("the call took longer than [dtsd] call_limit", "ask for less at once")


@dataclass(frozen=True, slots=True)
class Method:
    """One method: `call(site, caller, **arguments)` gets its arguments checked and by name."""

    name: str
    role: Role
    arguments: tuple[Argument, ...]
    returns: Kind
    doc: str
    call: Callable[..., Any]

    def bind(self, values: Sequence[Value]) -> dict[str, Value]:
        """Return the arguments of a call by name; raises UsageError, which says which one and what was expected."""
        least = sum(argument.default is None for argument in self.arguments)
        if not least <= len(values) <= len(self.arguments):
            many = f"{least} to {len(self.arguments)}" if least < len(self.arguments) else str(least)
            raise UsageError(f"{self.name}: {len(values)} arguments, expected {many}", f"call it as {self.usage}")
        bound: dict[str, Value] = {}
        for number, argument in enumerate(self.arguments, start=1):
            if number <= len(values):
                where = f"{self.name}: argument {number} ({argument.name})"
                bound[argument.name] = argument.check(values[number - 1], where)
            elif argument.default is not None:
                bound[argument.name] = argument.default
        return bound

    @property
    def usage(self) -> str:
        """How it is called, such as `dir(path, offset = 0)`."""
        shown = (f"{one.name} = {one.default!r}" if one.default is not None else one.name for one in self.arguments)
        return f"{self.name}({', '.join(shown)})"

    def run(self, site: Site, caller: Caller, values: Sequence[Value]) -> Value:
        """Check the arguments and make the call; raises what the method raises."""
        answer: Value = self.call(site, caller, **self.bind(values))
        return answer
