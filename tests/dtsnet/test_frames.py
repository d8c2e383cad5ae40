"""Frames on a data connection."""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from dtscore.errors import ProtocolError, StreamLostError
from dtsnet.frames import BLOCK, HEADER, LONGEST_CHUNK, PAGE, Frame, Kind, Stream, read_fields


def streams() -> tuple[Stream, socket.socket]:
    """Return a stream and the other end of its connection."""
    ours, theirs = socket.socketpair()
    return Stream(ours, 0, 2.0), theirs


def received(data: bytes) -> list[Frame]:
    """Feed bytes to a stream and return copies of its frames."""
    stream, other = streams()

    def feed() -> None:
        other.sendall(data)
        other.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    frames = []
    try:
        while (frame := stream.receive()) is not None:
            frames.append(frame)
    finally:
        feeder.join()
        stream.close()
    return frames


def header(kind: int, length: int, *, flags: int = 0) -> bytes:
    """Return the header of a frame."""
    head = HEADER.pack(kind, flags, 0, 1, 0, length, 0)
    return head + crc32c(head).to_bytes(4, "big")


def test_a_frame_arrives_as_it_was_sent() -> None:
    """Kind, file, offset and payload in several parts come out on the other side."""
    stream, other = streams()
    receiver = Stream(other, 1, 2.0)
    stream.send(Kind.END, 7, 1 << 40, b"abc", b"def")
    frame = receiver.receive()
    assert frame is not None
    assert (frame.kind, frame.file, frame.offset, bytes(frame.payload)) == (Kind.END, 7, 1 << 40, b"abcdef")
    assert frame.intact
    stream.close()
    assert receiver.receive() is None
    receiver.close()


def test_a_damaged_payload_is_told_from_a_damaged_header() -> None:
    """A flipped bit in the payload leaves the stream usable; one in the header ends it."""
    stream, other = streams()
    stream.send(Kind.END, 1, 0, b"pixels")
    stream.close()
    data = bytearray(other.recv(1000))
    other.close()
    data[-1] ^= 1
    assert [frame.intact for frame in received(bytes(data))] == [False]
    data[3] ^= 1
    with pytest.raises(ProtocolError, match="header"):
        received(bytes(data))


@pytest.mark.parametrize("kind", list(Kind))
def test_no_kind_may_be_longer_than_its_cap(kind: Kind) -> None:
    """A length beyond the cap is refused before memory is set aside for it."""
    with pytest.raises(ProtocolError, match="allowed"):
        received(header(kind, 2 * LONGEST_CHUNK))


def test_an_unknown_kind_and_unknown_flags_are_refused() -> None:
    """What this version does not know is not guessed."""
    for data in (header(99, 0), header(Kind.PING, 0, flags=1)):
        with pytest.raises(ProtocolError, match="unknown kind"):
            received(data)


def test_an_end_in_the_middle_of_a_frame_is_a_lost_stream() -> None:
    """A cut connection is not taken for the end of the work."""
    with pytest.raises(StreamLostError, match="middle"):
        received(header(Kind.END, 10) + b"abc")


def test_silence_ends_a_stream() -> None:
    """Nothing for the idle time is an error, not a wait for ever."""
    ours, theirs = socket.socketpair()
    stream = Stream(ours, 3, 0.05)
    with pytest.raises(StreamLostError, match="nothing moved"):
        stream.receive()
    stream.close()
    theirs.close()


def test_a_chunk_comes_in_blocks_and_may_be_left_unread(tmp_path: Path) -> None:
    """Its payload is never in memory as a whole, and what nobody wanted does not get in the way of the next frame."""
    content = random.Random(1).randbytes(5 * BLOCK // 2)
    (tmp_path / "a").write_bytes(b"before" + content)
    stream, other = streams()
    receiver = Stream(other, 1, 2.0)
    with open(tmp_path / "a", "rb") as file:
        for turn in range(2):
            sending = threading.Thread(
                target=stream.send_chunk, args=((3, 6, len(content)), file.fileno(), crc32c(content))
            )
            sending.start()
            frame = receiver.receive()
            assert frame is not None
            assert (frame.kind, frame.offset, frame.length, frame.crc) == (Kind.CHUNK, 6, len(content), crc32c(content))
            if turn == 0:
                blocks = [bytes(block) for block in receiver.blocks()]
                assert [len(block) for block in blocks] == [BLOCK, BLOCK, BLOCK // 2]
                assert b"".join(blocks) == content
            else:
                following = threading.Thread(target=stream.send, args=(Kind.PING,))
                following.start()
                after = receiver.receive()
                assert after is not None
                assert after.kind is Kind.PING
                following.join()
            sending.join()
    assert stream.carried == 2 * len(content)
    stream.close()
    receiver.close()


def test_what_came_of_a_chunk_before_a_cut_is_handed_out(tmp_path: Path) -> None:
    """Whole pages that arrived are there before the error."""
    ours, theirs = socket.socketpair()
    head = HEADER.pack(Kind.CHUNK, 0, 0, 1, 0, 100_000, 0)
    ours.sendall(head + crc32c(head).to_bytes(4, "big") + bytes(3 * PAGE + 77))
    ours.close()
    receiver = Stream(theirs, 0, 2.0)
    assert receiver.receive() is not None
    blocks = receiver.blocks()
    assert len(next(blocks)) == 3 * PAGE
    with pytest.raises(StreamLostError):
        next(blocks)
    receiver.close()


def test_a_file_that_became_shorter_does_not_break_the_frame(tmp_path: Path) -> None:
    """The rest is zeros, and the CRC32C tells."""
    (tmp_path / "a").write_bytes(b"x" * 1000)
    stream, other = streams()
    receiver = Stream(other, 1, 2.0)
    with open(tmp_path / "a", "rb") as file:
        stream.send_chunk((1, 0, 5000), file.fileno(), 1)
    assert receiver.receive() is not None
    assert [bytes(block) for block in receiver.blocks()] == [b"x" * 1000 + bytes(4000)]
    stream.close()
    receiver.close()


def test_a_frame_that_drips_ends_its_stream() -> None:
    """What has begun to come must be whole within the idle time: a byte now and then is not enough."""
    ours, theirs = socket.socketpair()
    stream, stop = Stream(ours, 0, 0.3), threading.Event()

    def drip() -> None:
        for byte in header(Kind.END, 10_000) + bytes(10_000):
            if stop.wait(0.03):
                return
            theirs.send(bytes([byte]))

    dripping = threading.Thread(target=drip)
    dripping.start()
    with pytest.raises(StreamLostError, match="nothing moved"):
        stream.receive()
    stop.set()
    dripping.join()
    stream.close()
    theirs.close()


def test_a_ping_never_waits() -> None:
    """Where the other side does not read, a sign of life is left out."""
    ours, theirs = socket.socketpair()
    stream = Stream(ours, 0, 1.0)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    stream.ping()
    stream.close()
    theirs.close()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_frames_or_one_error(data: bytes) -> None:
    """Whatever comes, the outcome is frames or an error of ours."""
    try:
        received(data)
    except (ProtocolError, StreamLostError):
        pass


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", b"{", b"[" * 60000, b"1"])
def test_a_description_must_be_an_object(payload: bytes) -> None:
    """JSON of another kind, or none, is an error of ours."""
    with pytest.raises(ProtocolError, match="description"):
        read_fields(memoryview(payload))
