"""The monitor's look at the database: work in hand, queues and what waits, told when it changed and once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from agents.lease import Beat, Lease
from agents.services import Services
from dtsd.monitor_board import Board, Buffer
from dtsd.monitor_look import Look, look
from reqdb import store
from tests.agents.sites import Site, put, transfer

QUEUE = "\n[queue des]\ntarget = archive\n"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    """A site with a queue."""
    made = Site(tmp_path / "site", database_url)
    made.path.write_text(made.path.read_text() + QUEUE)
    return made


@pytest.fixture
def services(site: Site) -> Iterator[Services]:
    """The services of the site."""
    made = Services(site.config)
    yield made
    made.close()


def take(services: Services) -> int:
    """Take a file and work on it for a while; return the place."""
    lease = Lease(services, "transfer")

    def work(connection: Connection) -> tuple[int, int]:
        (waiting,) = store.waiting_channels(connection, "transfer", node=services.node)
        token = store.take_place(connection, lease.agent_id, waiting, store.Limits())
        assert token is not None
        (file,) = store.claim_files(connection, token, waiting.channel_id, 1)
        return token, file.id

    token, file = services.database.run(work)
    lease.beat(Beat(True, False, (store.Progress(token, file, 5),)))
    return token


def test_what_a_look_finds(site: Site, services: Services) -> None:
    """The file in hand with its bytes so far, the file that waits, the queue, and the room on the disk."""
    site.submit(transfer(put(site, "a.fits", "b.fits")))
    take(services)
    with services.database.read() as connection:
        told = list(look(connection, services.config))
    (facts,) = (fields for event, fields in told if event == "site")
    assert (facts["waiting"], facts["working"], facts["agents"], facts["hung"]) == (1, 1, 1, 0)
    (queue,) = (fields for event, fields in told if event == "queue")
    assert (queue["name"], queue["state"], queue["waiting"], queue["targets"]) == ("des", "running", 0, ("archive",))
    (moved,) = (fields for event, fields in told if event == "transfer")
    assert (moved["path"], moved["bytes"], moved["peer"], moved["state"]) == ("/night/a.fits", 5, "archive", "running")


def next_of(buffer: Buffer, kind: str) -> dict[str, Any]:
    """Return the next event of a kind."""
    while True:
        for raw in buffer.take(20.0, most=1).splitlines():
            event: dict[str, Any] = json.loads(raw)
            if event["event"] == kind:
                return event


def test_only_changes_are_told(site: Site, services: Services) -> None:
    """A file that an agent lets go of is told as gone; what stays as it was is not told again."""
    site.submit(transfer(put(site, "a.fits")))
    token = take(services)
    board = Board()
    buffer = board.attach()
    looking = Look(board, lambda: services.database, services.config, every=0.02)
    number = next_of(buffer, "transfer")["number"]
    services.database.run(lambda connection: store.release(connection, token))
    gone = next_of(buffer, "transfer")
    assert (gone["number"], gone["state"]) == (number, "gone")
    looking.close()
    assert b'"event":"queue"' not in buffer.take(0.0, most=1 << 20)


def test_a_database_that_is_away_is_told_once(site: Site) -> None:
    """It is an error of the site and not of the monitor, which looks again."""
    services = Services(site.config)
    services.close()
    looks = 0

    def fail() -> Any:
        nonlocal looks
        looks += 1
        raise RuntimeError("no database")

    board = Board()
    buffer = board.attach()
    looking = Look(board, fail, services.config, every=0.01)
    assert next_of(buffer, "error")["message"] == "RuntimeError: no database"
    while looks < 5:
        pass
    looking.close()
    assert buffer.take(0.0) == b""
