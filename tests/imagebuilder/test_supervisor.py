"""Supervisors: they hand out numbers, send PANs to the active node, and away from a dead one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from dtscore.database import Database
from imagebuilder import exposures, nodes
from imagebuilder.node import Node
from imagebuilder.records import ExposureState, NodeStatus
from imagebuilder.supervisor import Supervisor
from imagebuilder.wire import Kind
from tests.imagebuilder.wiring import PAGE, RawPan, label, running, serving, settings, sky_of


def _until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.02)


def _alive(database: Database) -> set[str]:
    with database.read() as connection:
        return {line.node for line in nodes.alive(connection, 1e9)}


def _beat(database: Database, name: str, free: int) -> None:
    """Write the heartbeat of a node that is only said to be there."""
    status = NodeStatus(name, f"{name}.example", 7731, 10, free, PAGE)
    database.run(lambda connection: nodes.beat(connection, status))


def test_a_supervisor_hands_out_numbers(database: Database, tmp_path: Path) -> None:
    """Two supervisors hand out numbers at once: none twice, none left out."""
    found: list[int] = []
    first = Supervisor(database, settings(tmp_path), "s1")
    second = Supervisor(database, settings(tmp_path), "s2")
    with serving(first), serving(second):

        def ask(port: int) -> None:
            with RawPan(port) as pan:
                for _ in range(10):
                    found.append(int(pan.ask(Kind.LABEL, count=2).body["exposure"]))

        threads = [threading.Thread(target=ask, args=(one.port,)) for one in (first, second, first)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == list(range(1, 61, 2))


def test_the_node_with_most_room_is_active_and_keeps_its_exposure(database: Database, tmp_path: Path) -> None:
    """The choice falls once for each exposure, and is the same for every PAN and every supervisor."""
    exposure, later = label(database), label(database)
    _beat(database, "one", 3)
    _beat(database, "two", 8)
    supervisor = Supervisor(database, settings(tmp_path), "s1")
    with serving(supervisor), RawPan(supervisor.port) as pan, RawPan(supervisor.port, "p2") as other:
        here = pan.ask(Kind.WHERE, exposure=exposure)
        assert here.body == {
            "exposure": str(exposure), "host": "two.example", "port": "7731", "node": "two", "assignment": "1",
        }  # fmt: skip
        _beat(database, "two", 1)
        assert other.ask(Kind.WHERE, exposure=exposure).body == here.body
        assert other.ask(Kind.WHERE, exposure=later).body["node"] == "one"


def test_a_draining_node_gets_no_new_exposure(database: Database, tmp_path: Path) -> None:
    """New ones go elsewhere; when all drain the PAN is told to keep its pixels and ask again."""
    first, second = label(database), label(database)
    _beat(database, "one", 3)
    _beat(database, "two", 8)
    database.run(lambda connection: nodes.drain(connection, "two"))
    supervisor = Supervisor(database, settings(tmp_path), "s1")
    with serving(supervisor), RawPan(supervisor.port) as pan:
        assert pan.ask(Kind.WHERE, exposure=first).body["node"] == "one"
        database.run(lambda connection: nodes.drain(connection, "one"))
        pan.refused("unavailable", Kind.WHERE, exposure=second)


def test_a_supervisor_takes_no_pixels(database: Database, tmp_path: Path) -> None:
    """A BEGIN that comes to it is sent on."""
    supervisor = Supervisor(database, settings(tmp_path), "s1")
    with serving(supervisor), RawPan(supervisor.port) as pan:
        pan.refused("not-here", Kind.BEGIN, exposure=label(database), detectors="S1", type="uint16")


def test_a_dead_node_is_taken_out_in_mid_exposure(database: Database, tmp_path: Path) -> None:
    """The node falls silent in the middle: the PAN asks again, sends everything to the next node, and that one has it.

    When the dead one wakes up, it gives the exposure up, and what it writes changes nothing.
    """
    exposure = label(database)
    dead = Node(database, settings(tmp_path), "dead")
    supervisor = Supervisor(database, settings(tmp_path, stale=0.3), "s1")
    with serving(supervisor), RawPan(supervisor.port) as asking:
        with serving(dead):
            _until(lambda: _alive(database) == {"dead"})
            here = asking.ask(Kind.WHERE, exposure=exposure)
            assert (here.body["node"], here.body["port"]) == ("dead", str(dead.port))
            with RawPan(dead.port) as pan:
                pan.begin(exposure)
                pan.send_all(exposure, sky_of("S1"))
        with running(database, tmp_path, "next", cache_folder=tmp_path / "next") as following:
            _until(lambda: asking.ask(Kind.WHERE, exposure=exposure).body.get("node") == "next")
            here = asking.ask(Kind.WHERE, exposure=exposure)
            assert (here.body["port"], here.body["assignment"]) == (str(following.port), "2")
            with RawPan(following.port) as pan:
                accepted = pan.begin(exposure)
                assert (accepted.body["assignment"], bytes(accepted.data)) == ("2", b"")
                with running(database, tmp_path, "dead"):
                    pan.send_all(exposure, sky_of())
                    assert pan.ask(Kind.END, exposure=exposure).kind is Kind.RECEIVED
                    _until(lambda: not list((tmp_path / "cache").glob("*.page")))
    with database.read() as connection:
        found = exposures.find(connection, exposure)
    assert (found.line.state, found.line.node, found.line.assignment) == (ExposureState.COMPLETE, "next", 2)
