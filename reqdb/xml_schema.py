"""The shipped RELAX NG schema, and its use on a file of any length: in small documents, one for each new shape."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from lxml import etree

from reqdb.xml_values import refuse


def schema_text() -> str:
    """Return the RELAX NG schema of request files."""
    return files("reqdb").joinpath("request.rng").read_text(encoding="utf-8")


@cache
def relaxng() -> etree.RelaxNG:
    """Return the compiled schema."""
    return etree.RelaxNG(etree.fromstring(schema_text().encode()))


class SchemaCheck:
    """Validates the structure of a request while it streams by.

    Whether a <file> is valid depends on nothing but itself and its operation. So each operation with its first file,
    and each file that has another set of attributes than those before it, is validated within copies of its own
    <operation> and <request>; the values of the others are checked by the reader, which is stricter than the schema.
    """

    def __init__(self, name: str) -> None:
        """Keep the name of the request file for errors."""
        self._name = name
        self._request: dict[str, str] = {}
        self._operation: dict[str, str] = {}
        self._shapes: set[tuple[str, ...]] = set()

    def request(self, attributes: Mapping[str, str]) -> None:
        """Take the root."""
        self._request = dict(attributes)

    def operation(self, attributes: Mapping[str, str]) -> None:
        """Take the start of an operation."""
        self._operation = dict(attributes)
        self._shapes.clear()

    def file(self, attributes: Mapping[str, str], line: int) -> None:
        """Validate a file that has other attributes than those before it, or raise RequestFileError."""
        shape = tuple(attributes)
        if shape in self._shapes:
            return
        self._shapes.add(shape)
        root = etree.Element("request", self._request)
        operation = etree.SubElement(root, "operation", self._operation)
        etree.SubElement(operation, "file", dict(attributes))
        self._validate(root, line)

    def parameter(self, attributes: Mapping[str, str], line: int) -> None:
        """Validate one parameter of the key/value form, or raise RequestFileError."""
        root = etree.Element("request", self._request)
        etree.SubElement(root, "parameter", dict(attributes))
        self._validate(root, line)

    def _validate(self, root: etree._Element, line: int) -> None:
        schema = relaxng()
        if not schema.validate(root):
            reason = schema.error_log[-1].message if len(schema.error_log) else "no reason given"
            hint = "`dts-request schema` prints the schema"
            raise refuse(f"{self._name}:{line}", f"what the schema refuses ({reason})", "a valid request", hint)
