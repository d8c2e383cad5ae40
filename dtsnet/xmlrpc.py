"""XML-RPC as text: calls, answers and faults, read strictly and within bounds, with integers of 64 bits.

`<int>` up to 31 bits and a sign, `<i8>` beyond. Python's `xmlrpc` is not used: it takes sizes of 2 GiB and more for an
error, reads what it does not know as nothing, and knows no bounds.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from xml.parsers.expat import ExpatError, ParserCreate

from dtscore.errors import ProtocolError

Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | dict[str, Value]"
"""What crosses a call: there is no nothing (nil) and no date; moments are seconds since 1970."""

DEEPEST = 16
"""Arrays and structs inside each other."""

MOST_VALUES = 200_000
"""Values in one call or answer."""

_INT = re.compile(r"[+-]?[0-9]{1,20}\Z")
_DOUBLE = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?\Z")
_NAME = re.compile(r"[A-Za-z0-9_.:/]{1,128}\Z")
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it came: the method's name and its arguments."""

    method: str
    arguments: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer that is a fault."""

    code: int
    text: str


def clean(text: str) -> str:
    """Return a text with U+FFFD for what XML cannot carry (control characters, bytes that are not UTF-8)."""
    return _NO_TEXT.sub("\ufffd", text)


def is_text(text: str) -> bool:
    """Whether XML can carry a text as it is."""
    return not _NO_TEXT.search(text)


def write_call(method: str, arguments: Sequence[Value]) -> bytes:
    """Return a call as bytes; raises ProtocolError for values that XML-RPC cannot carry."""
    body = "".join(f"<param>{_written(value)}</param>" for value in arguments)
    return _document(f"<methodCall><methodName>{method}</methodName><params>{body}</params></methodCall>")


def write_answer(value: Value) -> bytes:
    """Return an answer as bytes; raises ProtocolError for values that XML-RPC cannot carry."""
    return _document(f"<methodResponse><params><param>{_written(value)}</param></params></methodResponse>")


def write_fault(fault: Fault) -> bytes:
    """Return a fault as bytes."""
    fields: dict[str, Value] = {"faultCode": fault.code, "faultString": clean(fault.text)}
    return _document(f"<methodResponse><fault>{_written(fields)}</fault></methodResponse>")


def _document(text: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


def _written(value: Value) -> str:
    parts: list[str] = []
    _write(value, parts, 0)
    return "".join(parts)


def _write(value: Value, parts: list[str], depth: int) -> None:
    if depth > DEEPEST:
        raise ProtocolError(f"values stand in each other more than {DEEPEST} deep", "send less at once")
    if isinstance(value, (list, tuple)):
        parts.append("<value><array><data>")
        for one in value:
            _write(one, parts, depth + 1)
        parts.append("</data></array></value>")
    elif isinstance(value, Mapping):
        parts.append("<value><struct>")
        for name, one in value.items():
            parts.append(f"<member><name>{_escaped(name)}</name>")
            _write(one, parts, depth + 1)
            parts.append("</member>")
        parts.append("</struct></value>")
    else:
        parts.append(f"<value>{_scalar(value)}</value>")


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return f"<boolean>{value:d}</boolean>"
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ProtocolError(f"{value} has more than 64 bits", "send it as text")
        return f"<int>{value}</int>" if -(1 << 31) <= value < 1 << 31 else f"<i8>{value}</i8>"
    if isinstance(value, str):
        return f"<string>{_escaped(value)}</string>"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ProtocolError(f"{value} is not a number that XML-RPC can carry", "send it as text")
        return f"<double>{value!r}</double>"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<base64>{base64.b64encode(value).decode()}</base64>"
    raise ProtocolError(f"XML-RPC cannot carry {type(value).__name__}", "send text, numbers, bytes, lists or mappings")


def _escaped(text: str) -> str:
    if not isinstance(text, str) or _NO_TEXT.search(text):
        raise ProtocolError(f"{text!r:.80} holds what XML cannot carry", "send it as bytes")
    return text.translate(_ESCAPES)


def read_call(body: bytes) -> Call:
    """Return a call; raises ProtocolError for whatever is not one, or is too deep or too much."""
    found = _parse(body)
    if not isinstance(found, Call):
        raise ProtocolError("an answer came where a call was expected", "send a methodCall")
    return found


def read_answer(body: bytes) -> Value | Fault:
    """Return the value of an answer, or its fault; raises ProtocolError."""
    found = _parse(body)
    if isinstance(found, Call):
        raise ProtocolError("a call came where an answer was expected", "is it DTS that answers there?")
    return found.value if isinstance(found, _Answer) else found


@dataclass(frozen=True, slots=True)
class _Answer:
    value: Value


def _parse(body: bytes) -> Call | _Answer | Fault:
    reader = _Reader()
    parser = ParserCreate("UTF-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(body, True)
    except ExpatError as error:
        raise ProtocolError(f"the body is not XML: {error}", "send XML-RPC in UTF-8") from error
    return reader.result()


def _refuse_doctype(*_: object) -> None:
    raise ProtocolError("the body holds a DOCTYPE, which is never read", "send plain XML-RPC")


_INSIDE: dict[str, frozenset[str]] = {
    "": frozenset(("methodCall", "methodResponse")),
    "methodCall": frozenset(("methodName", "params")),
    "methodResponse": frozenset(("params", "fault")),
    "params": frozenset(("param",)),
    "param": frozenset(("value",)),
    "fault": frozenset(("value",)),
    "value": frozenset(("int", "i4", "i8", "boolean", "string", "double", "base64", "array", "struct")),
    "array": frozenset(("data",)),
    "data": frozenset(("value",)),
    "struct": frozenset(("member",)),
    "member": frozenset(("name", "value")),
}
"""Which element may stand in which; what is not a key holds text alone."""

_TEXTS = frozenset(("methodName", "name", "int", "i4", "i8", "boolean", "string", "double", "base64"))
_MANY = frozenset(("params", "data", "struct"))
_PAIRS = frozenset(("methodCall", "member"))


@dataclass(slots=True)
class _Open:
    """An element that has not ended, and what stood in it so far; `made` is what an element in it came to."""

    tag: str
    text: list[str]
    tags: list[str]
    values: list[Value]
    name: str = ""
    made: Call | _Answer | Fault | None = None


class _Reader:
    """Takes the parser's events; whatever is not XML-RPC raises ProtocolError at once."""

    def __init__(self) -> None:
        self._open = [_Open("", [], [], [])]
        self._depth = 0
        self._values = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        above = self._open[-1]
        if tag not in _INSIDE.get(above.tag, ()) or attributes:
            where = f"in <{above.tag}>" if above.tag else "at the top"
            what = f"<{tag:.40}> with attributes" if attributes else f"<{tag:.40}>"
            raise ProtocolError(f"{what} is not expected {where}", "plain XML-RPC with i8; no nil and no dates")
        if above.tags and above.tag not in _MANY and (above.tag not in _PAIRS or tag in above.tags):
            raise ProtocolError(f"<{above.tag}> holds more than it may", "send plain XML-RPC")
        above.tags.append(tag)
        self._count(tag)
        self._open.append(_Open(tag, [], [], []))

    def _count(self, tag: str) -> None:
        self._depth += tag in ("array", "struct")
        self._values += tag in ("value", "member")
        if self._depth > DEEPEST:
            raise ProtocolError(f"values stand in each other more than {DEEPEST} deep", "send less at once")
        if self._values > MOST_VALUES:
            raise ProtocolError(f"there are more than {MOST_VALUES:,} values", "send less at once")

    def data(self, text: str) -> None:
        above = self._open[-1]
        if above.tag in _TEXTS or (above.tag == "value" and not above.tags):
            above.text.append(text)
        elif not text.isspace():
            raise ProtocolError(f"text stands in <{above.tag}>: {text!r:.40}", "send plain XML-RPC")

    def end(self, tag: str) -> None:
        ended, above = self._open.pop(), self._open[-1]
        self._depth -= tag in ("array", "struct")
        text = "".join(ended.text)
        if tag in _READ:
            above.values.append(_READ[tag](text))
        elif tag in ("methodName", "name"):
            above.name = _name(tag, text)
        elif tag == "value":
            if ended.tags and text.strip():
                raise ProtocolError(f"text stands beside a value: {text!r:.40}", "send plain XML-RPC")
            above.values.append(ended.values[0] if ended.tags else text)
        elif tag == "member":
            above.values.append([ended.name, _only(ended)])
        elif tag == "struct":
            above.values.append(_struct(ended.values))
        elif tag == "array":
            above.values.append(_only(ended))
        elif tag == "data":
            above.values.append(ended.values)
        else:
            self._end_frame(ended, above)

    @staticmethod
    def _end_frame(ended: _Open, above: _Open) -> None:
        """End an element outside the values."""
        if ended.tag in ("param", "params"):
            above.values += [_only(ended)] if ended.tag == "param" else ended.values
        elif ended.tag == "fault":
            above.made = _fault(_only(ended))
        elif ended.tag == "methodCall":
            if not ended.name:
                raise ProtocolError("a call names no method", "send plain XML-RPC")
            above.made = Call(ended.name, tuple(ended.values))
        else:
            above.made = ended.made or _Answer(_only(ended))

    def result(self) -> Call | _Answer | Fault:
        made = self._open[0].made
        if made is None:
            raise ProtocolError("the body is empty", "send XML-RPC")
        return made


