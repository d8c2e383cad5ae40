"""What a sender makes of the path."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dtsnet import path
from dtsnet.path import CHUNK, MOST_STREAMS, Measured, Tuner, measure

NEAR = Measured(0.0001, 0.0001, 100_000, 0.0, 10, 0, 0.0)
FAR = replace(NEAR, rtt=0.08, least_rtt=0.08)


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """A TCP connection on loopback."""
    server = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(server.getsockname())
    theirs, _ = server.accept()
    yield ours
    for each in (ours, theirs, server):
        each.close()


class Clock:
    """The time, and what is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: Measured, *, bbr: bool) -> None:
        """Stand in for the kernel."""
        self.now = self.moved = 0.0
        self.found = found
        monkeypatch.setattr(path, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(path, "measure", lambda connection: self.found)
        monkeypatch.setattr(path, "_use_bbr", lambda connection: bbr)
        monkeypatch.setattr(path, "most_in_flight", lambda: 4 << 20)

    def run(self, tuner: Tuner, connection: socket.socket, rates: list[float]) -> list[int]:
        """Let seconds pass, each at a rate; return the streams after each."""
        seen = []
        for rate in rates:
            self.now += 1.0
            self.moved += rate
            tuner.step(int(self.moved), [connection])
            seen.append(tuner.streams)
        return seen


def test_the_kernel_tells_of_a_real_connection(connection: socket.socket) -> None:
    """Round trip and window of a connection on loopback are those of one."""
    found = measure(connection)
    assert found is not None
    assert 0 < found.least_rtt < 1
    assert found.window > 0
    ours, theirs = socket.socketpair()
    assert measure(ours) is None
    ours.close()
    theirs.close()


def test_in_the_same_room_two_streams_do(connection: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried that the path does not need."""
    clock = Clock(monkeypatch, NEAR, bbr=True)
    tuner = Tuner(0)
    tuner.prepare(connection)
    assert (tuner.streams, tuner.chunk) == (2, CHUNK)
    assert clock.run(tuner, connection, [1e9] * 5) == [2] * 5
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= CHUNK


@pytest.mark.parametrize(("bbr", "streams"), [(True, 6), (False, 16)])
def test_a_long_path_gets_as_many_as_fill_it(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch, bbr: bool, streams: int
) -> None:
    """With bbr what 1 Gbit/s needs; without, as many as hide the losses of each other."""
    Clock(monkeypatch, FAR, bbr=bbr)
    tuner = Tuner(0)
    tuner.prepare(connection)
    assert tuner.streams == streams
    said = [str(decision) for decision in tuner.decisions]
    assert any("80 ms" in sentence and "bbr" in sentence for sentence in said)
    assert all(decision.what and decision.why for decision in tuner.decisions)


def test_more_streams_are_tried_where_buffers_are_in_the_way(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept when they bring more, and given up when they do not."""
    clock = Clock(monkeypatch, replace(FAR, held_up=0.5), bbr=True)
    tuner = Tuner(0)
    tuner.prepare(connection)
    assert clock.run(tuner, connection, [10e6, 50e6, 50e6]) == [6, 6, 12]
    seen = clock.run(tuner, connection, [95e6, 96e6, 96e6, 96e6, 96e6, 96e6])
    assert seen[0] == 12
    assert seen[-1] == 12
    assert 16 in seen
    assert "no more" in str(tuner.decisions[-1])


def test_a_path_that_is_full_gets_no_more(connection: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither buffers nor losses are in the way, more streams would only overflow queues."""
    clock = Clock(monkeypatch, FAR, bbr=True)
    tuner = Tuner(0)
    tuner.prepare(connection)
    assert clock.run(tuner, connection, [50e6, 100e6, 100e6, 100e6, 100e6]) == [6] * 5
    assert "sets the limit" in str(tuner.decisions[-1])


def test_what_was_asked_for_is_what_is_done(connection: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of streams is not second-guessed, a limit needs few, and no number is beyond what is let in."""
    clock = Clock(monkeypatch, replace(FAR, held_up=0.9), bbr=True)
    fixed, limited, few = Tuner(3), Tuner(0, limit=10e6), Tuner(0, most=2)
    for tuner in (fixed, limited, few):
        tuner.prepare(connection)
    assert clock.run(fixed, connection, [1e6] * 5) == [3] * 5
    assert clock.run(limited, connection, [10e6] * 5) == [1] * 5
    assert clock.run(few, connection, [10e6] * 5) == [2] * 5


def test_pieces_are_no_shorter_than_what_is_on_the_way(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a cut costs at most one piece of each stream."""
    clock = Clock(monkeypatch, FAR, bbr=True)
    monkeypatch.setattr(path, "most_in_flight", lambda: 16 << 20)
    tuner = Tuner(MOST_STREAMS)
    tuner.prepare(connection)
    assert tuner.chunk == 16 << 20
    assert clock.now == 0
