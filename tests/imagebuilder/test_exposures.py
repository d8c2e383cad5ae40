"""Exposures in the database: unique numbers, one node at a time, versions, and nothing saved under a stale number."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dtscore.database import Database
from dtscore.errors import NotFoundError, StateError, UsageError
from imagebuilder import exposures, models, nodes
from imagebuilder.records import (
    BlockRange,
    Built,
    Due,
    ExposureState,
    FileState,
    FrameState,
    NodeStatus,
    ReceivedFrame,
    Reservation,
)

BUILT = Built(100, "xxh3-128:" + "0" * 32, {"S1": 7})
SUMS = {"A": (BlockRange(0, 4, 11), BlockRange(4, 4, 12)), "B": (BlockRange(0, 8, 13),)}


def _node(database: Database, name: str, free: int = 10) -> None:
    status = NodeStatus(name, f"{name}.example", 7000, 10, free, 1000)
    database.run(lambda connection: nodes.beat(connection, status))


def _silence(database: Database, name: str) -> None:
    """Make a node's last heartbeat ten minutes old."""
    table = models.nodes
    with database.write() as connection:
        old = connection.execute(sa.select(table.c.heartbeat_at).where(table.c.name == name)).scalar_one()
        change = sa.update(table).where(table.c.name == name)
        connection.execute(change.values(heartbeat_at=old - timedelta(minutes=10)))


def _label(database: Database, camera: str = "duo") -> int:
    return database.run(lambda connection: exposures.hand_out(connection, camera))[0].exposure


def _begin(database: Database, exposure: int, *detectors: str, node: str = "a") -> exposures.Begun:
    return database.run(
        lambda connection: exposures.begin(
            connection, exposure, "duo", node=node, pan="p", type="uint16", detectors=detectors, expected=("N1", "S1")
        )
    )


def _receive(database: Database, exposure: int, *detectors: str, assignment: int = 1) -> bool:
    frames = [ReceivedFrame(name, "p", "uint16", SUMS) for name in detectors]
    return database.run(lambda connection: exposures.received(connection, exposure, assignment, frames))


def _due(database: Database, node: str = "a", partial_after: float = 1000.0) -> list[Due]:
    with database.read() as connection:
        return exposures.due(connection, node, partial_after=partial_after)


def _reserve(database: Database, due: Due, node: str = "a") -> Reservation | None:
    lfn = f"/duo/{due.label}{'' if due.version == 1 else f'_v{due.version}'}.fits"
    return database.run(lambda connection: exposures.reserve_file(connection, due, lfn, node))


def _save(database: Database, reserved: Reservation) -> exposures.SavedFile:
    return database.run(lambda connection: exposures.saved(connection, reserved, BUILT))


def _state(database: Database, exposure: int) -> ExposureState:
    with database.read() as connection:
        return exposures.find(connection, exposure).line.state


def test_numbers_ascend_without_a_gap_and_are_labelled(database: Database) -> None:
    """Each number is one more than the last, and the label is made of the camera and the number."""
    first = database.run(lambda connection: exposures.hand_out(connection, "decam", 3, "survey"))
    second = database.run(lambda connection: exposures.hand_out(connection, "duo"))
    assert [one.exposure for one in first + second] == [1, 2, 3, 4]
    assert (first[0].label, second[0].label) == ("decam_00000001", "duo_00000004")


def test_a_rolled_back_number_was_never_handed_out(database: Database) -> None:
    """A hand-out whose transaction fails leaves no gap, for nobody was told of it."""
    with pytest.raises(StateError), database.write() as connection:
        exposures.hand_out(connection, "duo")
        raise StateError("broken off")
    assert _label(database) == 1


def test_numbers_go_on_above_what_is_known_outside(database: Database) -> None:
    """After a restored backup the mark, or a node's heartbeat, keeps numbers from being used again."""
    assert _label(database) == 1
    jumped = database.run(lambda connection: exposures.hand_out(connection, "duo", above=500))
    assert jumped[0].exposure == 501
    status = NodeStatus("a", "h", 1, 1, 1, 1, highest=900)
    database.run(lambda connection: nodes.beat(connection, status))
    assert _label(database) == 901
    database.run(lambda connection: nodes.beat(connection, status))
    assert _label(database) == 902


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_a_silly_count_is_refused(database: Database, count: int) -> None:
    """None, or very many numbers at once, is a mistake of the caller."""
    with pytest.raises(UsageError, match="numbers"):
        database.run(lambda connection: exposures.hand_out(connection, "duo", count))


_TAKER = """
import sys
from dtscore.database import Database
from imagebuilder import exposures
database = Database(sys.argv[1])
for _ in range(10):
    print(*(one.exposure for one in database.run(lambda connection: exposures.hand_out(connection, "duo", 2))))
"""


