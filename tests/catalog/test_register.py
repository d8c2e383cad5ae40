"""Writing the catalog: registration in bulk, twice, at once, and against what is known."""

from __future__ import annotations

import threading
from datetime import date

import pytest
import sqlalchemy as sa

from catalog import store
from catalog.models import catalog_folders, catalog_metadata
from catalog.store import Metadata, Registration
from dtscore.database import Database
from dtscore.errors import NameRefusedError, UsageError
from tests.catalog.samples import copy_of, many

LFN = "/des/raw/2026-11-20/DECam_00000001.fits"


def _entry(database: Database, lfn: str = LFN) -> store.Entry:
    with database.read() as connection:
        return store.lookup(connection, [lfn])[lfn]


def _register(database: Database, *registrations: Registration) -> list[store.Conflict]:
    return database.run(lambda connection: store.register(connection, registrations))


def test_a_file_comes_back_as_it_was_registered(database: Database) -> None:
    """Size, checksum, replica and each column of the header survive the way through the database."""
    header = Metadata(
        "DECam",
        2**40,
        "ct4m",
        25,
        "r",
        "r DECam",
        "hex",
        "science",
        90.1,
        None,
        date(2026, 11, 20),
        1 / 3,
        -89.9,
        "P-1",
    )
    assert _register(database, copy_of(LFN, metadata=header)) == []
    entry = _entry(database)
    assert (entry.lfn, entry.size, entry.checksum, entry.metadata) == (LFN, 2880, "adler32:03da0195", header)
    replica = entry.replicas[0]
    assert (replica.element, replica.pfn, replica.state, replica.depth) == ("ctio", LFN[1:], "Good", "full")
    assert replica.verified_at is not None and replica.verified_at.tzinfo is not None


def test_registering_twice_is_registering_once(database: Database) -> None:
    """The second call adds no row and keeps the first moment; it verifies the replica anew."""
    _register(database, copy_of(LFN))
    first = _entry(database)
    assert _register(database, copy_of(LFN)) == []
    second = _entry(database)
    assert second.registered_at == first.registered_at
    assert len(second.replicas) == 1
    assert second.replicas[0].registered_at == first.replicas[0].registered_at


def test_several_replicas_of_one_file_in_one_call(database: Database) -> None:
    """A call may bring a file and all its copies; the same copy twice counts once."""
    assert _register(database, copy_of(LFN, "fnal"), copy_of(LFN, "ctio"), copy_of(LFN, "ctio")) == []
    assert [replica.element for replica in _entry(database).replicas] == ["ctio", "fnal"]


def test_other_bytes_are_a_conflict_and_the_rest_is_registered(database: Database) -> None:
    """A conflict names both sizes and checksums, changes nothing, and does not hold up its neighbours."""
    _register(database, copy_of(LFN))
    other = "/des/raw/2026-11-20/other.fits"
    conflicts = _register(database, copy_of(LFN, "fnal", size=5760, checksum="adler32:00000001"), copy_of(other))
    assert [conflict.lfn for conflict in conflicts] == [LFN]
    assert all(
        word in conflicts[0].message for word in ("2880", "5760", "adler32:03da0195", "adler32:00000001", "fnal")
    )
    assert [replica.element for replica in _entry(database).replicas] == ["ctio"]
    assert _entry(database, other).size == 2880


def test_two_new_registrations_of_one_name_in_one_call_may_conflict(database: Database) -> None:
    """The first by element wins; the other is reported, not written."""
    conflicts = _register(database, copy_of(LFN, "a"), copy_of(LFN, "b", size=1))
    assert len(conflicts) == 1
    assert [replica.element for replica in _entry(database).replicas] == ["a"]


def test_checksums_of_two_algorithms_are_not_compared(database: Database) -> None:
    """Where the algorithms differ the sizes decide, and the entry keeps its first checksum."""
    _register(database, copy_of(LFN))
    assert _register(database, copy_of(LFN, "fnal", checksum="md5:" + "0" * 32)) == []
    assert len(_register(database, copy_of(LFN, "ncsa", size=1, checksum="md5:" + "0" * 32))) == 1
    assert _entry(database).checksum == "adler32:03da0195"


def test_replace_changes_the_entry_and_condemns_the_other_replicas(database: Database) -> None:
    """After a replacement the old copies are Bad and say why, and the old header is gone."""
    _register(database, copy_of(LFN, "ctio", metadata=Metadata(object="old")), copy_of(LFN, "fnal"))
    assert _register(database, copy_of(LFN, "ctio", size=5760, checksum="adler32:00000001", replace=True)) == []
    entry = _entry(database)
    assert (entry.size, entry.checksum, entry.metadata) == (5760, "adler32:00000001", None)
    assert [(r.element, r.state, r.error) for r in entry.replicas] == [
        ("ctio", "Good", ""),
        ("fnal", "Bad", "superseded by other bytes"),
    ]


