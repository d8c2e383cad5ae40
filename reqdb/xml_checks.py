"""What the two forms of request files have in common: checks of requests, operations and files, with their places."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from dtscore.errors import NameRefusedError, RequestFileError
from dtscore.names import check_element_name, check_lfn, check_pfn
from dtscore.queueing import Handover, parse_target
from reqdb.spec import (
    BUILD,
    BUILD_NUMBERS,
    DEFAULT_PRIORITY,
    FORWARD,
    OPERATION_TYPES,
    REMOVE,
    TRANSFER,
    FileSpec,
    OperationSpec,
    OperationType,
)
from reqdb.xml_values import (
    BLANKS,
    check_algorithm_name,
    check_checksum,
    check_element,
    check_moment,
    check_priority,
    check_size,
    check_words,
    one_of,
    refuse,
    shown,
    suggest,
)

ANNOTATION = "urn:dts:annotation"
"""The namespace of what DTS writes into a finished request; ignored on reading."""

HEAD_ATTRIBUTES = ("name", "owner", "priority", "not-before", "deadline", "queue")
OPERATION_ATTRIBUTES = ("type", "source", "target", "node")
FILE_ATTRIBUTES = ("lfn", "pfn", "size", "checksum")
_OURS = "{" + ANNOTATION + "}"
_BLANK_RUN = re.compile(f"[{BLANKS}]+")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}\Z")


class Head(TypedDict, total=False):
    """What a request says about itself, as RequestSpec's arguments."""

    name: str | None
    owner: str | None
    priority: int
    not_before: datetime | None
    deadline: datetime | None
    queue: str | None


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of one element (or of all parameters), and where each of them stands."""

    file: str
    line: int
    values: Mapping[str, str]
    lines: Mapping[str, int]

    def place(self, name: str = "") -> str:
        """Return FILE:LINE of the attribute."""
        return f"{self.file}:{self.lines.get(name, self.line)}"

    def get(self, name: str) -> str | None:
        """Return the attribute's value as written, None if absent."""
        return self.values.get(name)


