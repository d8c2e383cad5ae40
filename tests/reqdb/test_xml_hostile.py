"""Hostile and broken request files: each gives one error, soon, and without eating the memory."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dtscore.errors import RequestFileError
from reqdb.xml import Limits
from tests.reqdb.documents import KEY_VALUE, SIMPLE, read, written

_LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 12))
_FILE = b'<file lfn="/a"/>'


def _within(content: bytes) -> bytes:
    return b'<request>\n<operation type="verify">' + content + b"</operation></request>"


HOSTILE: dict[str, bytes] = {
    "billion laughs": b'<!DOCTYPE r [<!ENTITY l0 "ha">' + _LAUGHS + b"]><request>&l11;</request>",
    "external entity": b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><request name="x">&x;</request>',
    "parameter entity": b'<!DOCTYPE r [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd">%p;]><request/>',
    "doctype": b'<!DOCTYPE request SYSTEM "request.dtd">\n' + SIMPLE,
    "doctype html": b"<!DOCTYPE html>\n<html></html>",
    "undeclared entity": _within(b'<file lfn="/&nbsp;"/>'),
    "deep nesting": b"<request>" * 100_000,
    "deep annotation": _within(b'<n:a xmlns:n="urn:dts:annotation">' + b"<n:a>" * 50_000),
    "giant attribute": _within(b'<file lfn="/' + b"a" * 9_000_000 + b'"/>'),
    "gigantic attribute": _within(b'<file lfn="/' + b"a" * 30_000_000 + b'"/>'),
    "giant attribute name": _within(b"<file " + b"a" * 5_000_000 + b'="1"/>'),
    "giant element name": _within(b"<" + b"a" * 5_000_000 + b"/>"),
    "giant text": _within(b"a" * 30_000_000),
    "giant comment": _within(b"<!--" + b"a" * 30_000_000),
    "giant comment of lines": _within(b"<!--" + b">\n" * 10_000_000),
    "giant tag of lines": _within(b'<file lfn="/' + b">\n" * 5_000_000),
    "giant CDATA": _within(b"<![CDATA[" + b"a" * 30_000_000),
    "many attributes": _within(b"<file " + b" ".join(b'a%d="1"' % n for n in range(200_000)) + b"/>"),
    "the same attribute": _within(b'<file lfn="/a" lfn="/b"/>'),
    "many namespaces": _within(b"<file " + b" ".join(b'xmlns:a%d="urn:%d"' % (n, n) for n in range(50_000)) + b"/>"),
    "NUL": SIMPLE.replace(b"night-42", b"night\x0042"),
    "NUL reference": SIMPLE.replace(b"night-42", b"night&#0;42"),
    "control character": SIMPLE.replace(b"night-42", b"night\x0142"),
    "newline in a name": SIMPLE.replace(b"night-42", b"night&#10;42"),
    "NULs only": b"\0" * 100_000,
    "empty": b"",
    "blank": b" \n\n ",
    "only a mark": b"\xef\xbb\xbf",
    "only a wide mark": b"\xff\xfe",
    "only a declaration": b'<?xml version="1.0"?>',
    "binary": bytes(range(256)) * 100,
    "gzip": b"\x1f\x8b\x08\x00" + b"\x93\x11\xfe" * 1000,
    "not XML": b"LFN = /a\n",
    "FITS": b"SIMPLE  =                    T",
    "wrong root": b"<requests/>",
    "root of another namespace": SIMPLE.replace(b"<request ", b'<request xmlns="urn:other" '),
    "prefixed root": SIMPLE.replace(b"<request ", b'<x:request xmlns:x="urn:x" ').replace(b"</request", b"</x:request"),
    "attribute of a namespace": _within(b'<file xmlns:x="urn:x" x:lfn="/a"/>'),
    "unbound element prefix": _within(b'<x:file lfn="/a"/>'),
    "unbound prefix": _within(b'<file x:lfn="/a"/>'),
    "annotation as root": b'<request xmlns="urn:dts:annotation"/>',
    "annotation as file": _within(b'<file xmlns="urn:dts:annotation" lfn="/a"/>'),
    "file in an annotation": _within(b'<n:r xmlns:n="urn:dts:annotation"><file lfn="/a"/></n:r>'),
    "processing instruction": b'<?xml-stylesheet href="http://127.0.0.1:9/x.xsl"?>' + SIMPLE,
    "php": _within(b"<?php echo 1 ?>"),
    "XInclude": _within(b'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/etc/passwd" parse="text"/>'),
    "second root": SIMPLE + SIMPLE,
    "text after the root": SIMPLE + b"more",
    "unknown encoding": b'<?xml version="1.0" encoding="EBCDIC-42"?>' + SIMPLE,
    "UTF-16 that is not": b'<?xml version="1.0" encoding="UTF-16"?>' + SIMPLE,
    "Latin-1 that says UTF-8": SIMPLE.replace(b"night-42", b"n\xe4chte"),
    "overlong UTF-8": SIMPLE.replace(b"night-42", b"n\xc0\xafight"),
    "surrogate in UTF-8": SIMPLE.replace(b"night-42", b"n\xed\xa0\x80ight"),
    "half a UTF-16 file": ("\ufeff" + SIMPLE.decode()).encode("utf-16-le")[:-1],
    "lone surrogate": ("\ufeff" + SIMPLE.decode()).encode("utf-16-le").replace(b"n\0i\0", b"\0\xd8i\0"),
    "UTF-8 mark, Latin-1 declared": b'\xef\xbb\xbf<?xml version="1.0" encoding="ISO-8859-1"?>' + SIMPLE,
    "UTF-32": SIMPLE.decode().encode("utf-32"),
    "XML 2.7": b'<?xml version="2.7"?>' + b"<request/>",
    "5,000-byte name": _within(b'<file lfn="/' + b"a/" * 2500 + b'b"/>'),
    "dots": _within(b'<file lfn="/a/../b"/>'),
    "huge number": _within(b'<file lfn="/a" size="' + b"9" * 5000 + b'"/>'),
    "other digits": _within('<file lfn="/a" size="٣"/>'.encode()),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_one_error_in_two_seconds(case: str) -> None:
    """A hostile file is refused with one printable line that names file, line, found and expected, within 2 s."""
    start = time.monotonic()
    with pytest.raises(RequestFileError, match=r"\At\.xml:\d+: found .*expected ") as caught:
        read(HOSTILE[case])
    assert time.monotonic() - start < 2
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("case", HOSTILE)
def test_bounded_memory(case: str) -> None:
    """A hostile file costs Python less than 30 MB beside its own bytes (what libxml2 holds is capped alike)."""
    tracemalloc.start()
    try:
        with pytest.raises(RequestFileError):
            read(HOSTILE[case])
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def test_no_local_file_leaks(tmp_path: Path) -> None:
    """An external entity brings nothing of the local file into the error."""
    (tmp_path / "secret").write_text("THE-SECRET")
    document = f'<!DOCTYPE r [<!ENTITY x SYSTEM "{tmp_path}/secret">]><request name="x">&x;</request>'
    with pytest.raises(RequestFileError, match="DOCTYPE") as caught:
        read(document.encode())
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize("document", [SIMPLE.rstrip(), KEY_VALUE.rstrip()], ids=["operations", "key/value"])
def test_truncated_at_every_byte(document: bytes) -> None:
    """A file cut at any byte is refused with a line within it, never taken in part."""
    lines = document.count(b"\n") + 1
    for length in range(len(document)):
        with pytest.raises(RequestFileError) as caught:
            read(document[:length])
        assert 1 <= int(caught.value.message.split(":")[1]) <= lines


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_bytes=100), "at most 100 bytes"),
        (Limits(max_files=1), "at most 1"),
        (Limits(max_depth=2), "at most 2"),
        (Limits(max_elements=3), "at most 3"),
        (Limits(max_attribute_bytes=10), "at most 10 bytes"),
    ],
)
def test_limits(limits: Limits, words: str) -> None:
    """Each limit refuses a file that goes beyond it, and names the limit."""
    with pytest.raises(RequestFileError, match=words):
        read(SIMPLE, limits=limits)


@pytest.mark.parametrize("limits", [Limits(max_markup_bytes=20), Limits(max_markup_lines=10)])
def test_limits_of_markup(limits: Limits) -> None:
    """A comment that does not end is refused once it is too long or runs over too many lines."""
    with pytest.raises(RequestFileError, match="longer tag or comment"):
        read(b"<!--" + b">\n" * 20, limits=limits)


def test_limit_of_lists() -> None:
    """The limit of files holds in the key/value form too."""
    with pytest.raises(RequestFileError, match=r"t\.xml:4: .*at most 1"):
        read(KEY_VALUE, limits=Limits(max_files=1))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([SIMPLE, KEY_VALUE]), st.data())
def test_mutated_bytes(document: bytes, data: st.DataObject) -> None:
    """Bytes changed, inserted or cut out give either a whole request or one error of ours, nothing else."""
    changed = bytearray(document)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=4))
    try:
        spec = read(bytes(changed))
    except RequestFileError as error:
        assert error.message.startswith("t.xml:")
    else:
        assert read(written(spec)) == spec


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"\xfe\xff")
@example(b"<?xml")
def test_any_bytes(document: bytes) -> None:
    """Arbitrary bytes are no request."""
    with pytest.raises(RequestFileError):
        read(document)
