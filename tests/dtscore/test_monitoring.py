"""Saying what happens: it never fails, never waits, and costs a look where nobody listens."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.monitoring import LONGEST, SOCKET, line, say


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket where a daemon would have its own, in a folder whose path is longer than a socket's may be."""
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    descriptor = os.open(folder, os.O_PATH)
    bound.bind(f"/proc/self/fd/{descriptor}/{SOCKET}")
    os.close(descriptor)
    bound.settimeout(5.0)
    yield bound
    bound.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run folder of that daemon."""
    return tmp_path / ("long-" * 30)


def test_what_is_said_is_heard(listener: socket.socket, folder: Path) -> None:
    """All kinds of fields arrive as JSON of one line; what is None is left out."""
    say(folder, "transfer", id="7", bytes=1 << 40, rate=1.5, flagged=True, peer=None, files=("a", "b\n"))
    event = json.loads(listener.recv(LONGEST))
    assert event.pop("at") > 0
    expected = {"event": "transfer", "id": "7", "bytes": 1 << 40, "rate": 1.5, "flagged": True, "files": ["a", "b\n"]}
    assert event == expected


def test_long_texts_are_cut(listener: socket.socket, folder: Path) -> None:
    """No text makes the datagram too long, and what is cut shows it."""
    say(folder, "error", message="x" * 100_000, files=("y" * 10_000,) * 10)
    event = json.loads(listener.recv(65536))
    assert len(event["message"]) == 512
    assert event["message"].endswith("…")
    assert len(event["files"]) == 10


def test_nothing_that_goes_wrong_is_raised(tmp_path: Path, folder: Path, listener: socket.socket) -> None:
    """No folder, no daemon, a dead daemon, no event, fields that are too much or no fields: all are silent."""
    say(tmp_path / "nowhere", "error")
    say(tmp_path, "error")
    say(folder, "No event")
    say(folder, "error", **{f"key{number}": "z" * 512 for number in range(30)})
    say(folder, "error", rate=float("nan"))
    say(folder, "error", what=object())  # type: ignore[arg-type]
    say(folder, "error", lost="\ud800")
    assert json.loads(listener.recv(LONGEST))["lost"] == "\ud800"
    listener.close()
    say(folder, "error")


def test_a_listener_that_is_behind_makes_nobody_wait(listener: socket.socket, folder: Path) -> None:
    """Datagrams beyond what the socket holds are lost; those that it took arrive."""
    for number in range(5000):
        say(folder, "files", done=number)
    listener.setblocking(False)
    heard = []
    while True:
        try:
            heard.append(json.loads(listener.recv(LONGEST))["done"])
        except BlockingIOError:
            break
    assert heard == list(range(len(heard)))
    assert 0 < len(heard) < 5000


def test_a_line_is_ascii_without_breaks() -> None:
    """Whatever a field holds, an event is one line."""
    raw = line("error", {"message": "näïve\r\n\x1b[31m\u2028"})
    assert raw.isascii()
    assert b"\n" not in raw
    assert json.loads(raw)["message"] == "näïve\r\n\x1b[31m\u2028"