def test_twenty_processes_never_get_the_same_number(database: Database, database_url: str) -> None:
    """Twenty processes at once take 400 numbers: each number once, and none left out."""
    command = [sys.executable, "-c", _TAKER, database_url]
    takers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(20)]
    found: list[int] = []
    for taker in takers:
        out, _ = taker.communicate(timeout=100)
        assert taker.returncode == 0
        found.extend(int(word) for word in out.split())
    assert sorted(found) == list(range(1, 401))


def test_the_node_with_most_free_memory_is_assigned_and_kept(database: Database) -> None:
    """The choice is made once; later questions get the same answer while that node lives."""
    _node(database, "a", free=2)
    _node(database, "b", free=8)
    number = _label(database)
    for _ in range(2):
        found = database.run(lambda connection: exposures.assign(connection, number, "duo", stale=60))
        assert (found.node, found.host, found.port, found.number) == ("b", "b.example", 7000, 1)
        _node(database, "a", free=10)


def test_a_dead_node_is_replaced_and_its_frames_are_expected_anew(database: Database) -> None:
    """In mid-exposure another node takes over under the next number; what the dead one held is asked for again."""
    _node(database, "a")
    number = _label(database)
    assert database.run(lambda connection: exposures.assign(connection, number, "duo", stale=60)).node == "a"
    _begin(database, number, "S1", "N1")
    _receive(database, number, "S1", "N1")
    reserved = _reserve(database, _due(database)[0])
    assert reserved is not None
    _silence(database, "a")
    _node(database, "b", free=1)
    found = database.run(lambda connection: exposures.assign(connection, number, "duo", stale=60))
    assert (found.node, found.number) == ("b", 2)
    with pytest.raises(StateError, match="given to the node b"):
        _save(database, reserved)
    with pytest.raises(StateError, match="given to the node b"):
        _receive(database, number, "S1")
    with pytest.raises(StateError, match="given to the node b"):
        _begin(database, number, "S1")
    assert _begin(database, number, "S1", node="b").assignment == 2
    assert _due(database) == [] and _due(database, "b") == []
    assert _receive(database, number, "S1", "N1", assignment=2)
    again = _reserve(database, _due(database, "b")[0], "b")
    assert again is not None and again.version == 1
    assert _save(database, again).lfn == reserved.lfn
    assert _state(database, number) is ExposureState.SAVED


def test_a_draining_node_keeps_what_it_has_begun(database: Database) -> None:
    """A drained node gets no new exposure but finishes the one in hand; drained nodes alone take nothing."""
    _node(database, "a")
    begun, fresh = _label(database), _label(database)
    database.run(lambda connection: exposures.assign(connection, begun, "duo", stale=60))
    _begin(database, begun, "S1")
    database.run(lambda connection: nodes.drain(connection, "a"))
    assert database.run(lambda connection: exposures.assign(connection, begun, "duo", stale=60)).node == "a"
    with pytest.raises(StateError, match="all nodes drain"):
        database.run(lambda connection: exposures.assign(connection, fresh, "duo", stale=60))
    database.run(lambda connection: nodes.drain(connection, "a", undo=True))
    assert database.run(lambda connection: exposures.assign(connection, fresh, "duo", stale=60)).node == "a"


def test_no_node_no_exposure_and_the_wrong_camera_are_refused(database: Database) -> None:
    """Each has its own clear answer."""
    number = _label(database)
    with pytest.raises(StateError, match="no node is alive"):
        database.run(lambda connection: exposures.assign(connection, number, "duo", stale=60))
    with pytest.raises(NotFoundError, match="never handed out"):
        database.run(lambda connection: exposures.assign(connection, 99, "duo", stale=60))
    with pytest.raises(UsageError, match="belongs to the camera duo"):
        database.run(lambda connection: exposures.assign(connection, number, "decam", stale=60))
    with pytest.raises(NotFoundError):
        _begin(database, 99, "S1")


def test_a_complete_exposure_is_due_once_and_saved_once(database: Database) -> None:
    """Received frames make it due; a reservation makes it due no longer; the second save is refused."""
    number = _label(database)
    begun = _begin(database, number, "S1", "N1")
    assert (begun.assignment, begun.expected, dict(begun.saved)) == (1, ("N1", "S1"), {})
    assert _due(database) == []
    assert not _receive(database, number, "S1")
    assert _due(database) == []
    assert _receive(database, number, "N1")
    assert _state(database, number) is ExposureState.COMPLETE
    (due,) = _due(database)
    assert (due.complete, due.detectors, due.missing, due.version) == (True, ("N1", "S1"), (), 1)
    reserved = _reserve(database, due)
    assert reserved is not None
    assert _reserve(database, due) is None
    assert _due(database) == []
    with database.read() as connection:
        assert exposures.reservation(connection, number, 1, 1) == reserved
    saved = _save(database, reserved)
    assert (saved.complete, saved.detectors) == (True, ("N1", "S1"))
    with pytest.raises(StateError, match="is Saved"):
        _save(database, reserved)
    assert _state(database, number) is ExposureState.SAVED
    assert _due(database) == []


