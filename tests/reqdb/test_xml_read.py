"""Reading request files: both forms, every check with its line and hint, encodings."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from xml.parsers import expat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtscore.errors import RequestFileError
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.xml import read_request
from tests.reqdb.documents import KEY_VALUE, SIMPLE, read

A, B = "/des/raw/a.fits", "/des/raw/b.fits"


def _operation(attributes: str, files: str = '<file lfn="/a"/>') -> bytes:
    return f"<request>\n<operation {attributes}>\n{files}\n</operation>\n</request>".encode()


def _parameters(*pairs: tuple[str, str], kind: str = "transfer") -> bytes:
    lines = "\n".join(f'<parameter name="{name}" value="{value}"/>' for name, value in pairs)
    return f'<request type="{kind}">\n{lines}\n</request>'.encode()


def test_operation_form() -> None:
    """The form with <operation> and <file> gives the operations in order, with all attributes and lines."""
    spec = read(SIMPLE)
    first = OperationSpec(
        "transfer", (FileSpec(A, "night/a.fits", 2880, "adler32:03da0195"), FileSpec(B)), "ctio", ("fnal", "ncsa")
    )
    second = OperationSpec("verify", (FileSpec(A),), None, ("ncsa",))
    assert spec == RequestSpec((first, second), "night-42", "des", 7)
    assert [operation.line for operation in spec.operations] == [2, 6]
    assert [file.line for file in spec.operations[0].files] == [3, 4]


def test_key_value_form() -> None:
    """The seed's form gives the same as the other form."""
    expected = OperationSpec("transfer", (FileSpec(A), FileSpec(B)), "ctio", ("fnal", "ncsa"))
    assert read(KEY_VALUE) == RequestSpec((expected,))


def test_every_parameter() -> None:
    """All parameters are understood, their names in any case, with parallel lists whose items may be empty."""
    spec = read(
        _parameters(
            ("lfn", f"{A},\n {B}"), ("PFN", "a, "), ("SIZE", "0,5"), ("checksum", ",md5:" + "0" * 32),
            ("sourcese", "ctio"), ("TARGETSE", "fnal"), ("owner", "des"), ("Priority", "9"), ("requestname", "r"),
            ("notbefore", "2026-11-20T10:00:00Z"), ("Deadline", "2026-11-21T10:00:00-03:00"),
            ("overwrite", "yes"), ("checksumtype", "XXH3-128"), ("node", "pan1"),
        )
    )  # fmt: skip
    files = (FileSpec(A, "a", 0), FileSpec(B, None, 5, "md5:" + "0" * 32))
    options = (("overwrite", "yes"), ("checksum", "xxh3-128"))
    operation = OperationSpec("transfer", files, "ctio", ("fnal",), "pan1", options)
    start, end = datetime(2026, 11, 20, 10, tzinfo=UTC), datetime(2026, 11, 21, 13, tzinfo=UTC)
    assert spec == RequestSpec((operation,), "r", "des", 9, start, end)


def test_parameters_of_a_removal() -> None:
    """The seed's form can say a removal everywhere."""
    spec = read(_parameters(("LFN", A), ("Everywhere", "yes"), ("RemoveLastCopy", "yes"), kind="remove"))
    assert spec.operations[0].options == (("everywhere", "yes"), ("remove-last-copy", "yes"))


