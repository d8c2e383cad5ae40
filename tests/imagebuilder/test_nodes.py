"""Builder nodes in the database: heartbeats, ages, draining."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from dtscore.database import Database
from dtscore.errors import NotFoundError
from imagebuilder import exposures, models, nodes
from imagebuilder.records import NodeStatus


def _beat(database: Database, name: str, **values: object) -> bool:
    status = NodeStatus(name, "host", 7731, 10, 7, 1000, **values)  # type: ignore[arg-type]
    return database.run(lambda connection: nodes.beat(connection, status))


def test_a_heartbeat_is_seen(database: Database) -> None:
    """The listing shows what the node last said of itself, and how long ago."""
    assert not _beat(database, "b", exposures=(4, 5), software="dts 1")
    _beat(database, "a")
    with database.read() as connection:
        first, second = nodes.listing(connection)
    assert (first.node, second.node, second.exposures, second.software) == ("a", "b", (4, 5), "dts 1")
    assert (second.host, second.port, second.free, second.pages, second.state) == ("host", 7731, 7, 10, "active")
    assert 0 <= second.age < 60


def test_draining_is_told_with_the_heartbeat(database: Database) -> None:
    """And taken back, and refused for a node that nobody knows."""
    _beat(database, "a")
    database.run(lambda connection: nodes.drain(connection, "a"))
    assert _beat(database, "a")
    with database.read() as connection:
        assert nodes.listing(connection)[0].draining
    database.run(lambda connection: nodes.drain(connection, "a", undo=True))
    assert not _beat(database, "a")
    with pytest.raises(NotFoundError, match="no builder node 'c'"):
        database.run(lambda connection: nodes.drain(connection, "c"))


def test_an_exposure_that_gets_blocks_is_not_silent(database: Database) -> None:
    """The heartbeat says which exposures got blocks: those are not built as partial meanwhile."""
    number = database.run(lambda connection: exposures.hand_out(connection, "duo"))[0].exposure
    database.run(
        lambda connection: exposures.begin(
            connection, number, "duo", node="a", pan="p", type="uint16", detectors=["S1"], expected=["S1", "N1"]
        )
    )
    table = models.exposures
    with database.write() as connection:
        begun = connection.execute(sa.select(table.c.touched_at)).scalar_one()
        connection.execute(sa.update(table).values(touched_at=begun - timedelta(hours=1)))
    with database.read() as connection:
        assert exposures.due(connection, "a", partial_after=1000)
    _beat(database, "b", active=(number,))
    with database.read() as connection:
        assert exposures.due(connection, "a", partial_after=1000)
    _beat(database, "a", active=(number,))
    with database.read() as connection:
        assert not exposures.due(connection, "a", partial_after=1000)


def test_a_forgotten_node_is_not_listed(database: Database) -> None:
    """For a host that is gone for good."""
    _beat(database, "a")
    database.run(lambda connection: nodes.forget(connection, "a"))
    with database.read() as connection:
        assert not nodes.listing(connection)


def test_pages_that_are_still_awaited_are_told_from_those_that_are_not(database: Database) -> None:
    """A page is wanted while its frame is in no file and its assignment is the present one."""
    number = database.run(lambda connection: exposures.hand_out(connection, "duo"))[0].exposure
    database.run(
        lambda connection: exposures.begin(
            connection, number, "duo", node="a", pan="p", type="uint16", detectors=["S1"], expected=["S1"]
        )
    )
    pages = [(number, 1, "S1"), (number, 2, "S1"), (number, 1, "N1"), (77, 1, "S1")]
    with database.read() as connection:
        assert exposures.wanted_pages(connection, pages) == {(number, 1, "S1")}
