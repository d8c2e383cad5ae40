"""Job description (JDL) files that point to a request file, as in the seed: `JobType = "request"`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dtscore.errors import RequestFileError
from reqdb.spec import OPERATION_TYPES, RequestSpec
from reqdb.xml import Limits, read_request
from reqdb.xml_values import one_of, refuse, shown, suggest

_LARGEST = 1024 * 1024
_ATTRIBUTES = ("JobType", "RequestType", "InputData", "RequestFile")
_DEFAULT_LIMITS = Limits()
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_TOKEN = re.compile(
    r"(?P<blank>[ \t\r\n]+|//[^\n]*|#[^\n]*|/\*.*?\*/)"
    rf"|(?P<string>{_STRING})|(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)|(?P<sign>[\[\]{{}}=;,])",
    re.DOTALL,
)
_FIRST = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class JobDescription:
    """What a JDL file says: the kind of request and the name of its XML file, with the lines they stand on."""

    request_type: str
    request_file: str
    type_line: int
    file_line: int


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class _Value:
    items: tuple[str, ...]
    line: int


def read_any(
    path: Path, *, limits: Limits = _DEFAULT_LIMITS, name: str = "", elements: Collection[str] | None = None
) -> RequestSpec:
    """Return the request of an XML file, or of the XML file that a JDL file names; its content tells which it is.

    Raises RequestFileError, as `read_request` and `read_jdl` do.
    """
    start = _start(path, name or str(path))
    first = _FIRST.match(start)
    if first and first.group(1) not in b"<\0" and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return read_jdl(path, limits=limits, name=name, elements=elements)
    return read_request(path, limits=limits, name=name, elements=elements)


def read_jdl(
    path: Path, *, limits: Limits = _DEFAULT_LIMITS, name: str = "", elements: Collection[str] | None = None
) -> RequestSpec:
    """Return the request of the XML file that a JDL file names, which lies in the JDL's folder or below it.

    Raises RequestFileError if either file is refused or their types disagree.
    """
    shown_name = name or str(path)
    job = parse_jdl(_text(path, shown_name), shown_name)
    inner = _confined(path, job, shown_name)
    spec = read_request(inner, limits=limits, elements=elements)
    types = {operation.type for operation in spec.operations}
    if types != {job.request_type}:
        place = f"{shown_name}:{job.type_line}"
        found = f"RequestType {job.request_type!r} for {inner.name} with {one_of(types)}"
        raise refuse(place, found, "the type of the operations in that file", "correct the RequestType")
    return spec


def parse_jdl(text: str, name: str) -> JobDescription:
    """Return what a JDL text says, or raise RequestFileError with the line at fault."""
    values = _Parser(list(_tokens(text, name)), name).values()
    job_type = _single(values, "JobType", name)
    if job_type.items[0].lower() != "request":
        raise refuse(f"{name}:{job_type.line}", f"JobType {shown(job_type.items[0])}", '"request"')
    kind = _single(values, "RequestType", name)
    word = kind.items[0].lower()
    if word not in OPERATION_TYPES:
        hint = suggest(word, OPERATION_TYPES)
        found = f"unknown RequestType {shown(kind.items[0])}"
        raise refuse(f"{name}:{kind.line}", found, one_of(OPERATION_TYPES), hint)
    if "inputdata" in values and "requestfile" in values:
        raise refuse(f"{name}:{values['requestfile'].line}", "both InputData and RequestFile", "one of them")
    file = _single(values, "RequestFile" if "requestfile" in values else "InputData", name)
    return JobDescription(word, file.items[0], kind.line, file.line)


def _single(values: Mapping[str, _Value], attribute: str, name: str) -> _Value:
    value = values.get(attribute.lower())
    if value is None:
        missing = "RequestFile (or InputData)" if attribute == "InputData" else attribute
        raise refuse(f"{name}:1", f"a job description without {missing}", f'{attribute} = "…";')
    if len(value.items) != 1:
        raise refuse(f"{name}:{value.line}", f"{len(value.items)} values of {attribute}", "exactly one")
    return value


def _tokens(text: str, name: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            rest = text[position:].split("\n", 1)[0][:40]
            hint = "is a quote or a comment not closed?"
            raise refuse(f"{name}:{line}", shown(rest), "a name, a quoted string or one of [ ] { } = ; ,", hint)
        if match.lastgroup and match.lastgroup != "blank":
            yield _Token(match.lastgroup, match.group(), line)
        line += match.group().count("\n")
        position = match.end()
    yield _Token("end", "the end of the file", line)


class _Parser:
    """Reads `name = value;` one after the other, within brackets or without."""

    def __init__(self, tokens: list[_Token], name: str) -> None:
        self._tokens = tokens
        self._name = name
        self._at = 0

    def values(self) -> dict[str, _Value]:
        """Return the attributes by lower-case name, or raise RequestFileError."""
        bracket = self._accept("[")
        values: dict[str, _Value] = {}
        closing = "]" if bracket else "the end of the file"
        while self._peek().text != closing:
            self._assignment(values, closing)
        if bracket:
            self._take("]")
        if self._peek().kind != "end":
            raise self._wrong("the end of the file")
        return values

    def _assignment(self, values: dict[str, _Value], closing: str) -> None:
        token = self._next("word", "the name of an attribute")
        known = {attribute.lower() for attribute in _ATTRIBUTES}
        place = f"{self._name}:{token.line}"
        if token.text.lower() not in known:
            hint = suggest(token.text, _ATTRIBUTES)
            raise refuse(place, f"unknown attribute {shown(token.text)}", one_of(_ATTRIBUTES), hint)
        if token.text.lower() in values:
            raise refuse(place, f"attribute {token.text!r} twice", "each attribute once")
        self._take("=")
        values[token.text.lower()] = self._value(token.line)
        if self._peek().text != closing:
            self._take(";")

    def _value(self, line: int) -> _Value:
        if not self._accept("{"):
            return _Value((self._string(),), line)
        items: list[str] = []
        while not self._accept("}"):
            items.append(self._string())
            if self._peek().text != "}":
                self._take(",")
        return _Value(tuple(items), line)

    def _string(self) -> str:
        return re.sub(r"\\(.)", r"\1", self._next("string", "a quoted string").text[1:-1], flags=re.DOTALL)

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _accept(self, sign: str) -> bool:
        found = self._peek().kind == "sign" and self._peek().text == sign
        self._at += found
        return found

    def _take(self, sign: str) -> None:
        if not self._accept(sign):
            raise self._wrong(repr(sign))

    def _next(self, kind: str, expected: str) -> _Token:
        token = self._peek()
        if token.kind != kind:
            raise self._wrong(expected)
        self._at += 1
        return token

    def _wrong(self, expected: str) -> RequestFileError:
        token = self._peek()
        found = token.text if token.kind == "end" else shown(token.text)
        return refuse(f"{self._name}:{token.line}", found, expected)


def _confined(path: Path, job: JobDescription, name: str) -> Path:
    """Return the XML file's path once its links are followed, which must stay within the JDL's folder."""
    place = f"{name}:{job.file_line}"
    folder = path.parent.resolve()
    hint = "put the XML file into the folder of the JDL file"
    if "\0" in job.request_file or ".." in Path(job.request_file).parts:
        raise refuse(place, f"the file name {shown(job.request_file)}", "a name without '..'", hint)
    try:
        inner = (folder / job.request_file).resolve()
        exists = inner.is_file()
    except (OSError, RuntimeError) as error:
        raise refuse(place, f"the file name {shown(job.request_file)} ({error})", "an XML file", hint) from error
    if not inner.is_relative_to(folder):
        raise refuse(place, f"the file name {shown(job.request_file)}", f"a file below {folder}", hint)
    if not exists:
        raise refuse(place, f"the file name {shown(job.request_file)}", "an existing XML file", hint)
    return inner


def _start(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(4096)
    except OSError as error:
        hint = "check the name and its permissions"
        raise RequestFileError(f"{name}: cannot be read ({error.strerror or error})", hint) from error


def _text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise refuse(f"{name}:1", "a larger file", f"a job description of at most {_LARGEST} bytes")
        return raw.decode("utf-8-sig")
    except OSError as error:
        hint = "check the name and its permissions"
        raise RequestFileError(f"{name}: cannot be read ({error.strerror or error})", hint) from error
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise refuse(f"{name}:{line}", "bytes that are not UTF-8", "a request in XML or a job description") from error