_FILES = '<file lfn="/a"/>\n\n<file lfn="/b" {}/>'
ERRORS: dict[str, tuple[bytes, int, str, str]] = {
    "operation type": (_operation('type="transfre"'), 2, "unknown operation type 'transfre'", "'transfer'"),
    "no type": (_operation('target="fnal"'), 2, "without type", ""),
    "no target": (_operation('type="transfer"'), 2, "without target", ""),
    "source refused": (_operation('type="register" source="ctio" target="fnal"'), 2, "source= on type=", "target="),
    "unknown element": (_operation('type="transfer" target="fnla"'), 2, "unknown storage element 'fnla'", "'fnal'"),
    "bad element": (_operation('type="verify" target="/fnal"'), 2, "target='/fnal'", "letters"),
    "empty target": (_operation('type="verify" target=""'), 2, "target=''", ""),
    "target twice": (_operation('type="verify" target="fnal fnal"'), 2, "target 'fnal' twice", ""),
    "target is source": (_operation('type="transfer" source="fnal" target="fnal"'), 2, "which is the source", ""),
    "option": (_operation('type="transfer" target="fnal" overwrite="ja"'), 2, "overwrite='ja', expected yes or no", ""),
    "algorithm": (_operation('type="transfer" target="fnal" checksum="adler23"'), 2, "checksum='adler23'", "'adler32'"),
    "unknown attribute": (_operation('type="verify" tagret="fnal"'), 2, "unknown attribute 'tagret'", "'target'"),
    "nowhere": (_operation('type="remove"'), 2, "without target", "everywhere"),
    "remove both": (_operation('type="remove" target="fnal" everywhere="yes"'), 2, "both target and", "everywhere"),
    "remove not": (_operation('type="remove" everywhere="no"'), 2, "without target", "everywhere"),
    "blank node": (_operation('type="verify" node=" "'), 2, "node=' '", ""),
    "no file": (_operation('type="verify"', ""), 2, "without files", ""),
    "file attribute": (_operation('type="verify"', _FILES.format('lnf="/b"')), 5, "unknown attribute 'lnf'", "'lfn'"),
    "no lfn": (_operation('type="verify"', "<file/>"), 3, "without lfn", ""),
    "relative lfn": (_operation('type="verify"', '<file lfn="a"/>'), 3, "is not absolute", "'/'"),
    "control": (_operation('type="verify"', '<file lfn="/a&#10;b"/>'), 3, "control character", "printable"),
    "absolute pfn": (_operation('type="verify" target="fnal"', _FILES.format('pfn="/b"')), 5, "is absolute", "root"),
    "rootless pfn": (_operation('type="transfer" target="fnal"', _FILES.format('pfn="b"')), 5, "without source", "="),
    "rootless check": (_operation('type="verify"', _FILES.format('pfn="b"')), 5, "without target", "target="),
    "size": (_operation('type="verify"', _FILES.format('size="1e3"')), 5, "size='1e3'", ""),
    "2**63": (_operation('type="verify"', _FILES.format(f'size="{2**63}"')), 5, "2\\*\\*63 - 1", ""),
    "checksum": (_operation('type="verify"', _FILES.format('checksum="md6:00"')), 5, "unknown checksum", "'md5'"),
    "short checksum": (_operation('type="verify"', _FILES.format('checksum="md5:00"')), 5, "not a md5 value", "32"),
    "bare checksum": (_operation('type="verify"', _FILES.format('checksum="03da0195"')), 5, "algorithm:value", ""),
    "lfn twice": (_operation('type="verify"', '<file lfn="/a"/>\n\n<file lfn="/a"/>'), 5, "first on line 3", ""),
    "element": (_operation('type="verify"', '<flie lfn="/a"/>'), 3, "element <flie>, expected <file>", "'file'"),
    "text": (_operation('type="verify"', "\n\n  /a"), 5, "text '/a'", "attributes"),
    "priority": (b'<request priority="10"/>', 1, "a digit from 0", ""),
    "naive": (b'<request deadline="2026-11-20T10:00:00"/>', 1, "without a time zone", "2026-11-20T10:00:00Z"),
    "no date": (b'<request deadline="2026-02-30T10:00:00Z"/>', 1, "day is out of range", ""),
    "no time": (b'<request not-before="tomorrow"/>', 1, "ISO 8601", ""),
    "first day": (b'<request deadline="0001-01-01T00:00:00+10:00"/>', 1, "deadline=", ""),
    "order": (b'<request\nnot-before="2026-11-20T10:00Z" deadline="2026-11-20T10:00:00Z"/>', 1, "after not-before", ""),
    "request attribute": (b'<request prio="5"/>', 1, "unknown attribute 'prio'", "'priority'"),
    "no operation": (b"<request>\n</request>", 1, "without operations", ""),
    "mismatched": (b"<request>\n\n</operation>", 3, "malformed XML", "complete"),
    "parameter": (_parameters(("LFN", A), ("TragetSE", "fnal")), 3, "unknown parameter 'TragetSE'", "'TargetSE'"),
    "parameter twice": (_parameters(("LFN", A), ("lfn", B)), 3, "first on line 2", ""),
    "both names": (_parameters(("Name", "a"), ("RequestName", "b")), 3, "first on line 2", ""),
    "no LFN": (_parameters(("TargetSE", "fnal")), 1, "without LFN", ""),
    "comma": (_parameters(("TargetSE", "fnal"), ("LFN", f"{A},")), 3, "empty item", "comma"),
    "blank list": (_parameters(("TargetSE", "fnal ncsa"), ("LFN", A)), 2, "separated by commas", ""),
    "lists": (_parameters(("TargetSE", "fnal"), ("LFN", A), ("Size", "1,2")), 4, "2 items in size, expected 1", ""),
    "item": (_parameters(("TargetSE", "fnal"), ("LFN", f"{A},b")), 3, r"item 2\): found a bad name", "'/'"),
    "no target parameter": (_parameters(("LFN", A)), 1, "without target", ""),
    "owner": (_parameters(("LFN", A), ("TargetSE", "fnal"), ("Owner", "")), 4, "owner=''", ""),
    "request type": (b'<request type="transport"/>', 1, "unknown request type", "'transfer'"),
    "mixed": (b'<request type="verify">\n<operation type="verify"/></request>', 2, "expected <parameter>", ""),
    "mixed back": (b'<request>\n<parameter name="LFN" value="/a"/></request>', 2, "expected <operation>", "type="),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str) -> None:
    """Each mistake is refused with file, line, what was found and expected, and a hint where one helps."""
    document, line, words, hint = ERRORS[case]
    with pytest.raises(RequestFileError, match=words) as caught:
        read(document, elements={"ctio", "fnal", "ncsa"})
    assert re.match(rf"t\.xml:{line}\b.*: found .*, expected ", caught.value.message, re.DOTALL), caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("line", [65534, 65535, 65536, 70001, 140000])