def check_known(place: str, element: str, values: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse an attribute that the element does not have; annotations of DTS are let by."""
    for name in values:
        if name not in known and not name.startswith(_OURS):
            hint = suggest(name, known)
            raise refuse(place, f"unknown attribute {shown(name)} of <{element}>", one_of(known), hint)


def check_head(attributes: Attributes) -> Head:
    """Return what the request says about itself, or raise RequestFileError."""
    head: Head = {"priority": DEFAULT_PRIORITY}
    if (text := attributes.get("name")) is not None:
        head["name"] = check_words(attributes.place("name"), "name", text)
    if (text := attributes.get("owner")) is not None:
        head["owner"] = check_words(attributes.place("owner"), "owner", text)
    if (text := attributes.get("priority")) is not None:
        head["priority"] = check_priority(attributes.place("priority"), "priority", text)
    if (text := attributes.get("not-before")) is not None:
        head["not_before"] = check_moment(attributes.place("not-before"), "not-before", text)
    if (text := attributes.get("deadline")) is not None:
        head["deadline"] = check_moment(attributes.place("deadline"), "deadline", text)
    if (text := attributes.get("queue")) is not None:
        head["queue"] = _check_name(attributes.place("queue"), "queue", text, "the name of a queue")
    _check_order(attributes, head)
    return head


def _check_name(place: str, what: str, text: str, expected: str) -> str:
    try:
        return check_element_name(text)
    except NameRefusedError as error:
        raise refuse(place, f"{what}={shown(text)}", expected, error.hint) from error


def _check_order(attributes: Attributes, head: Head) -> None:
    start, end = head.get("not_before"), head.get("deadline")
    if start and end and end <= start:
        found = f"deadline={attributes.values['deadline']!r}"
        raise refuse(attributes.place("deadline"), found, f"a time after not-before ({start.isoformat()})")


def check_type(attributes: Attributes) -> OperationType:
    """Return the kind of operation, or raise RequestFileError that suggests the nearest."""
    text = attributes.get("type")
    if text is None:
        raise refuse(attributes.place(), "<operation> without type", f"type= one of {one_of(OPERATION_TYPES)}")
    if text not in OPERATION_TYPES:
        found = f"unknown operation type {shown(text)}"
        raise refuse(attributes.place("type"), found, one_of(OPERATION_TYPES), suggest(text, OPERATION_TYPES))
    return OPERATION_TYPES[text]


def check_operation(attributes: Attributes, elements: Collection[str] | None) -> OperationSpec:
    """Return the operation without its files, or raise RequestFileError."""
    kind = check_type(attributes)
    _check_presence(attributes, kind)
    _check_build(attributes, kind)
    check_known(attributes.place(), "operation", attributes.values, (*OPERATION_ATTRIBUTES, *kind.options))
    source = attributes.get("source")
    if source is not None:
        check_element(attributes.place("source"), "source", source, elements)
    targets = _targets(attributes, kind, elements)
    if source in targets:
        raise refuse(attributes.place("target"), f"target={source!r}, which is the source", "another storage element")
    node = attributes.get("node")
    if node is not None:
        check_words(attributes.place("node"), "node", node)
    operation = OperationSpec(kind.name, (), source, targets, node, _options(attributes, kind), attributes.line)
    _check_reach(attributes, operation)
    return operation


def _check_presence(attributes: Attributes, kind: OperationType) -> None:
    for name, rule in (("source", kind.source), ("target", kind.target)):
        given = attributes.get(name) is not None
        if given and rule == "refused":
            hint = f"name the storage element with target= if {kind.name} needs one"
            raise refuse(attributes.place(name), f"{name}= on type={kind.name!r}", f"no {name}", hint)
        if not given and rule == "required":
            raise refuse(attributes.place(), f"type={kind.name!r} without {name}", f"{name}= with a storage element")


def _check_build(attributes: Attributes, kind: OperationType) -> None:
    """Refuse the building of an exposure that does not say in whole numbers of which, and on which node."""
    if kind.name != BUILD:
        return
    hint = "exposures are built by themselves when the camera has sent them; such operations are not written by hand"
    for name in (*BUILD_NUMBERS, "node"):
        text = attributes.get(name)
        if text is None:
            raise refuse(attributes.place(), f"type='build' without {name}", f"{name}=", hint)
        if name != "node" and not _NUMBER.match(text):
            raise refuse(attributes.place(name), f"{name}={shown(text)}", "a whole number from 1 on")


def _targets(attributes: Attributes, kind: OperationType, elements: Collection[str] | None) -> tuple[str, ...]:
    text = attributes.get("target")
    if text is None:
        return ()
    place = attributes.place("target")
    targets = tuple(_BLANK_RUN.split(text.strip(BLANKS)))
    for index, target in enumerate(targets):
        if kind.name == FORWARD:
            _check_handover(place, target)
        else:
            check_element(place, "target", target, elements)
        if target in targets[:index]:
            raise refuse(place, f"target {target!r} twice", "each target once")
    return targets


def _check_handover(place: str, target: str) -> None:
    expected, hint = "a queue, REMOTE:QUEUE or :QUEUE", ""
    try:
        if isinstance(parse_target(target), Handover):
            return
    except NameRefusedError as error:
        hint = error.hint
    raise refuse(place, f"target={shown(target)}", expected, hint)


def _options(attributes: Attributes, kind: OperationType) -> tuple[tuple[str, str], ...]:
    options = []
    for name, text in attributes.values.items():
        if name not in kind.options:
            continue
        words = kind.options[name]
        if words and text not in words:
            raise refuse(attributes.place(name), f"{name}={shown(text)}", " or ".join(words))
        options.append((name, _option(attributes.place(name), name, text)))
    return tuple(options)


def _option(place: str, name: str, text: str) -> str:
    """Return the value of an option, or raise RequestFileError."""
    if name == "checksum":
        return check_algorithm_name(place, name, text)
    if name == "delivery":
        return _check_name(place, name, text, "the name of a delivery")
    if name == "folder":
        try:
            return check_pfn(text)
        except NameRefusedError as error:
            raise refuse(place, f"folder={shown(text)}", "a folder below the delivery's own", error.hint) from error
    if name == "unmodified-since":
        check_moment(place, name, text)
    return text


def _check_reach(attributes: Attributes, operation: OperationSpec) -> None:
    """Refuse a removal that does not say from where, or says it twice."""
    if operation.type != REMOVE:
        return
    everywhere = operation.option("everywhere") == "yes"
    if everywhere == bool(operation.targets):
        found = 'both target and everywhere="yes"' if everywhere else "type='remove' without target"
        hint = "everywhere removes all replicas and the catalog entry"
        raise refuse(attributes.place("everywhere"), found, 'either target= or everywhere="yes"', hint)


class FileList:
    """The files of one operation so far, each LFN once."""

    def __init__(self, name: str, operation: OperationSpec) -> None:
        """Keep the name of the request file and the operation whose files these are."""
        self._name = name
        self._operation = operation
        self._lines: dict[str, int] = {}
        self.files: list[FileSpec] = []
        if operation.type in (TRANSFER, FORWARD):
            self._root, self._pfn_allowed = "source", operation.source is not None
        else:
            self._root, self._pfn_allowed = "target", bool(operation.targets)

    def add(self, values: Mapping[str, str], line: int, where: str = "") -> None:
        """Check and keep one file (its attributes), or raise RequestFileError; `where` adds to the place."""
        place = f"{self._name}:{line}{where}"
        lfn = values.get("lfn")
        if lfn is None:
            raise refuse(place, "<file> without lfn", "lfn= with a logical file name")
        pfn, size, checksum = values.get("pfn"), values.get("size"), values.get("checksum")
        _check_names(place, lfn, pfn)
        if pfn is not None and not self._pfn_allowed:
            hint = f"add {self._root}= to the operation, or leave pfn out"
            raise refuse(place, f"pfn={shown(pfn)} without {self._root}", f"a {self._root} it is relative to", hint)
        first = self._lines.setdefault(lfn, line)
        if len(self._lines) == len(self.files):
            other = f"first on line {first}"
            raise refuse(place, f"lfn={shown(lfn)} twice in one operation ({other})", "each LFN once")
        self.files.append(
            FileSpec(
                lfn,
                pfn,
                None if size is None else check_size(place, size),
                None if checksum is None else check_checksum(place, checksum),
                line,
            )
        )

    def close(self) -> Sequence[FileSpec]:
        """Return the files, at least one, or raise RequestFileError."""
        if not self.files:
            place = f"{self._name}:{self._operation.line}"
            raise refuse(place, f"an operation {self._operation.type!r} without files", "at least one <file>")
        return self.files


def _check_names(place: str, lfn: str, pfn: str | None) -> None:
    expected = "a logical file name"
    try:
        check_lfn(lfn)
        expected = "a physical file name"
        if pfn is not None:
            check_pfn(pfn)
    except NameRefusedError as error:
        message = f"{place}: found a bad name ({error.message}), expected {expected}"
        raise RequestFileError(message, error.hint) from error