def test_silence_makes_a_partial_file_and_the_late_frame_a_new_version(database: Database) -> None:
    """The first version lacks a detector; the second takes the late one over and says what it supersedes."""
    number = _label(database)
    _begin(database, number, "S1")
    _receive(database, number, "S1")
    assert _due(database) == []
    (due,) = _due(database, partial_after=0)
    assert (due.complete, due.detectors, due.missing) == (False, ("S1",), ("N1",))
    first = _reserve(database, due)
    assert first is not None
    assert not _save(database, first).complete
    assert _state(database, number) is ExposureState.PARTIAL
    assert _due(database, partial_after=0) == []
    _begin(database, number, "N1")
    assert _due(database, partial_after=0) == []
    assert _receive(database, number, "N1")
    (due,) = _due(database)
    second = _reserve(database, due)
    assert second is not None
    assert (second.version, second.detectors, second.missing) == (2, ("N1",), ())
    assert second.supersedes == first.lfn
    _save(database, second)
    assert _state(database, number) is ExposureState.SAVED
    with database.read() as connection:
        files = exposures.saved_files(connection, [number])
        assert [(one.version, one.detectors, one.complete) for one in files] == [
            (1, ("S1",), False),
            (2, ("N1",), True),
        ]
        assert exposures.sums_of(connection, first.lfn) == {"S1": SUMS}
        assert exposures.sums_of(connection, second.lfn) == {"N1": SUMS, "S1": SUMS}
        assert exposures.sums_of(connection, "/elsewhere.fits") == {}


def test_half_a_frame_alone_is_worth_one_file(database: Database) -> None:
    """A PAN that died in mid-frame gives a first version; without anything new there is no second."""
    number = _label(database)
    _begin(database, number, "S1")
    (due,) = _due(database, partial_after=0)
    assert (due.detectors, due.missing) == ((), ("N1", "S1"))
    reserved = _reserve(database, due)
    assert reserved is not None
    _save(database, reserved)
    assert _due(database, partial_after=0) == []


def test_what_is_saved_already_is_told_when_it_is_begun_again(database: Database) -> None:
    """A PAN that missed its SAVED learns of the file; the frame's sums are not touched."""
    number = _label(database)
    _begin(database, number, "S1", "N1")
    _receive(database, number, "S1", "N1")
    reserved = _reserve(database, _due(database)[0])
    assert reserved is not None
    saved = _save(database, reserved)
    assert dict(_begin(database, number, "S1").saved) == {"S1": saved}
    assert _receive(database, number, "S1")
    assert _state(database, number) is ExposureState.SAVED


def test_an_abandoned_version_is_asked_for_again(database: Database) -> None:
    """Pages that are lost are expected anew, and the same version is reserved when they have come again."""
    number = _label(database)
    _begin(database, number, "S1", "N1")
    _receive(database, number, "S1", "N1")
    reserved = _reserve(database, _due(database)[0])
    assert reserved is not None
    assert database.run(lambda connection: exposures.abandon(connection, number, 1, 1, lost=["S1"]))
    assert not database.run(lambda connection: exposures.abandon(connection, number, 1, 1))
    with database.read() as connection:
        found = exposures.find(connection, number)
    assert {one.detector: one.state for one in found.frames} == {"N1": FrameState.RECEIVED, "S1": FrameState.EXPECTED}
    assert found.files[0].state is FileState.ABANDONED
    with pytest.raises(StateError, match="is Abandoned"):
        _save(database, reserved)
    _begin(database, number, "S1")
    assert _receive(database, number, "S1")
    again = _reserve(database, _due(database)[0])
    assert again is not None and (again.version, again.lfn) == (1, reserved.lfn)


def test_listing_shows_what_was_received_and_saved(database: Database) -> None:
    """The newest exposure comes first, with its counts and its file."""
    first, second = _label(database), _label(database)
    _begin(database, first, "S1", "N1")
    _receive(database, first, "S1", "N1")
    reserved = _reserve(database, _due(database)[0])
    assert reserved is not None
    _save(database, reserved)
    with database.read() as connection:
        found = exposures.lines(connection)
        assert [line.exposure for line in exposures.lines(connection, state="Saved")] == [first]
        assert exposures.current(connection, [first, second]) == {first: ("a", 1), second: ("", 0)}
    assert [line.exposure for line in found] == [second, first]
    assert (found[1].expected, found[1].received, found[1].saved, found[1].lfn) == (2, 2, 2, reserved.lfn)
    with pytest.raises(NotFoundError), database.read() as connection:
        exposures.find(connection, 77)
