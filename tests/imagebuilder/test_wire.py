"""The frames: what is written is read again, the documented example is what the program makes, bad ones are refused."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder import wire
from imagebuilder.wire import Frame, Kind, WireError

PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "pan-protocol.md"


def _code(raw: bytes, block_bytes: int = wire.BLOCK_CAP) -> tuple[str, bool]:
    with pytest.raises(WireError) as caught:
        wire.parse_header(raw, block_bytes)
    assert caught.value.message
    return caught.value.code, caught.value.fatal


def _with(raw: bytes, offset: int, value: bytes) -> bytes:
    """Return a header with other bytes at an offset, and its own sum right again."""
    changed = raw[:offset] + value + raw[offset + len(value) : 32]
    return changed + crc32c(changed).to_bytes(4, "big")


@given(
    st.sampled_from([Kind.METADATA, Kind.BLOCK, Kind.ERROR]),
    st.integers(0, (1 << 64) - 1),
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,32}", fullmatch=True), st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]))
    ),
    st.binary(max_size=2000),
)
def test_what_is_written_is_read_again(kind: Kind, sequence: int, body: dict[str, str], data: bytes) -> None:
    """Type, number, body and data of a frame come back as they were given."""
    if len("".join(f"{key}={value}\n" for key, value in body.items()).encode()) > wire.BODY_CAP:
        return
    raw = wire.encode(kind, sequence, body, data)
    header = wire.parse_header(raw)
    middle = wire.HEADER_BYTES + header.body_length
    assert (header.kind, header.sequence) == (kind, sequence)
    assert wire.parse_body(raw[wire.HEADER_BYTES : middle], header.body_crc) == body
    assert raw[middle:] == data
    wire.check_data(header, raw[middle:])


def test_the_documented_frame_is_the_one_that_is_sent() -> None:
    """The worked example of docs/pan-protocol.md, rebuilt from its text alone with struct and CRC32C."""
    text = PROTOCOL.read_text()
    example = text.split("## A worked example")[1]
    documented = bytes.fromhex("".join(re.findall(r"^    ([0-9a-f ]+?)(?:   .*)?$", example, re.MULTILINE)))
    body = b"exposure=42\ndetector=S1\namplifier=A\nrow=100\nrows=1\ntype=uint16\n"
    data = struct.pack("<4H", 1, 258, 40000, 65535)
    start = struct.pack(">4sBBHQIIII", b"DTSP", 1, 12, 0, 7, len(body), len(data), crc32c(body), crc32c(data))
    assert documented == start + struct.pack(">I", crc32c(start)) + body + data
    fields = {"exposure": 42, "detector": "S1", "amplifier": "A", "row": 100, "rows": 1, "type": "uint16"}
    assert wire.encode(Kind.BLOCK, 7, fields, data) == documented


def test_the_document_lists_every_type_code_and_cap() -> None:
    """Each type of frame with its number, each cap and each error code of the program stands in the document."""
    text = PROTOCOL.read_text()
    for kind in Kind:
        assert re.search(rf"^\| {kind.value} \| {kind.name} \|", text, re.MULTILINE), kind
    folder = PROTOCOL.parents[1] / "imagebuilder"
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    codes = set(
        re.findall(r'(?:WireError|retire|give_up|_drop|_turn_away)\(\s*(?:[a-z]+, )?"([a-z]+(?:-[a-z]+)*)"', source)
    )
    assert len(codes) > 20
    missing = [code for code in sorted(codes) if f"| `{code}` |" not in text]
    assert not missing
    for cap in ("8 KiB", "64 KiB", "256 KiB", "16 MiB", "4 MiB"):
        assert cap in text


def test_a_wrong_header_is_refused() -> None:
    """Magic, version, flags, type and the header's own sum: each has a code, and ends the connection."""
    good = wire.encode(Kind.PING, 1)
    assert _code(b"HTTP" + good[4:]) == ("bad-magic", True)
    assert _code(_with(good, 4, b"\2")) == ("bad-version", True)
    assert _code(_with(good, 5, b"\0")) == ("bad-type", True)
    assert _code(_with(good, 5, b"\x15")) == ("bad-type", True)
    assert _code(_with(good, 6, b"\0\1")) == ("bad-type", True)
    assert _code(good[:32] + b"\0\0\0\0") == ("bad-header", True)


