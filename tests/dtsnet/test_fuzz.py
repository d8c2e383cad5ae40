"""Frames of every kind in any order, with any contents, against both sides of a session."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from dtscore.errors import DtsError
from dtsnet.folder import FolderTarget
from dtsnet.frames import HEADER, Kind, Stream
from dtsnet.outgoing import Outgoing, Sent
from dtsnet.receiver import Receiver
from dtsnet.sandbox import Sandbox
from dtsnet.sender import Sender, SendOptions
from dtsnet.sums import ChunkSum

SIZE = 2_000_000

SILENT = (Kind.BYE, Kind.PING, Kind.ASK, Kind.STREAMS, Kind.READY, Kind.GOT, Kind.AGAIN)

Spoken = tuple[Kind, int, int, bytes, bool]


def fields() -> st.SearchStrategy[bytes]:
    """Return descriptions: good ones, some with a value of another kind, and what is none at all."""
    good = st.fixed_dictionaries(
        {
            "path": st.sampled_from(["a", "b/c", "../x", "", "a/", "/etc/x", "\ud800", ".a.0123456789abcdef.part"]),
            "size": st.sampled_from([0, 3, 5000, SIZE, 1 << 62, 1 << 64, -1, True, "3"]),
            "stored": st.sampled_from([0, 4096, SIZE, 1 << 62]),
            "identity": st.integers(0, 3),
            "overwrite": st.booleans(),
            "folder": st.booleans(),
        },
        optional={
            "changed": st.booleans(), "anyway": st.booleans(), "same": st.booleans(),
            "crc32c": st.sampled_from(["00000000", f"{crc32c(b'abc'):08x}", 7]),
            "adler32": st.text(max_size=8), "class": st.text(max_size=5), "message": st.integers(),
        },
    )  # fmt: skip
    return st.one_of(good.map(lambda one: json.dumps(one).encode()), st.binary(max_size=60))


def payloads(kind: Kind) -> st.SearchStrategy[bytes]:
    """Return payloads that a frame of this kind might have, and others."""
    entry = st.builds(
        lambda offset, length: ChunkSum(offset, length, 0, 1).packed(),
        st.sampled_from([0, 4096, SIZE, 1 << 63]), st.sampled_from([0, 1, 4096, SIZE, 0xFFFFFFFF]),
    )  # fmt: skip
    whole = st.builds(
        lambda head, tail: len(head).to_bytes(4, "big") + head + tail, fields(), st.sampled_from([b"", b"abc"])
    )
    return {
        Kind.WHOLE: st.one_of(whole, fields()),
        Kind.CHUNK: st.sampled_from([b"", b"abc", bytes(4096), bytes(SIZE)]),
        Kind.HOLE: st.binary(max_size=8),
        Kind.HELD: st.lists(entry, max_size=3).map(b"".join),
        Kind.KEPT: st.one_of(entry, st.just(b"")),
    }.get(kind, fields())


def frames(kinds: Sequence[Kind]) -> st.SearchStrategy[list[Spoken]]:
    """Return conversations of one side."""
    offsets = st.sampled_from([0, 1, 3, 4096, SIZE, 1 << 63])
    one = st.sampled_from(kinds).flatmap(
        lambda kind: st.tuples(st.just(kind), st.integers(0, 3), offsets, payloads(kind), st.booleans())
    )
    return st.lists(one, max_size=12)


def speak(connection: socket.socket, spoken: list[Spoken], after: threading.Event) -> None:
    """Say frames, some of them damaged, without listening, and hang up."""
    try:
        for kind, file, offset, words, damaged in spoken:
            payload = b"" if kind in SILENT else words
            head = HEADER.pack(kind, 0, 0, file, offset, len(payload), crc32c(payload) ^ damaged)
            connection.sendall(head + crc32c(head).to_bytes(4, "big") + payload)
        connection.shutdown(socket.SHUT_WR)
        after.wait(5.0)
    except OSError:
        pass  # the other side has had enough
    finally:
        connection.close()


@settings(max_examples=150, deadline=None)
@given(frames(list(Kind)))
def test_a_receiver_takes_whatever_comes(spoken: list[Spoken]) -> None:
    """It ends with an error of ours or none, and nothing that is not whole has a name of its own."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(folder)
        receiver = Receiver(FolderTarget(sandbox))
        ours, theirs = socket.socketpair()
        ended = threading.Event()
        speaker = threading.Thread(target=speak, args=(theirs, spoken, ended))
        speaker.start()
        stream = Stream(ours, 0, 5.0)
        try:
            receiver.serve(stream)
        except DtsError:
            pass  # what it is for
        finally:
            stream.close()
            ended.set()
            receiver.close()
            speaker.join()
        for path in Path(folder).rglob("*"):
            if path.is_file() and ".part" not in path.name:
                assert path.read_bytes() in (b"", b"abc")
        sandbox.close()


@settings(max_examples=150, deadline=None)
@given(frames(list(Kind)))
def test_a_sender_takes_whatever_comes_back(spoken: list[Spoken]) -> None:
    """It ends with results or an error of ours, and soon."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "large").write_bytes(bytes(range(250)) * (SIZE // 250))
        (Path(folder) / "small").write_bytes(b"abc")
        files = [
            Outgoing(name, lambda name=name: os.open(f"{folder}/{name}", os.O_RDONLY))  # type: ignore[misc]
            for name in ("small", "large")
        ]
        ended = threading.Event()
        ours, theirs = socket.socketpair()
        theirs.settimeout(5.0)
        listener = threading.Thread(target=swallow, args=(theirs.dup(),))
        speaker = threading.Thread(target=speak, args=(theirs, spoken, ended))
        for thread in (listener, speaker):
            thread.start()
        sender = Sender(lambda number: Stream(ours, number, 1.0), files, SendOptions(streams=1, reconnects=0))
        results: list[Sent] = []
        try:
            results = sender.run()
        except DtsError:
            results = sender.ended
        finally:
            ended.set()
            for thread in (listener, speaker):
                thread.join()
        assert len(results) <= 2


def swallow(connection: socket.socket) -> None:
    """Take in all that is sent."""
    try:
        while connection.recv(1 << 16):
            pass
    except OSError:
        pass  # it is over
    finally:
        connection.close()
