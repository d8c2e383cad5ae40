"""Writing and reading agree with each other and with the schema, for any request."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from dtscore.errors import RequestFileError, UsageError
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.xml import ANNOTATION, Annotations, schema_text
from tests.reqdb.documents import KEY_VALUE, SIMPLE, read, requests, schema_accepts, written

_RESULT = {"target": "ncsa", "state": "Failed", "error": "disk\x00 full\nat <once> \ud800 & 'more'\ufffe"}


@settings(max_examples=200, deadline=None)
@given(requests())
def test_a_request_is_read_back_as_it_was_written(spec: RequestSpec) -> None:
    """Any valid request survives writing and reading, and a second writing gives the same bytes."""
    document = written(spec)
    again = read(document)
    assert again == spec
    assert again.digest() == spec.digest()
    assert written(again) == document


@settings(max_examples=100, deadline=None)
@given(requests(), st.booleans())
def test_annotations_are_ignored_on_reading(spec: RequestSpec, every: bool) -> None:
    """A request annotated by DTS, with whatever an error message holds, is read as if it were not."""
    keys = [(i, one.lfn) for i, operation in enumerate(spec.operations) for one in operation.files]
    notes = Annotations({"id": "7", "state": "Failed"}, {key: [_RESULT, {}] for key in keys if every or key[0] == 0})
    document = written(spec, notes)
    assert read(document) == spec
    assert schema_accepts(document)


@settings(max_examples=150, deadline=None)
@given(requests())
def test_the_schema_accepts_what_the_reader_accepts(spec: RequestSpec) -> None:
    """Every request that the reader takes is valid by the shipped schema, seen by lxml as a whole tree."""
    assert schema_accepts(written(spec))


_NAMES = ("request", "operation", "file", "parameter", "{urn:dts:annotation}result", "other", "{urn:x}file")
_ATTRIBUTES = ("lfn", "pfn", "size", "type", "source", "target", "node", "everywhere", "overwrite", "priority", "value",
               "name", "{urn:dts:annotation}id", "{urn:x}lfn", "other", "deadline")  # fmt: skip
_VALUES = ("/a", "a", "1", "yes", "no", "transfer", "remove", "verify", "", " yes ", "LFN", "targetSE", "x y", "\u00a0",
           "/\n", "2026-11-20T10:00:00Z", "-1", "adler32:0")  # fmt: skip


def _mutate(root: etree._Element, seed: int) -> None:
    """Change one to three things of the tree's structure."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        element = chance.choice(list(root.iter()))
        parent = element.getparent()
        kind = chance.randrange(6)
        if kind == 0 and parent is not None:
            parent.remove(element)
        elif kind == 1:
            etree.SubElement(element, chance.choice(_NAMES))
        elif kind == 2 and element.attrib:
            del element.attrib[chance.choice(list(element.attrib))]
        elif kind == 3:
            element.set(chance.choice(_ATTRIBUTES), chance.choice(_VALUES))
        elif kind == 4:
            element.tag = chance.choice(_NAMES)
        else:
            element.text = chance.choice(("", "  \n", "text"))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([SIMPLE, KEY_VALUE]), st.integers(0, 2**32))
def test_reader_and_schema_agree_on_mutated_documents(document: bytes, seed: int) -> None:
    """Of documents with a changed structure, the reader never takes one that the schema refuses."""
    root = etree.fromstring(document)
    _mutate(root, seed)
    changed = etree.tostring(root)
    try:
        spec = read(changed)
    except RequestFileError as error:
        assert error.message.startswith("t.xml:")
    else:
        assert schema_accepts(changed), changed
        assert read(written(spec)) == spec


_INVALID = {
    "root": b"<requests/>",
    "empty": b"<request/>",
    "empty operation": b'<request><operation type="verify"/></request>',
    "no type": b'<request><operation><file lfn="/a"/></operation></request>',
    "unknown type": b'<request><operation type="move"><file lfn="/a"/></operation></request>',
    "no target": b'<request><operation type="transfer"><file lfn="/a"/></operation></request>',
    "source refused": b'<request><operation type="verify" source="a"><file lfn="/a"/></operation></request>',
    "foreign option": b'<request><operation type="verify" overwrite="yes"><file lfn="/a"/></operation></request>',
    "no lfn": b'<request><operation type="verify"><file pfn="a"/></operation></request>',
    "relative lfn": b'<request><operation type="verify"><file lfn="a"/></operation></request>',
    "bad size": b'<request><operation type="verify"><file lfn="/a" size="-1"/></operation></request>',
    "build": b'<request><operation type="build" target="a" node="n"><file lfn="/a"/></operation></request>',
    "file in file": b'<request><operation type="verify"><file lfn="/a"><file lfn="/b"/></file></operation></request>',
    "file in request": b'<request><file lfn="/a"/></request>',
    "text": b'<request>now<operation type="verify"><file lfn="/a"/></operation></request>',
    "unknown attribute": b'<request colour="red"><operation type="verify"><file lfn="/a"/></operation></request>',
    "other namespace": b'<request xmlns="urn:x"><operation type="verify"><file lfn="/a"/></operation></request>',
    "priority": b'<request priority="10"><operation type="verify"><file lfn="/a"/></operation></request>',
    "no zone": b'<request deadline="2026-11-20T10"><operation type="verify"><file lfn="/a"/></operation></request>',
    "mixed forms": b'<request type="verify"><operation type="verify"><file lfn="/a"/></operation></request>',
    "mixed forms back": b'<request><parameter name="LFN" value="/a"/></request>',
    "unknown parameter": b'<request type="verify"><parameter name="LFM" value="/a"/></request>',
    "no value": b'<request type="verify"><parameter name="LFN"/></request>',
    "no parameter": b'<request type="verify"/>',
    "annotation root": b'<request xmlns="urn:dts:annotation"/>',
}


@pytest.mark.parametrize("case", _INVALID)
def test_reader_and_schema_both_refuse(case: str) -> None:
    """A document of a wrong structure is refused by the reader and by the schema."""
    assert not schema_accepts(_INVALID[case])
    with pytest.raises(RequestFileError):
        read(_INVALID[case])


def test_the_schema_is_the_shipped_file() -> None:
    """`schema_text()` gives a RELAX NG grammar that knows our annotation namespace."""
    root = etree.fromstring(schema_text().encode())
    assert root.tag == "{http://relaxng.org/ns/structure/1.0}grammar"
    assert ANNOTATION in schema_text()


def test_what_xml_cannot_hold_is_refused_in_writing() -> None:
    """A name with U+FFFE, which no XML file can hold, gives an error of ours."""
    spec = RequestSpec((OperationSpec("verify", (FileSpec("/a\ufffe"),)),))
    with pytest.raises(UsageError, match="cannot be written"):
        written(spec)