@pytest.mark.parametrize(
    ("kind", "body", "data"),
    [
        (Kind.PING, 8193, 0),
        (Kind.PING, 0, 1),
        (Kind.BEGIN, 0, 1),
        (Kind.METADATA, 0, 65537),
        (Kind.ACCEPTED, 0, 262145),
        (Kind.BLOCK, 0, 16777217),
        (Kind.BLOCK, 4294967295, 4294967295),
    ],
)
def test_lengths_beyond_the_caps_are_refused(kind: Kind, body: int, data: int) -> None:
    """A length is refused by the header alone, before a byte of the body is read or memory is taken."""
    raw = _with(wire.encode(kind, 1), 16, struct.pack(">II", body, data))
    assert _code(raw) == ("too-large", True)


def test_a_block_beyond_what_welcome_said_is_refused() -> None:
    """The node's own block size counts, below the cap of the protocol."""
    raw = _with(wire.encode(Kind.BLOCK, 1), 20, struct.pack(">I", 4097))
    assert wire.parse_header(raw, 4097).data_length == 4097
    assert _code(raw, 4096) == ("too-large", True)


@pytest.mark.parametrize(
    "raw",
    [b"a=1", b"=1\n", b"A=1\n", b"a=1\na=2\n", b"a\n", b"a=\x01\n", b"a=\x7f\n", b"\xff=1\n", b"a=\xff\n", b"\n",
     b"a=1\r\n", "a=\u2028\n".encode(), b"a b=1\n", b"a=1\n\n"],
)  # fmt: skip
def test_a_body_that_is_not_lines_of_key_and_value_is_refused(raw: bytes) -> None:
    """Keys stand once, lines end, values hold no control characters, all is UTF-8."""
    with pytest.raises(WireError) as caught:
        wire.parse_body(raw, crc32c(raw))
    assert caught.value.code == "bad-body"
    assert caught.value.fatal


def test_wrong_sums_are_refused() -> None:
    """A body with a wrong sum ends the connection; data with a wrong sum may be sent again."""
    with pytest.raises(WireError, match="sum"):
        wire.parse_body(b"a=1\n", 1)
    raw = wire.encode(Kind.BLOCK, 3, {}, b"12345678")
    with pytest.raises(WireError, match="BLOCK frame 3") as caught:
        wire.check_data(wire.parse_header(raw), b"12345679")
    assert (caught.value.code, caught.value.fatal) == ("bad-crc", False)


def test_nothing_bad_is_ever_sent() -> None:
    """Our own side refuses to write what the other would refuse to read."""
    for body in ({"Bad": 1}, {"a": "line\nbreak"}, {"a": "x" * 9000}):
        with pytest.raises(WireError):
            wire.encode(Kind.PING, 1, body)
    with pytest.raises(WireError, match="at most 0"):
        wire.encode(Kind.PING, 1, {}, b"x")


def test_values_are_checked() -> None:
    """Numbers, names and lists of names: bad ones are refused with what was found, and the connection goes on."""
    body = {
        "row": "12", "far": "1" * 20, "sign": "-1", "name": "S1", "path": "../x", "two": "S1 S1", "gap": "S1  N1",
        "list": "S1 N1", "arab": "١",
    }  # fmt: skip
    frame = Frame(Kind.BLOCK, 1, body)
    assert wire.number(frame, "row", 12) == 12
    assert wire.name(frame, "name") == "S1"
    assert wire.names(frame, "list") == ("S1", "N1")
    for key in ("far", "sign", "missing", "arab"):
        with pytest.raises(WireError, match=key) as caught:
            wire.number(frame, key, 1 << 62)
        assert (caught.value.code, caught.value.fatal) == ("bad-value", False)
    with pytest.raises(WireError, match="0 to 11"):
        wire.number(frame, "row", 11)
    for key in ("two", "gap", "path"):
        with pytest.raises(WireError):
            wire.names(frame, key)
