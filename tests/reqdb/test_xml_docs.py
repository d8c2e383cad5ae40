"""docs/request-files.md says everything that a request file may hold, and its examples work."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from lxml import etree

from dtscore.checksums import ALGORITHMS
from reqdb.jdl import parse_jdl
from reqdb.spec import OPERATION_TYPES
from reqdb.xml import Limits, schema_text
from reqdb.xml_checks import FILE_ATTRIBUTES, HEAD_ATTRIBUTES, OPERATION_ATTRIBUTES
from reqdb.xml_parameters import PARAMETERS
from tests.reqdb.documents import read, schema_accepts

_TEXT = (Path(__file__).parents[2] / "docs" / "request-files.md").read_text(encoding="utf-8")
_RNG = "{http://relaxng.org/ns/structure/1.0}"
_EXAMPLES = re.findall(r"```xml\n(.*?)```", _TEXT, re.DOTALL)


def _in_a_table(word: str) -> bool:
    return re.search(rf"^\|.*`{re.escape(word)}`", _TEXT, re.MULTILINE) is not None


def _schema_names(kind: str) -> set[str]:
    return {str(e.get("name")) for e in etree.fromstring(schema_text().encode()).iter(_RNG + kind) if e.get("name")}


def test_every_attribute_and_option_is_documented() -> None:
    """Each attribute, option, type, parameter, algorithm and limit stands in a table of the page."""
    options = {name for kind in OPERATION_TYPES.values() for name in kind.options}
    words = {*HEAD_ATTRIBUTES, *OPERATION_ATTRIBUTES, *FILE_ATTRIBUTES, *options, *OPERATION_TYPES, *PARAMETERS}
    words |= {*ALGORITHMS, *(limit.name for limit in fields(Limits))}
    assert sorted(word for word in words if not _in_a_table(word)) == []


def test_the_schema_has_the_same_attributes() -> None:
    """Schema and code know the same elements and attributes, and the page knows them all."""
    options = {name for kind in OPERATION_TYPES.values() for name in kind.options}
    ours = {*HEAD_ATTRIBUTES, *OPERATION_ATTRIBUTES, *FILE_ATTRIBUTES, *options, "value"}
    assert _schema_names("attribute") == ours
    assert all(f"<{name}>" in _TEXT for name in _schema_names("element"))


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_schema_knows_each_parameter(name: str) -> None:
    """Each parameter is in the schema, in any case."""
    for spelling in (name, name.lower(), name.upper()):
        document = f'<request type="verify"><parameter name="{spelling}" value="1"/></request>'
        assert schema_accepts(document.encode())


@pytest.mark.parametrize("example", _EXAMPLES)
def test_examples_work(example: str) -> None:
    """Each XML example of the page is a valid request."""
    assert read(example.encode()).operations
    assert schema_accepts(example.encode())


def test_the_job_description_works() -> None:
    """The example of a job description is one."""
    found = re.search(r"```\n(\[.*?\])\n```", _TEXT, re.DOTALL)
    assert found and parse_jdl(found.group(1), "t.jdl").request_file == "transfer.xml"
