"""What a turn did is told once to the site's monitor, and a monitor that misbehaves changes nothing of the work."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.monitoring import LONGEST, SOCKET
from reqdb.spec import FileSpec
from tests.agents.sites import Site, put, transfer


@pytest.fixture
def monitor(site: Site) -> Iterator[socket.socket]:
    """A socket where the site's daemon would have its own."""
    folder = site.config.run.folder
    folder.mkdir(parents=True, exist_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    descriptor = os.open(folder, os.O_PATH)
    bound.bind(f"/proc/self/fd/{descriptor}/{SOCKET}")
    os.close(descriptor)
    bound.setblocking(False)
    yield bound
    bound.close()


def heard(monitor: socket.socket) -> list[dict[str, object]]:
    """Return all that was told so far."""
    events = []
    while True:
        try:
            events.append(json.loads(monitor.recv(LONGEST)))
        except BlockingIOError:
            return events


def test_a_turn_is_one_event(site: Site, monitor: socket.socket) -> None:
    """Twenty files that were committed together are told together, a failed one with its reason."""
    files = [*put(site, *(f"f{number:02}.fits" for number in range(20))), FileSpec("/night/nowhere.fits")]
    site.submit(transfer(files))
    site.once("transfer")
    events = heard(monitor)
    assert {event["event"] for event in events} == {"files"}
    assert sum(int(str(event.get("done", 0))) for event in events) == 20
    assert len(events) < 20
    (bad,) = (event for event in events if event.get("failed"))
    assert (bad["agent"], bad["target"], bad["example"]) == ("transfer", "archive", "/night/nowhere.fits")
    assert str(bad["error"]).endswith("]")
    assert sum(int(str(event.get("bytes", 0))) for event in events) == 20 * 14


def test_a_monitor_that_does_not_listen_changes_nothing(site: Site, monitor: socket.socket) -> None:
    """A full socket, a dead one and a file in its place: the files are transferred all the same."""
    folder: Path = site.config.run.folder
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with pytest.raises(BlockingIOError):
        while True:
            sender.sendto(b"x" * 4096, str(folder / SOCKET))
    sender.close()
    site.submit(transfer(put(site, "a.fits")))
    assert site.once("transfer")["Done"] == 1
    monitor.close()
    site.submit(transfer(put(site, "b.fits")))
    assert site.once("transfer")["Done"] == 1
    (folder / SOCKET).unlink()
    (folder / SOCKET).write_text("no socket")
    site.submit(transfer(put(site, "c.fits")))
    assert site.once("transfer")["Done"] == 1