def _only(ended: _Open) -> Value:
    if len(ended.values) != 1:
        raise ProtocolError(f"<{ended.tag}> holds {len(ended.values)} values, not one", "send plain XML-RPC")
    return ended.values[0]


def _name(tag: str, text: str) -> str:
    if tag == "methodName" and not _NAME.match(text.strip()):
        raise ProtocolError(f"{text!r:.60} is not the name of a method", "see system.listMethods")
    return text.strip() if tag == "methodName" else text


def _struct(members: list[Value]) -> dict[str, Value]:
    made: dict[str, Value] = {}
    for member in members:
        assert isinstance(member, list)
        name, value = member
        assert isinstance(name, str)
        if name in made:
            raise ProtocolError(f"a struct names {name!r:.60} twice", "send each member once")
        made[name] = value
    return made


def _fault(value: Value) -> Fault:
    if isinstance(value, dict):
        code, text = value.get("faultCode"), value.get("faultString")
        if isinstance(code, int) and isinstance(text, str):
            return Fault(code, text)
    raise ProtocolError("a fault without code and text", "is it DTS that answers there?")


def _integer(kind: str) -> Callable[[str], Value]:
    limit = 1 << 63 if kind == "i8" else 1 << 31

    def read(text: str) -> Value:
        if not _INT.match(text.strip()) or not -limit <= int(text) < limit:
            raise ProtocolError(f"{text!r:.40} is not an <{kind}>", "numbers beyond 31 bits go into <i8>")
        return int(text)

    return read


def _double(text: str) -> Value:
    if not _DOUBLE.match(text.strip()) or not math.isfinite(float(text)):
        raise ProtocolError(f"{text!r:.40} is not a <double>", "write it like 1.5")
    return float(text)


def _boolean(text: str) -> Value:
    if text.strip() not in ("0", "1"):
        raise ProtocolError(f"{text!r:.40} is not a <boolean>", "write 0 or 1")
    return text.strip() == "1"


def _bytes(text: str) -> Value:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"a <base64> is not base64: {error}", "send plain XML-RPC") from error


_READ: dict[str, Callable[[str], Value]] = {
    "int": _integer("int"), "i4": _integer("i4"), "i8": _integer("i8"), "string": str, "double": _double,
    "boolean": _boolean, "base64": _bytes,
}  # fmt: skip