def test_lines_beyond_65535(line: int) -> None:
    """An error far down names its own line, where the line numbers of lxml's trees end."""
    files = "".join(f'<file lfn="/{n}"/>\n' for n in range(3, line)) + '<file lfn="b"/>'
    with pytest.raises(RequestFileError, match=rf"t\.xml:{line}: .*is not absolute"):
        read(_operation('type="verify"', files))
    with pytest.raises(RequestFileError, match=rf"t\.xml:{line}: .*malformed"):
        read(_operation('type="verify"', files.replace('<file lfn="b"/>', "<file lfn=>")))


_gaps = st.text(" \n>\r\t", max_size=4)
_blanks = st.text(" \n\r\t", max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_blanks, _blanks, _gaps), min_size=1, max_size=8))
def test_lines_agree_with_another_parser(layout: list[tuple[str, str, str]]) -> None:
    """However tags, blanks and comments are laid out, lines are those where expat sees the tags begin."""
    files = "".join(
        f'{before}<file {within}node:x="{gap}" lfn="/{n}"{within}/><!--{gap}-->{before}'
        for n, (before, within, gap) in enumerate(layout)
    )
    start = '<request xmlns:node="urn:dts:annotation"><operation type="verify">'
    document = f"{start}{files}</operation></request>".encode()
    lines: list[int] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, _: lines.append(parser.CurrentLineNumber) if name == "file" else None
    document = document.replace(b"\r\n", b"\n").replace(b"\r", b"\r\n")
    parser.Parse(document, True)
    assert [file.line for file in read(document).operations[0].files] == lines


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "iso-8859-15", "windows-1252"])
def test_encodings(codec: str) -> None:
    """A file is read in the encoding that it declares, and errors in it have the right line."""
    name = codec.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{name}"?>\r\n' + SIMPLE.decode().replace("night-42", "nächte")
    assert read(text.encode(codec)).name == "nächte"
    with pytest.raises(RequestFileError, match=r"t\.xml:5: "):
        read(text.replace(B, "b").encode(codec))


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark(codec: str) -> None:
    """UTF-16 is known by its first characters too, with a byte order mark and without."""
    text = '<?xml version="1.0" encoding="UTF-16"?>' + SIMPLE.decode()
    assert read(text.encode(codec)) == read(("\ufeff" + text).encode(codec)) == read(SIMPLE)


def test_wrong_bytes_have_a_line() -> None:
    """Bytes that are not in the declared encoding are refused with their line."""
    with pytest.raises(RequestFileError, match=r"t\.xml:4: found bytes that are not UTF-8 \(ff"):
        read(SIMPLE.replace(b"raw/b", b"raw/\xff"))


class _Trickle(io.BytesIO):
    """A pipe that gives a few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(3, size) if size and size > 0 else 3)


def test_streams_and_paths(tmp_path: Path) -> None:
    """A request is read from a path or a slow pipe; errors of a stream without a name say <stdin>."""
    path = tmp_path / "r.xml"
    path.write_bytes(SIMPLE)
    assert read_request(path) == read_request(_Trickle(SIMPLE)) == read(SIMPLE)
    with pytest.raises(RequestFileError, match=r"\A<stdin>:1: "):
        read_request(io.BytesIO(b""))
    with pytest.raises(RequestFileError, match=r"absent\.xml: cannot be read"):
        read_request(tmp_path / "absent.xml")
    with pytest.raises(RequestFileError, match="cannot be read"):
        read_request(tmp_path)


_MEASURE = """
import io, resource, sys
from reqdb.xml import read_request, write_request
class Many(io.RawIOBase):
    def __init__(self): self.parts = self.make(); self.rest = b""
    def make(self):
        yield b'<request name="x"><operation type="transfer" source="a" target="b c">'
        for n in range(100_000):
            yield (f'<file lfn="/des/raw/2026-11-20/DECam_{n:08d}.fits" pfn="2026-11-20/DECam_{n:08d}.fits" '
                   f'size="{n}" checksum="adler32:{n:08x}"/>\\n').encode()
        yield b'</operation></request>'
    def read(self, size=-1):
        while len(self.rest) < size and (part := next(self.parts, b"")): self.rest += part
        part, self.rest = self.rest[:size], self.rest[size:]
        return part
class Sink(io.RawIOBase):
    def writable(self): return True
    def write(self, data): return len(data)
read_request(io.BytesIO(b'<request><operation type="verify"><file lfn="/a"/></operation></request>'))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spec = read_request(Many())
assert len(spec.operations[0].files) == 100_000
write_request(spec, Sink())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_of_100_000_files() -> None:
    """Reading and writing 100,000 files costs at most 80 MiB over the interpreter, in a process of its own."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _MEASURE]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 80
