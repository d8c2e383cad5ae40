"""States of replicas, their end, and the trash."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from catalog import store
from dtscore.database import Database
from dtscore.errors import NotFoundError, StateError, UsageError
from tests.catalog.samples import copy_of

LFN = "/des/a.fits"


@pytest.fixture
def two(database: Database) -> Database:
    """A database with one file on ctio and fnal."""
    database.run(lambda connection: store.register(connection, [copy_of(LFN, "ctio"), copy_of(LFN, "fnal")]))
    return database


def _states(database: Database) -> dict[str, str]:
    with database.read() as connection:
        return {replica.element: replica.state for replica in store.lookup(connection, [LFN])[LFN].replicas}


def test_a_suspect_replica_is_a_source_after_the_good_ones_and_a_bad_one_never(two: Database) -> None:
    """Sources come best first; only Good ones count as good replicas."""
    with two.write() as connection:
        assert store.mark(connection, LFN, "ctio", "Suspect", "read error")
        entry = store.lookup(connection, [LFN])[LFN]
        assert [replica.element for replica in entry.sources] == ["fnal", "ctio"]
        assert entry.replicas[0].error == "read error"
        assert store.mark(connection, LFN, "ctio", "Bad", "other bytes")
        assert [replica.element for replica in store.lookup(connection, [LFN])[LFN].sources] == ["fnal"]
        assert [replica.element for replica in store.good_replicas(connection, LFN)] == ["fnal"]


def test_deleting_is_left_only_by_register_or_release(two: Database) -> None:
    """Neither a mark nor a late verification brings a replica back that is being removed, nor is it a source."""
    with two.write() as connection:
        assert store.mark(connection, LFN, "ctio", "Deleting")
        for state in ("Good", "Suspect", "Bad"):
            assert not store.mark(connection, LFN, "ctio", state)
        assert store.verified(connection, [(LFN, "ctio", "full")]) == 0
        assert [replica.element for replica in store.lookup(connection, [LFN])[LFN].sources] == ["fnal"]
        store.register(connection, [copy_of(LFN, "ctio", depth="declared")])
    assert _states(two) == {"ctio": "Deleting", "fnal": "Good"}
    two.run(lambda connection: store.register(connection, [copy_of(LFN, "ctio")]))
    assert _states(two)["ctio"] == "Good"


@pytest.mark.parametrize("before", ["Good", "Suspect", "Bad"])
def test_a_removal_that_is_called_off_restores_the_state(two: Database, before: str) -> None:
    """Release gives back what was before, also if Deleting was marked twice, and only once."""
    with two.write() as connection:
        store.mark(connection, LFN, "ctio", before)
        store.mark(connection, LFN, "ctio", "Deleting")
        store.mark(connection, LFN, "ctio", "Deleting")
        assert store.release(connection, LFN, "ctio", "the other copy is gone")
        assert not store.release(connection, LFN, "ctio")
    assert _states(two)["ctio"] == before


def test_verified_makes_good_in_bulk(two: Database) -> None:
    """Verified replicas become Good with moment and depth; unknown ones are passed over."""
    with two.write() as connection:
        store.mark(connection, LFN, "ctio", "Bad", "x")
        checked = [(LFN, "ctio", "size"), (LFN, "fnal", "readback"), (LFN, "nowhere", "full"), ("/no", "ctio", "full")]
        assert store.verified(connection, checked) == 2
        replicas = store.lookup(connection, [LFN])[LFN].replicas
        assert [(r.state, r.depth, r.error) for r in replicas] == [("Good", "size", ""), ("Good", "readback", "")]


def test_a_replica_that_was_never_verified_cannot_be_marked_good(database: Database) -> None:
    """Good means checked: a declared replica becomes Good by a verification alone."""
    with database.write() as connection:
        store.register(connection, [copy_of(LFN, "ctio", depth="declared")])
        assert not store.mark(connection, LFN, "ctio", "Good")
        assert store.verified(connection, [(LFN, "ctio", "full")]) == 1
        assert len(store.good_replicas(connection, LFN)) == 1


def test_marks_of_unknown_things(two: Database) -> None:
    """Unknown names and elements answer False; an unknown state is an error."""
    with two.write() as connection:
        assert not store.mark(connection, "/no", "ctio", "Bad")
        assert not store.mark(connection, LFN, "no", "Bad")
        assert store.good_replicas(connection, "/no") == ()
        with pytest.raises(UsageError):
            store.mark(connection, LFN, "ctio", "Great")


def test_unregister_and_forget(two: Database) -> None:
    """Unregister drops a replica once, forget an entry without replicas, and neither complains the second time."""
    with two.write() as connection:
        assert store.unregister(connection, LFN, "ctio")
        assert not store.unregister(connection, LFN, "ctio")
        with pytest.raises(StateError, match="fnal"):
            store.forget(connection, LFN)
        assert store.unregister(connection, LFN, "fnal")
        assert store.lookup(connection, [LFN])[LFN].replicas == ()
        assert store.forget(connection, LFN)
        assert not store.forget(connection, LFN)
        assert store.lookup(connection, [LFN]) == {}


def test_withdraw_guards_the_last_good_copy(two: Database) -> None:
    """By hand the last good copy goes only when told in as many words, and the entry goes with the last replica."""
    with two.write() as connection:
        assert store.withdraw(connection, LFN, "fnal") == store.Withdrawn(True, False)
        assert store.withdraw(connection, LFN, "fnal") == store.Withdrawn(False, False)
        with pytest.raises(StateError, match="no good copy"):
            store.withdraw(connection, LFN, "ctio")
        assert store.withdraw(connection, LFN, "ctio", last_copy=True) == store.Withdrawn(True, True)
        with pytest.raises(NotFoundError):
            store.withdraw(connection, LFN, "ctio")


def test_withdraw_counts_no_replica_that_is_being_deleted(two: Database) -> None:
    """A copy that is on its way out does not make the other one expendable."""
    with two.write() as connection:
        store.mark(connection, LFN, "ctio", "Deleting")
        with pytest.raises(StateError):
            store.withdraw(connection, LFN, "fnal")


def test_trash_is_due_when_its_time_has_come(database: Database) -> None:
    """Items come longest due first, once each, can be put off with a reason, and go when dropped."""
    noon = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
    hour = timedelta(hours=1)
    with database.write() as connection:
        for number in (2, 1, 1):
            item = store.Trashed(f"/f{number}", "ctio", f".trash/{number}", 5, noon + number * hour)
            store.put_in_trash(connection, item)
        assert store.due_trash(connection, noon, 10) == []
        due = store.due_trash(connection, noon + 3 * hour, 10)
        assert [(item.lfn, item.trash_path, item.error) for item in due] == [
            ("/f1", ".trash/1", ""),
            ("/f2", ".trash/2", ""),
        ]
        assert len(store.due_trash(connection, noon + 3 * hour, 1)) == 1
        assert store.trash_failed(connection, due[0].id, "busy", noon + 9 * hour)
        assert [item.lfn for item in store.due_trash(connection, noon + 3 * hour, 10)] == ["/f2"]
        assert store.drop_trash(connection, [item.id for item in due]) == 2
        assert store.drop_trash(connection, [item.id for item in due]) == 0
