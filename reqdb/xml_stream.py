"""Bytes of a request file, hardened: decoded strictly, counted in lines, and parsed piece by piece.

lxml tells a parser target no line numbers, and those of its tree end at 65,535. So the text is fed in pieces that end
at most one line after a '>': whatever markup ends within a piece, ends on one known line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO, Protocol, cast

from lxml import etree

from dtscore.errors import RequestFileError
from reqdb.xml_values import Limits, refuse

_CHUNK = 65536
_PIECE = re.compile(r"[^>]*>[^\n]*\n?|[^>]+\Z")
_DECLARED = re.compile(rb"<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_POSITION = re.compile(r",? \(?line \d+(, column \d+)?\)?\Z")
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_WIDE_STARTS = {b"<\0?\0": "utf-16-le", b"\0<\0?": "utf-16-be", b"<\0r\0": "utf-16-le", b"\0<\0r": "utf-16-be"}
_ENCODINGS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "iso-8859-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "latin-1": "iso-8859-1",
    "iso-8859-15": "iso-8859-15",
    "windows-1252": "cp1252",
}
_WIDE_ENCODINGS = ("utf-16", "utf-16le", "utf-16be")
_EXPECTED_ENCODING = "UTF-8, UTF-16, ISO-8859-1, ISO-8859-15, windows-1252 or US-ASCII"


class Target(Protocol):
    """What takes the parser's events; `line` is where the markup that is being reported ends."""

    line: int
    events: int

    def close(self) -> object:
        """Take the end of the document."""


class Stream:
    """One request file on its way from bytes to events."""

    def __init__(self, source: BinaryIO, name: str, limits: Limits) -> None:
        """Keep the open file, the name that errors give it and the limits."""
        self._source = source
        self._name = name
        self._limits = limits
        self._line = 1
        self._bytes = 0
        self._events = 0
        self._silent = 0
        self._pending = 0

    def run(self, target: Target) -> None:
        """Parse the whole file into the target, or raise RequestFileError."""
        parser = _parser(target)
        try:
            for piece in self._pieces():
                self._feed(parser, target, piece)
            parser.close()
            self._check_namespaces(parser)
        except etree.XMLSyntaxError as error:
            raise self._malformed(error) from error

    def _feed(self, parser: etree.XMLParser, target: Target, piece: str) -> None:
        newlines = piece.count("\n")
        target.line = self._line + newlines - piece.endswith("\n")
        parser.feed(piece.encode())
        self._line += newlines
        self._check_markup(target, len(piece))

    def _check_markup(self, target: Target, length: int) -> None:
        """Refuse a tag or comment that does not end: the parser keeps it, and each line costs a call."""
        if target.events != self._events:
            self._events, self._silent, self._pending = target.events, 0, 0
            return
        self._silent += 1
        self._pending += length
        if self._silent > self._limits.max_markup_lines or self._pending > self._limits.max_markup_bytes:
            most = f"at most {self._limits.max_markup_bytes} bytes and {self._limits.max_markup_lines} lines"
            raise refuse(f"{self._name}:{target.line}", "a longer tag or comment", most, "is a quote or '>' missing?")

    def _pieces(self) -> Iterator[str]:
        """Yield the text in pieces whose markup ends on one line."""
        for text in self._texts():
            if "\0" in text:
                line = self._line + text.count("\n", 0, text.index("\0"))
                raise refuse(f"{self._name}:{line}", "a NUL character", "text", "is this a request file?")
            for match in _PIECE.finditer(text):
                yield match.group()

    def _texts(self) -> Iterator[str]:
        """Yield the decoded text chunk by chunk."""
        chunk = self._read()
        codec, skipped = self._encoding(chunk)
        decoder = codecs.getincrementaldecoder(codec)("strict")
        chunk = chunk[skipped:]
        while chunk:
            yield self._decode(decoder, codec, chunk, final=False)
            chunk = self._read()
        yield self._decode(decoder, codec, b"", final=True)

    def _decode(self, decoder: codecs.IncrementalDecoder, codec: str, chunk: bytes, *, final: bool) -> str:
        try:
            return decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            before = bytes(error.object[: error.start]).decode(codec, "ignore")
            bad = bytes(error.object[error.start : error.start + 4]).hex(" ")
            found = f"bytes that are not {codec.upper()} ({bad})"
            hint = "declare the encoding in the first line, or save the file as UTF-8"
            raise refuse(f"{self._name}:{self._line + before.count(chr(10))}", found, "text", hint) from error

    def _read(self) -> bytes:
        """Return the next chunk, which is whole except at the end of the file, or raise RequestFileError."""
        parts: list[bytes] = []
        missing = _CHUNK
        while missing and (part := self._source.read(missing)):
            parts.append(part)
            missing -= len(part)
        chunk = b"".join(parts)
        self._bytes += len(chunk)
        if self._bytes > self._limits.max_bytes:
            expected = f"at most {self._limits.max_bytes} bytes"
            raise refuse(f"{self._name}:{self._line}", "a larger file", expected, "split it into several requests")
        return chunk

    def _encoding(self, start: bytes) -> tuple[str, int]:
        """Return Python's codec for the file and the length of its byte order mark, or raise RequestFileError."""
        place = f"{self._name}:1"
        if not start:
            raise refuse(place, "an empty file", "a <request> element")
        declared = _DECLARED.match(start[3:] if start.startswith(codecs.BOM_UTF8) else start)
        word = declared.group(1).decode("ascii").lower() if declared else "utf-8"
        for mark, codec in _BYTE_ORDER_MARKS:
            if start.startswith(mark):
                if codec == "utf-8" and _ENCODINGS.get(word) != "utf-8":
                    raise refuse(place, f"a UTF-8 byte order mark before encoding={word!r}", "one encoding")
                return codec, len(mark)
        if start[:4] in _WIDE_STARTS:
            return _WIDE_STARTS[start[:4]], 0
        if word in _WIDE_ENCODINGS:
            raise refuse(place, f"encoding={word!r} on a file that is not UTF-16", "the encoding it is stored in")
        if word not in _ENCODINGS:
            raise refuse(place, f"encoding={word!r}", _EXPECTED_ENCODING, "save the file as UTF-8")
        return _ENCODINGS[word], 0

    def _check_namespaces(self, parser: etree.XMLParser) -> None:
        """Refuse an undeclared prefix, which libxml2 only remarks on."""
        for entry in parser.feed_error_log:
            found = f"malformed XML ({_printable(entry.message)})"
            raise refuse(f"{self._name}:{entry.line}", found, "well-formed XML")

    def _malformed(self, error: etree.XMLSyntaxError) -> RequestFileError:
        """Return our error for the parser's; the last line counts where the parser names none."""
        what = _POSITION.sub("", str(error.msg).split("\n", 1)[0])[:200]
        line = error.lineno if error.lineno and error.lineno > 0 else self._line
        found = f"malformed XML ({_printable(what)})"
        return refuse(f"{self._name}:{line}", found, "well-formed XML", "is the file complete?")


def _printable(message: str) -> str:
    return ascii(message.strip()[:200])[1:-1]


def _parser(target: Target) -> etree.XMLParser:
    """Return a parser without network or DTD; the text comes as UTF-8 whatever the file declares.

    Entities are resolved ("internal") though no file can declare any: without that, libxml2 hands `&amp;` in an
    attribute to the target as `&#38;`.
    """
    return etree.XMLParser(
        target=cast("etree.ParserTarget", target),
        encoding="utf-8",
        resolve_entities="internal",  # type: ignore[arg-type]  # newer than the stubs
        no_network=True,
        load_dtd=False,
        huge_tree=False,
    )