def test_replace_with_the_same_bytes_changes_nothing(database: Database) -> None:
    """An agent that repeats a replacement does not condemn the copies made since."""
    _register(database, copy_of(LFN, "ctio"), copy_of(LFN, "fnal"))
    _register(database, copy_of(LFN, "ctio", replace=True))
    assert {replica.state for replica in _entry(database).replicas} == {"Good"}


def test_a_declared_replica_is_suspect_and_changes_no_known_one(database: Database) -> None:
    """A claim that nobody checked is neither Good nor verified, and degrades nothing."""
    _register(database, copy_of(LFN, "ctio"), copy_of(LFN, "fnal", depth="declared"))
    _register(database, copy_of(LFN, "ctio", depth="declared"))
    states = {replica.element: (replica.state, replica.depth) for replica in _entry(database).replicas}
    assert states == {"ctio": ("Good", "full"), "fnal": ("Suspect", "declared")}
    assert _entry(database).replicas[1].verified_at is None


@pytest.mark.parametrize(
    "changed",
    [
        {"size": -1},
        {"size": None},
        {"size": True},
        {"checksum": ""},
        {"checksum": "adler32:"},
        {"checksum": "ABC"},
        {"depth": ""},
    ],
)
def test_nothing_is_registered_without_size_checksum_and_depth(database: Database, changed: dict[str, object]) -> None:
    """One bad registration refuses the call: the good one beside it is not written either."""
    with pytest.raises(UsageError):
        _register(database, copy_of("/good"), copy_of(LFN, **changed))  # type: ignore[arg-type]
    with database.read() as connection:
        assert store.lookup(connection, ["/good", LFN]) == {}


@pytest.mark.parametrize("lfn", ["relative", "/", "/a//b", "/a/../b", "/a\nb", "/" + "x" * 5000, "/\ud800"])
def test_bad_names_are_refused(database: Database, lfn: str) -> None:
    """The rules of names hold at this door too."""
    with pytest.raises(NameRefusedError):
        _register(database, copy_of(lfn))


def test_folders_come_with_their_parents(database: Database) -> None:
    """Each folder above a file is known, with its parent, also the root."""
    _register(database, copy_of("/a/b/c/f"), copy_of("/top"))
    above = catalog_folders.alias()
    with database.read() as connection:
        query = sa.select(catalog_folders.c.path, above.c.path).outerjoin(
            above, above.c.id == catalog_folders.c.parent_id
        )
        rows = {row[0]: row[1] for row in connection.execute(query)}
    assert rows == {"/": None, "/a": "/", "/a/b": "/a", "/a/b/c": "/a/b"}


def test_a_header_is_renewed_and_forgotten_with_its_entry(database: Database) -> None:
    """A later header replaces the earlier one; forgetting the entry leaves no orphan."""
    _register(database, copy_of(LFN, metadata=Metadata(object="one", filter="r")))
    _register(database, copy_of(LFN, metadata=Metadata(object="two")))
    assert _entry(database).metadata == Metadata(object="two")
    with database.write() as connection:
        store.unregister(connection, LFN, "ctio")
        assert store.forget(connection, LFN)
        assert connection.scalar(sa.select(sa.func.count()).select_from(catalog_metadata)) == 0


def test_bulk_of_5000(database: Database) -> None:
    """Five thousand files go in and come back in one call each, also beyond one statement's size."""
    wanted = many(12_000)
    assert _register(database, *wanted) == []
    with database.read() as connection:
        found = store.lookup(connection, [each.lfn for each in wanted])
    assert {lfn: entry.size for lfn, entry in found.items()} == {each.lfn: each.size for each in wanted}


def test_overlapping_registrations_at_the_same_time(database: Database) -> None:
    """Agents that register the same new folders and files at once, in any order, neither fail nor wait in a circle."""
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            start.wait(10)
            for round_number in range(4):
                mine = many(400, f"se{number}", f"/new/{round_number}")
                mine = mine if number % 2 else mine[::-1]
                with database.write() as connection:  # not run(): a deadlock would be repeated there
                    assert store.register(connection, mine) == []
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    with database.read() as connection:
        found = store.lookup(connection, [each.lfn for each in many(400, folder="/new/3")])
    assert len(found) == 400
    assert all(len(entry.replicas) == 4 for entry in found.values())


def test_a_replacement_and_a_registration_at_the_same_time_agree(database: Database) -> None:
    """Whoever comes first, no replica of the old bytes stays Good beside the new entry."""
    for number in range(10):
        lfn = f"/race/{number}"
        _register(database, copy_of(lfn))
        old, new = copy_of(lfn, "fnal"), copy_of(lfn, "ncsa", size=1, replace=True)
        threads = [threading.Thread(target=_register, args=(database, each)) for each in (old, new)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        entry = _entry(database, lfn)
        assert entry.size == 1
        assert [replica.element for replica in entry.replicas if replica.state == "Good"] == ["ncsa"]
