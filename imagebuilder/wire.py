"""The frames between a camera's computers (PANs) and a builder node: pure encoding, decoding and limits.

docs/pan-protocol.md describes every byte. What a peer sends is checked here before any memory is taken for it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from crc32c import crc32c

from dtscore.errors import DtsError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"DTSP"
VERSION = 1
HEADER_BYTES = 36
BODY_CAP = 8 << 10
METADATA_CAP = 64 << 10
LIST_CAP = 256 << 10
BLOCK_CAP = 16 << 20
"""The largest data of any BLOCK; what a node takes at most stands in its WELCOME (`block_bytes`)."""
BLOCK_BYTES = 4 << 20
"""The default of `block_bytes`: with 1 MiB a node uses half as much CPU time again, with more it gains nothing."""

_HEADER = struct.Struct(">4sBBHQIIIII")
_SUMMED = 32
_KEY = re.compile(r"[a-z_]{1,32}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NUMBER = re.compile(r"[0-9]{1,19}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")


class Kind(IntEnum):
    """The types of frames."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    LABEL = 5
    LABELLED = 6
    WHERE = 7
    HERE = 8
    BEGIN = 9
    ACCEPTED = 10
    METADATA = 11
    BLOCK = 12
    END = 13
    RECEIVED = 14
    SAVED = 15
    BUSY = 16
    ERROR = 17
    PING = 18
    PONG = 19
    BYE = 20


_DATA_CAPS: Mapping[Kind, int] = {
    Kind.METADATA: METADATA_CAP,
    Kind.ACCEPTED: LIST_CAP,
    Kind.SAVED: LIST_CAP,
    Kind.ERROR: LIST_CAP,
    Kind.BLOCK: BLOCK_CAP,
}
"""The data that a frame may carry; frames of other types carry none."""


class WireError(DtsError):
    """A frame, or what it asks for, is refused; `code` is the stable word of the ERROR frame.

    After a fatal one the connection is closed: nothing that follows on it could be trusted or understood. `listing` is
    the data of the ERROR frame, where there is any. docs/pan-protocol.md lists the codes.
    """

    def __init__(self, code: str, message: str, hint: str = "", *, fatal: bool = False, listing: str = "") -> None:
        """Keep the code, message and hint, and whether the connection ends."""
        super().__init__(message, hint)
        self.code = code
        self.fatal = fatal
        self.listing = listing


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a frame, checked: known type, lengths within their caps (bytes), its own sum right."""

    kind: Kind
    sequence: int
    body_length: int
    data_length: int
    body_crc: int
    data_crc: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame; `data` is valid only until the next frame is read."""

    kind: Kind
    sequence: int
    body: Mapping[str, str]
    data: Buffer = b""


def head(kind: Kind, sequence: int, body: Mapping[str, object] | None = None, data: Buffer = b"") -> bytes:
    """Return header and body of a frame; the data follow it on the wire.

    `data` is bytes or a contiguous view of bytes. Raises WireError `bad-body` for a key or value that no frame may
    carry, and `too-large`.
    """
    packed = pack_body(body or {})
    size = memoryview(data).nbytes
    if size > _DATA_CAPS.get(kind, 0):
        raise _too_large(kind, "data", size, _DATA_CAPS.get(kind, 0))
    body_crc = crc32c(packed) if packed else 0
    data_crc = crc32c(data) if size else 0
    start = _HEADER.pack(MAGIC, VERSION, kind, 0, sequence, len(packed), size, body_crc, data_crc, 0)[:_SUMMED]
    return start + crc32c(start).to_bytes(4, "big") + packed


def encode(kind: Kind, sequence: int, body: Mapping[str, object] | None = None, data: Buffer = b"") -> bytes:
    """Return a whole frame; for pixels `head` spares the copy."""
    return head(kind, sequence, body, data) + bytes(data)


def parse_header(raw: Buffer, block_bytes: int = BLOCK_CAP) -> Header:
    """Return the header in the first 36 bytes, or raise a fatal WireError.

    Codes: bad-magic, bad-version, bad-header, bad-type, too-large (beyond the caps, or a BLOCK beyond `block_bytes`).
    """
    magic, version, number, flags, sequence, body, data, body_crc, data_crc, own = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise WireError("bad-magic", f"a frame begins with {magic!r}, not {MAGIC!r}", "is this a PAN?", fatal=True)
    if version != VERSION:
        what = f"a frame has version {version}; this side speaks version {VERSION}"
        raise WireError("bad-version", what, "use the same release on both sides", fatal=True)
    if own != crc32c(bytes(raw[:_SUMMED])):
        raise WireError("bad-header", "the sum of a frame's header is wrong", "connect again", fatal=True)
    if flags or number not in Kind._value2member_map_:
        what = f"a frame has type {number} and flags {flags:#06x}, which version {VERSION} does not know"
        raise WireError("bad-type", what, "use the same release on both sides", fatal=True)
    header = Header(Kind(number), sequence, body, data, body_crc, data_crc)
    _check_caps(header, block_bytes)
    return header


