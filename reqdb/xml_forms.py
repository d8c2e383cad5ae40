"""The state machine of a streamed request file: both forms, one element at a time, nothing kept but the result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from reqdb.spec import OPERATION_TYPES, OperationSpec, RequestSpec
from reqdb.xml_checks import (
    ANNOTATION,
    FILE_ATTRIBUTES,
    HEAD_ATTRIBUTES,
    Attributes,
    FileList,
    check_head,
    check_known,
    check_operation,
)
from reqdb.xml_parameters import Parameters
from reqdb.xml_schema import SchemaCheck
from reqdb.xml_values import BLANKS, Limits, one_of, refuse, shown, suggest

_OURS = "{" + ANNOTATION + "}"
_FILE_ATTRIBUTES = frozenset(FILE_ATTRIBUTES)


class RequestTarget:
    """Takes the parser's events; `spec()` gives the request once the document has ended."""

    def __init__(self, name: str, limits: Limits, elements: Collection[str] | None) -> None:
        """Keep the file's name, the limits and the storage elements that exist (None: not known)."""
        self.line = 1
        self.events = 0
        self._name = name
        self._limits = limits
        self._elements = elements
        self._schema = SchemaCheck(name)
        self._depth = 0
        self._skipped_from = 0
        self._mark = 1
        self._files_seen = 0
        self._elements_seen = 0
        self._head: Attributes | None = None
        self._parameters: Parameters | None = None
        self._operation: OperationSpec | None = None
        self._files: FileList | None = None
        self._operations: list[OperationSpec] = []

    def spec(self) -> RequestSpec:
        """Return the request, or raise RequestFileError if it holds nothing."""
        if self._head is None:
            raise refuse(f"{self._name}:1", "no element", "a <request> element")
        head, operations = self._head, tuple(self._operations)
        if self._parameters is not None:
            head = self._parameters.head()
            operations = (self._parameters.operation(self._elements, self._limits),)
        if not operations:
            raise refuse(head.place(), "a request without operations", "at least one <operation>")
        return RequestSpec(operations, **check_head(head))

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Take the start of an element."""
        line = min(self.line, self._mark)
        self._count(line)
        self._depth += 1
        if self._depth > self._limits.max_depth:
            raise self._refuse(line, f"elements nested {self._depth} deep", f"at most {self._limits.max_depth}")
        if self._skipped_from:
            return
        if self._depth > 1 and tag.startswith(_OURS):
            self._skipped_from = self._depth
            return
        self._check_lengths(line, attributes)
        if self._files is not None and self._depth == 3 and tag == "file":
            self._file(attributes, line)
        else:
            self._container(tag, attributes, line)

    def end(self, tag: str) -> None:
        """Take the end of an element."""
        self.events += 1
        self._mark = self.line
        if self._skipped_from == self._depth:
            self._skipped_from = 0
        elif self._depth == 2 and self._operation is not None and self._files is not None:
            self._operations.append(replace(self._operation, files=tuple(self._files.close())))
            self._operation = self._files = None
        self._depth -= 1

    def data(self, text: str) -> None:
        """Take text: white space, or what is in an annotation."""
        self.events += 1
        rest = text.lstrip(BLANKS)
        if rest and not self._skipped_from:
            line = min(self.line, self._mark + text.count("\n", 0, len(text) - len(rest)))
            raise self._refuse(line, f"text {shown(rest.strip())}", "elements only", "values belong into attributes")
        self._mark += text.count("\n")

    def comment(self, text: str) -> None:
        """Take a comment, which says nothing to us."""
        self._count(self.line)

    def pi(self, target: str, data: str | None = None) -> None:
        """Refuse a processing instruction."""
        raise self._refuse(min(self.line, self._mark), f"a processing instruction <?{target}?>", "elements only")

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuse a document type, and with it every entity."""
        found = f"<!DOCTYPE {shown(str(name))}>"
        hint = "take the DOCTYPE out: request files have no DTD and no entities of their own"
        raise self._refuse(self.line, found, "a request without a document type", hint)

    def close(self) -> None:
        """Take the end of the document."""

    def _refuse(self, line: int, found: str, expected: str, hint: str = "") -> Exception:
        return refuse(f"{self._name}:{line}", found, expected, hint)

    def _count(self, line: int) -> None:
        """Count an element or comment that ends here; what follows begins on this line."""
        self.events += 1
        self._mark = self.line
        self._elements_seen += 1
        if self._elements_seen > self._limits.max_elements:
            raise self._refuse(line, "more elements", f"at most {self._limits.max_elements}", "split the request")

    def _check_lengths(self, line: int, attributes: Mapping[str, str]) -> None:
        most = self._limits.max_attribute_bytes
        if 4 * len("".join(attributes.values())) + 4 * len("".join(attributes)) <= most:
            return
        for name, text in attributes.items():
            if 4 * max(len(text), len(name)) > most and len(text.encode()) + len(name.encode()) > most:
                hint = "use the form with <file> elements for long lists"
                raise self._refuse(line, f"a very long attribute {shown(name)}", f"at most {most} bytes", hint)

    def _container(self, tag: str, attributes: Mapping[str, str], line: int) -> None:
        """Take an element other than <file>, each of them in its only place."""
        if self._depth == 1 and tag == "request":
            self._request(attributes, line)
        elif self._depth == 2 and tag == "operation" and self._parameters is None:
            self._start_operation(attributes, line)
        elif self._depth == 2 and tag == "parameter" and self._parameters is not None:
            self._parameters.add(attributes, line)
            self._schema.parameter(attributes, line)
        else:
            raise self._misplaced(tag, line)

    def _misplaced(self, tag: str, line: int) -> Exception:
        expected = {1: "request", 2: "operation" if self._parameters is None else "parameter"}.get(self._depth, "file")
        hint = suggest(tag, [expected]) if tag != expected else ""
        if tag == "parameter" and self._depth == 2:
            hint = 'the key/value form begins with <request type="transfer">'
        if self._depth > 3 or (self._depth == 3 and self._operation is None):
            return self._refuse(line, f"element <{tag[:80]}>", "no element here")
        return self._refuse(line, f"element <{tag[:80]}>", f"<{expected}>", hint)

    def _request(self, attributes: Mapping[str, str], line: int) -> None:
        self._head = Attributes(self._name, line, dict(attributes), {})
        known = (*HEAD_ATTRIBUTES, "type")
        check_known(self._head.place(), "request", attributes, known)
        kind = attributes.get("type")
        if kind is not None:
            if kind not in OPERATION_TYPES:
                hint = suggest(kind, OPERATION_TYPES)
                raise self._refuse(line, f"unknown request type {shown(kind)}", one_of(OPERATION_TYPES), hint)
            self._parameters = Parameters(self._head)
        check_head(self._head)
        self._schema.request(attributes)

    def _start_operation(self, attributes: Mapping[str, str], line: int) -> None:
        kept = {name: text for name, text in attributes.items() if not name.startswith(_OURS)}
        self._operation = check_operation(Attributes(self._name, line, kept, {}), self._elements)
        self._files = FileList(self._name, self._operation)
        self._schema.operation(attributes)

    def _file(self, attributes: Mapping[str, str], line: int) -> None:
        if not _FILE_ATTRIBUTES.issuperset(attributes):
            check_known(f"{self._name}:{line}", "file", attributes, FILE_ATTRIBUTES)
        self._files_seen += 1
        if self._files_seen > self._limits.max_files:
            raise self._refuse(line, "more files", f"at most {self._limits.max_files}", "split the request")
        if self._files is not None:
            self._files.add(attributes, line)
        self._schema.file(attributes, line)
