"""Job descriptions: what they may say, where their XML file may lie, and that errors have a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtscore.errors import RequestFileError
from reqdb.jdl import JobDescription, parse_jdl, read_any, read_jdl
from tests.reqdb.documents import KEY_VALUE, SIMPLE, read

JDL = """[
  // a transfer, as in the seed
  JobType = "request";   # any case
  requesttype = "transfer"; /* over
  two lines */
  InputData = {"transfer.xml"};
]
"""
PLAIN = 'JobType="request"; RequestType="transfer"; RequestFile="transfer.xml"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with transfer.xml, within another one."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "transfer.xml").write_bytes(KEY_VALUE)
    return inner


def _jdl(folder: Path, text: str) -> Path:
    path = folder / "job.jdl"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [JDL, PLAIN, f"[{PLAIN};]", f"[{PLAIN}]", "\ufeff" + PLAIN])
def test_a_job_description_gives_the_request_of_its_file(folder: Path, text: str) -> None:
    """With brackets or without, with comments, lists and names in any case, the named XML file is read."""
    assert read_jdl(_jdl(folder, text)) == read(KEY_VALUE)


def test_lines_and_escapes() -> None:
    """A job description keeps the lines of its entries, and backslashes protect quotes."""
    job = parse_jdl(JDL.replace("transfer.xml", 'a\\"b.xml'), "t.jdl")
    assert job == JobDescription("transfer", 'a"b.xml', 4, 6)


def test_content_decides(folder: Path) -> None:
    """XML is known by its content and not by its extension, in any encoding; all else is a job description."""
    for codec in ("utf-8", "utf-8-sig", "utf-16", "utf-16-be"):
        path = folder / "request.jdl"
        path.write_bytes(("\n" * (codec == "utf-8") + SIMPLE.decode()).encode(codec))
        assert read_any(path) == read(SIMPLE)
    jdl = folder / "job.xml"
    jdl.write_text(PLAIN)
    assert read_any(jdl) == read(KEY_VALUE)


def test_elements_and_names_go_through(folder: Path) -> None:
    """The storage elements are checked in the XML file that a job description names."""
    with pytest.raises(RequestFileError, match=r"transfer\.xml:2: found unknown storage element 'ctio'"):
        read_any(_jdl(folder, PLAIN), elements={"fnal", "ncsa"})


ERRORS: dict[str, tuple[str, int, str]] = {
    "job type": (PLAIN.replace('"request"', '"job"'), 1, "JobType 'job', expected \"request\""),
    "request type": (PLAIN.replace('"transfer"', '"transfre"'), 1, "unknown RequestType"),
    "disagreement": (PLAIN.replace(' RequestType="transfer"', '\nRequestType="remove"'), 2, "xml with transfer"),
    "no job type": ('RequestType="transfer"; RequestFile="transfer.xml"', 1, "without JobType"),
    "no file": ('JobType="request"; RequestType="transfer"', 1, "without RequestFile"),
    "both files": (PLAIN + ';\nInputData="transfer.xml"', 1, "both InputData"),
    "two files": (PLAIN.replace('"transfer.xml"', '{"a", "b"}'), 1, "2 values"),
    "twice": (PLAIN + ';\njobtype="request"', 2, "twice"),
    "unknown": (PLAIN + ';\nExecutable = "x"', 2, "unknown attribute"),
    "number": (PLAIN.replace('"request"', "1"), 1, "expected a name"),
    "no quotes": (PLAIN.replace('"request"', "request"), 1, "expected a quoted string"),
    "open quote": (PLAIN[:-1], 1, "expected a name"),
    "open comment": (PLAIN + ";\n\n/* more", 3, "expected a name"),
    "open bracket": ("[\n" + PLAIN, 2, "expected ';'"),
    "open list": (PLAIN.replace('"transfer.xml"', '{"transfer.xml"'), 1, "expected ','"),
    "more": (f"[{PLAIN}]\n[", 2, "expected the end"),
    "no semicolon": (PLAIN.replace(";", "\n"), 2, "expected ';'"),
    "empty": ("", 1, "expected a <request>"),
    "no entries": ("[]", 1, "without JobType"),
    "absent": (PLAIN.replace("transfer.xml", "absent.xml"), 1, "an existing XML file"),
    "parent": (PLAIN.replace("transfer.xml", "../inner/transfer.xml"), 1, "without '..'"),
    "hidden parent": (PLAIN.replace("transfer.xml", "x/../../inner/transfer.xml"), 1, "without '..'"),
    "absolute": (PLAIN.replace("transfer.xml", "/etc/passwd"), 1, "a file below"),
    "folder": (PLAIN.replace("transfer.xml", "."), 1, "an existing XML file"),
    "long": (PLAIN.replace("transfer.xml", "a" * 5000), 1, "file name"),
    "NUL": (PLAIN.replace("transfer.xml", "a\0b"), 1, "file name"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(folder: Path, case: str) -> None:
    """Each mistake is refused with the job description's name, line, what was found and expected."""
    text, line, words = ERRORS[case]
    with pytest.raises(RequestFileError) as caught:
        read_any(_jdl(folder, text), name="job.jdl")
    assert caught.value.message.startswith(f"job.jdl:{line}: found ")
    assert words in caught.value.message


def test_an_absolute_name_below_the_folder(folder: Path) -> None:
    """An absolute name is taken if it stays below the folder of the job description."""
    assert read_jdl(_jdl(folder, PLAIN.replace("transfer.xml", f"{folder}/transfer.xml"))) == read(KEY_VALUE)


def test_a_link_out_of_the_folder(folder: Path) -> None:
    """A symbolic link does not lead out of the folder."""
    (folder.parent / "outside.xml").write_bytes(KEY_VALUE)
    (folder / "link.xml").symlink_to("../outside.xml")
    with pytest.raises(RequestFileError, match="a file below"):
        read_jdl(_jdl(folder, PLAIN.replace("transfer.xml", "link.xml")))


def test_a_link_to_itself(folder: Path) -> None:
    """A loop of symbolic links gives our error."""
    (folder / "loop.xml").symlink_to("loop.xml")
    with pytest.raises(RequestFileError, match="file name"):
        read_jdl(_jdl(folder, PLAIN.replace("transfer.xml", "loop.xml")))


def test_unreadable_job_descriptions(folder: Path) -> None:
    """Files that are absent, not UTF-8 or too large give our error."""
    with pytest.raises(RequestFileError, match="cannot be read"):
        read_any(folder / "absent.jdl")
    with pytest.raises(RequestFileError, match="cannot be read"):
        read_jdl(folder / "absent.jdl")
    path = folder / "job.jdl"
    path.write_bytes(b"JobType\n= \xff")
    with pytest.raises(RequestFileError, match=r"job\.jdl:2: found bytes"):
        read_any(path)
    path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(RequestFileError, match="larger"):
        read_any(path)


@given(st.text("[]{}=;,\"\\ab /*#\n", max_size=40))
def test_any_text(text: str) -> None:
    """Arbitrary text gives one error with a line, nothing else."""
    with pytest.raises(RequestFileError, match=r"\At\.jdl:\d+: found "):
        parse_jdl(text, "t.jdl")
