"""Hostile frames: what a broken or malicious peer may send, for the short and the long fuzz of the parser."""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

import hypothesis
from crc32c import crc32c
from hypothesis import HealthCheck
from hypothesis import strategies as st

from imagebuilder import wire
from imagebuilder.link import Link, LinkLostError
from imagebuilder.wire import Kind, WireError

BLOCK_BYTES = 4096
_MOST_MEMORY = 4 * (wire.HEADER_BYTES + wire.BODY_CAP + wire.LIST_CAP)
_CAPS = {
    Kind.METADATA: wire.METADATA_CAP,
    Kind.ACCEPTED: wire.LIST_CAP,
    Kind.SAVED: wire.LIST_CAP,
    Kind.ERROR: wire.LIST_CAP,
    Kind.BLOCK: BLOCK_BYTES,
}

_CALM = tuple(HealthCheck)
_RUN = 500

_KEYS = st.sampled_from(
    ["exposure", "detector", "amplifier", "row", "rows", "type", "camera", "pan", "nonce", "Bad", ""]
)
_VALUES = st.one_of(
    st.sampled_from(["1", "S1", "A", "0", "-1", "9" * 30, "uint16", "../..", "a\nb", "a=b", "\u2028", "\x00"]),
    st.text(max_size=30),
)
_BODY = st.lists(st.tuples(_KEYS, _VALUES), max_size=6).map(
    lambda pairs: "".join(f"{key}={value}\n" for key, value in pairs).encode("utf-8", "surrogatepass")
)
_BODIES = st.one_of(_BODY, st.binary(max_size=80), st.just(b""), st.just(b"a=" + b"x" * wire.BODY_CAP + b"\n"))
_LENGTHS = st.one_of(st.none(), st.sampled_from([0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 1 << 24, (1 << 32) - 1]))


@st.composite
def _hostile(draw: st.DrawFn, sequence: int) -> bytes:
    """A frame that may lie about its type, its number, its lengths and its sums, and may be damaged or cut short."""
    body, data = draw(_BODIES), draw(st.binary(max_size=200))
    kind = draw(st.one_of(st.sampled_from(Kind), st.integers(0, 255)))
    head = bytearray(wire._HEADER.pack(
        draw(st.sampled_from([b"DTSP", b"DTSP", b"DTSP", b"HTTP"])), draw(st.sampled_from([1, 1, 1, 0, 2])), kind,
        draw(st.sampled_from([0, 0, 0, 1])), draw(st.sampled_from([sequence, sequence, 1, (1 << 64) - 1])),
        *(len(part) if (lie := draw(_LENGTHS)) is None else lie for part in (body, data)),
        crc32c(body), draw(st.sampled_from([crc32c(data), crc32c(data), 7])), 0,
    ))  # fmt: skip
    head[32:36] = crc32c(bytes(head[:32])).to_bytes(4, "big")
    frame = bytearray(bytes(head) + body + data)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        frame[draw(st.integers(0, len(frame) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(frame[: len(frame) - draw(st.sampled_from([0, 0, 0, 1, 40]))])


@st.composite
def _honest(draw: st.DrawFn, sequence: int) -> bytes:
    """A frame as a PAN that means well would send it."""
    kind = draw(st.sampled_from(Kind))
    body = {"exposure": draw(st.integers(0, 99)), "detector": draw(st.sampled_from(["S1", "N1", "x" * 32]))}
    return wire.encode(kind, sequence, body, draw(st.binary(max_size=200)) if kind in _CAPS else b"")


@st.composite
def _stream(draw: st.DrawFn) -> list[bytes]:
    count = draw(st.integers(1, 8))
    honest = draw(st.integers(0, count))
    return [draw(_honest(number) if number <= honest else _hostile(number)) for number in range(1, count + 1)]


STREAMS = st.one_of(_stream(), _stream(), _stream(), st.binary(max_size=120).map(lambda noise: [noise]))
"""What a peer sends on one connection: frames, or noise."""


@dataclass
class Tally:
    """What came of all streams."""

    frames: int = 0
    taken: int = 0
    refused: int = 0
    slowest: float = 0.0


def check_stream(frames: Sequence[bytes], tally: Tally) -> None:
    """Let both readers of frames read a stream: each frame is whole and right, or there is one clear refusal.

    What is read is what its sender's sums say, packed again it is the same bytes, and no length that is only claimed
    takes memory.
    """
    begun = time.monotonic()
    tally.frames += len(frames)
    stream = b"".join(frames)
    ours, theirs = socket.socketpair()
    link = Link(ours, idle=5.0, block_bytes=BLOCK_BYTES)
    tracemalloc.start()
    try:
        theirs.sendall(stream)
        theirs.shutdown(socket.SHUT_WR)
        _read_all(link, stream, tally)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        link.close()
        theirs.close()
    assert peak < _MOST_MEMORY, f"a stream of {len(stream)} bytes took {peak} bytes"
    tally.slowest = max(tally.slowest, time.monotonic() - begun)


def _read_all(link: Link, stream: bytes, tally: Tally) -> None:
    at = 0
    while at < len(stream):
        try:
            frame = link.receive()
        except (WireError, LinkLostError) as error:
            assert error.message
            tally.refused += 1
            return
        assert len(frame.data) <= _CAPS.get(frame.kind, 0)
        again = wire.encode(frame.kind, frame.sequence, frame.body, bytes(frame.data))
        assert stream[at : at + len(again)] == again
        at += len(again)
        tally.taken += 1


def fuzz(count: int) -> Tally:
    """Try at least so many frames."""
    tally = Tally()
    while tally.frames < count:
        # short runs: what hypothesis remembers of a run makes a long one slower and slower
        _fuzz(min(_RUN, max(100, (count - tally.frames) // 4)), tally)
    return tally


def _fuzz(examples: int, tally: Tally) -> None:
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, suppress_health_check=_CALM)
    @hypothesis.given(STREAMS)
    def example(frames: list[bytes]) -> None:
        check_stream(frames, tally)

    example()