def _check_caps(header: Header, block_bytes: int) -> None:
    if header.body_length > BODY_CAP:
        raise _too_large(header.kind, "body", header.body_length, BODY_CAP)
    cap = block_bytes if header.kind is Kind.BLOCK else _DATA_CAPS.get(header.kind, 0)
    if header.data_length > cap:
        raise _too_large(header.kind, "data", header.data_length, cap)


def _too_large(kind: Kind, part: str, size: int, cap: int) -> WireError:
    what = f"the {part} of a {kind.name} frame has {size} bytes; at most {cap} are taken"
    hint = "send smaller blocks: WELCOME says block_bytes" if kind is Kind.BLOCK else "send less at once"
    return WireError("too-large", what, hint, fatal=True)


def pack_body(body: Mapping[str, object]) -> bytes:
    """Return the lines of a body, or raise WireError `bad-body`, `too-large`."""
    for key, value in body.items():
        if not _KEY.match(key) or _CONTROL.search(str(value)):
            raise WireError("bad-body", f"{key[:40]!r}={str(value)[:80]!r} may not stand in a frame", "", fatal=True)
    packed = "".join(f"{key}={value}\n" for key, value in body.items()).encode()
    if len(packed) > BODY_CAP:
        what = f"the body of a frame would have {len(packed)} bytes; at most {BODY_CAP} are taken"
        raise WireError("too-large", what, "name fewer detectors", fatal=True)
    return packed


def parse_body(raw: Buffer, crc: int) -> dict[str, str]:
    """Return a body's values by key, or raise a fatal WireError `bad-body`."""
    packed = bytes(raw)
    if crc32c(packed) != crc:
        raise _bad_body("its sum is wrong")
    if not packed:
        return {}
    try:
        text = packed.decode()
    except UnicodeDecodeError as error:
        raise _bad_body("it is not UTF-8") from error
    if not text.endswith("\n"):
        raise _bad_body("its last line has no end")
    return _pairs(text[:-1].split("\n"))


def _pairs(lines: list[str]) -> dict[str, str]:
    body: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals or not _KEY.match(key) or _CONTROL.search(value):
            raise _bad_body(f"the line {line[:80]!r} is not key=value")
        if key in body:
            raise _bad_body(f"the key {key!r} stands there twice")
        body[key] = value
    return body


def _bad_body(why: str) -> WireError:
    return WireError("bad-body", f"the body of a frame is not understood: {why}", "see pan-protocol", fatal=True)


def check_data(header: Header, data: Buffer) -> None:
    """Raise WireError `bad-crc` (not fatal: the same frame may be sent again) unless the data have their sum."""
    found = crc32c(data) if header.data_length else 0
    if found != header.data_crc:
        which = f"{header.kind.name} frame {header.sequence}"
        what = f"the data of {which} have CRC32C {found:08x}, not {header.data_crc:08x}"
        raise WireError("bad-crc", what, "send it again")


def text(frame: Frame, key: str) -> str:
    """Return the value of a key that the frame must have, or raise WireError `bad-value`."""
    value = frame.body.get(key)
    if value is None:
        raise WireError("bad-value", f"a {frame.kind.name} frame has no {key!r}", "see pan-protocol")
    return value


def number(frame: Frame, key: str, most: int) -> int:
    """Return a whole number from 0 to `most`, or raise WireError `bad-value`."""
    value = text(frame, key)
    if not _NUMBER.match(value) or int(value) > most:
        what = f"{key}={value[:40]!r} of a {frame.kind.name} frame is not a number from 0 to {most}"
        raise WireError("bad-value", what, "write it in decimal digits")
    return int(value)


def name(frame: Frame, key: str) -> str:
    """Return a name (letters, digits, '_', '.', '-', at most 32), or raise WireError `bad-value`."""
    return check_name(text(frame, key), f"{key} of a {frame.kind.name} frame")


def names(frame: Frame, key: str) -> tuple[str, ...]:
    """Return the names in a value, parted by single blanks and each there once, or raise WireError `bad-value`."""
    found = tuple(check_name(one, f"{key} of a {frame.kind.name} frame") for one in text(frame, key).split(" "))
    if len(set(found)) < len(found):
        raise WireError("bad-value", f"{key} of a {frame.kind.name} frame holds a name twice", "name each once")
    return found


def check_name(value: str, what: str) -> str:
    """Return the name of a detector, amplifier, camera, PAN or node unchanged, or raise WireError `bad-value`."""
    if not _NAME.match(value):
        hint = "use letters, digits, '_', '.' and '-', at most 32"
        raise WireError("bad-value", f"{what}: {value[:40]!r} is not a name", hint)
    return value
