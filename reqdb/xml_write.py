"""Requests written back as XML, exactly as they can be read again, with what DTS knows of their fate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO

from lxml import etree

from dtscore.errors import UsageError
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.xml_checks import ANNOTATION

_OURS = "{" + ANNOTATION + "}"
_ROOT_END = b"</request>\n"


@dataclass(frozen=True, slots=True)
class Annotations:
    """What DTS adds to a request that it hands back; names are XML names, values any text.

    `request` becomes attributes of the root; `files` has, by (index of the operation, LFN), one mapping for each
    target, written as <dts:result …/> elements within the file.
    """

    request: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[tuple[int, str], Sequence[Mapping[str, str]]] = field(default_factory=dict)


def write_request(spec: RequestSpec, stream: BinaryIO, annotations: Annotations | None = None) -> None:
    """Write the request as UTF-8 XML in the operation form; reading it gives an equal request.

    Raises UsageError for text that XML cannot hold, such as U+FFFE.
    """
    try:
        _write(spec, stream, annotations or Annotations())
    except ValueError as error:
        raise UsageError(f"request {spec.name!r} cannot be written as XML: {error}", "rename what it names") from error


def _write(spec: RequestSpec, stream: BinaryIO, notes: Annotations) -> None:
    namespaces = {"dts": ANNOTATION} if notes.request or notes.files else None
    with etree.xmlfile(stream, encoding="UTF-8") as file:
        file.write_declaration()
        with file.element("request", _request_attributes(spec, notes), nsmap=namespaces):
            file.write("\n")
            for index, operation in enumerate(spec.operations):
                _write_operation(file, index, operation, notes)
    stream.write(b"\n")


def _write_operation(file: Any, index: int, operation: OperationSpec, notes: Annotations) -> None:
    file.write("  ")
    with file.element("operation", _operation_attributes(operation)):
        file.write("\n")
        for one in operation.files:
            file.write("    ")
            results = notes.files.get((index, one.lfn), ()) if notes.files else ()
            _write_file(file, one, results)
            file.write("\n")
        file.write("  ")
    file.write("\n")


def _write_file(file: Any, one: FileSpec, results: Sequence[Mapping[str, str]]) -> None:
    if not results:
        file.write(etree.Element("file", _file_attributes(one)))
        return
    with file.element("file", _file_attributes(one)):
        for result in results:
            file.write("\n      ")
            with file.element(f"{_OURS}result", _texts(result)):
                pass
        file.write("\n    ")


def _request_attributes(spec: RequestSpec, notes: Annotations) -> dict[str, str]:
    own: dict[str, str | None] = {
        "name": spec.name,
        "owner": spec.owner,
        "priority": str(spec.priority),
        "not-before": _moment(spec.not_before),
        "deadline": _moment(spec.deadline),
        "queue": spec.queue,
    }
    known = {name: text for name, text in own.items() if text is not None}
    return known | {f"{_OURS}{name}": text for name, text in _texts(notes.request).items()}


def _operation_attributes(operation: OperationSpec) -> dict[str, str]:
    attributes = {"type": operation.type}
    if operation.source is not None:
        attributes["source"] = operation.source
    if operation.targets:
        attributes["target"] = " ".join(operation.targets)
    if operation.node is not None:
        attributes["node"] = operation.node
    return attributes | dict(operation.options)


def _file_attributes(one: FileSpec) -> dict[str, str]:
    attributes = {"lfn": one.lfn}
    if one.pfn is not None:
        attributes["pfn"] = one.pfn
    if one.size is not None:
        attributes["size"] = str(one.size)
    if one.checksum is not None:
        attributes["checksum"] = one.checksum
    return attributes


def _moment(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise UsageError(f"time {moment.isoformat()} has no zone", "use times in UTC")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _texts(values: Mapping[str, str]) -> dict[str, str]:
    """Return the values with what XML cannot hold (control characters in an error message) made visible."""
    return {name: "".join(_printable(text)) for name, text in values.items()}


def _printable(text: str) -> Iterator[str]:
    for character in text:
        code = ord(character)
        bad = (code < 0x20 and character not in "\t\n\r") or 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF)
        yield f"\\u{code:04x}" if bad else character
