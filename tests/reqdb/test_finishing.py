"""Ending attempts."""

from __future__ import annotations

import pytest

from dtscore.database import Database
from dtscore.errors import StateError
from reqdb import models, store
from reqdb.retry import RetryPolicy
from reqdb.states import State
from tests.reqdb import work


def test_what_was_found_counts_and_what_was_declared_stays(database: Database) -> None:
    """The bytes follow from the size that was found; without one, the declared size counts."""
    work.submit(database, work.request(work.operation("a b c")))
    token, files = work.claim(database)
    work.finish(database, token, [work.outcome(f, size=size) for f, size in zip(files, (12, None, 0), strict=True)])
    row = work.rows(database, models.requests)[0]
    assert (row.state, row.percent, row.bytes_total, row.bytes_done) == ("Done", 100.0, 22, 22)
    assert [file.size for file in work.rows(database, models.files)] == [10, 10, 10]


def test_each_outcome_is_kept_as_an_attempt(database: Database) -> None:
    """Done, Failed, Cancelled and retried attempts are all in the history; a failed file makes an event."""
    work.submit(database, work.request(work.operation("a b c d")))
    token, files = work.claim(database)
    ends = (State.DONE, State.FAILED, State.CANCELLED, State.QUEUED)
    outcomes = [
        work.outcome(file, state, error="why", counts_as_failure=True) for file, state in zip(files, ends, strict=True)
    ]
    work.finish(database, token, outcomes)
    attempts = work.rows(database, models.attempts)
    assert [one.outcome for one in attempts] == ["Done", "Failed", "Cancelled", "Retried"]
    failed = [event for event in work.rows(database, models.events) if event.kind == "file-failed"]
    assert [(event.file_id, event.message) for event in failed] == [(files[1].id, "/b → x: why")]
    work.check(database)


def test_a_retried_file_waits_and_counts_its_failures(database: Database) -> None:
    """A temporary error parks the file for its delay; the next claim knows the failures and the attempt."""
    work.submit(database, work.request(work.operation("a")))
    token, files = work.claim(database)
    work.finish(database, token, [work.outcome(files[0], State.QUEUED, delay=0.0, counts_as_failure=True)])
    assert database.run(store.tend) == {"verify"}
    _, again = work.claim(database)
    assert (again[0].attempt, again[0].failures) == (2, 1)


def test_a_stale_finish_writes_nothing_at_all(database: Database) -> None:
    """If one file of a batch is not held, the whole transaction is refused."""
    work.submit(database, work.request(work.operation("a b")))
    token, files = work.claim(database)
    database.run(lambda connection: store.hand_back(connection, token, [files[1].id]))
    with pytest.raises(StateError, match="no longer holds 1 of 2"):
        work.finish(database, token, [work.outcome(file) for file in files])
    assert work.states(database) == ["Running", "ToDo"] and not work.rows(database, models.attempts)


def test_an_outage_counts_once_and_one_probe_goes_first(database: Database) -> None:
    """Workers that meet the same outage do not lengthen the rest; afterwards one place is free until the wake."""
    work.submit(database, work.request(work.operation("a b")))
    waiting = work.channels(database)[0]
    policy = RetryPolicy()
    for _ in range(5):
        database.run(lambda connection: store.rest_channel(connection, waiting.channel_id, "down", policy))
    assert work.rows(database, models.channels)[0].failures == 1
    assert not work.channels(database) and work.place(database, work.enter(database), waiting) is None
    work.alter(database, "UPDATE channels SET rests_until = NULL")
    assert [one.probing for one in work.channels(database)] == [True]
    places = [work.place(database, work.enter(database), waiting) for _ in range(2)]
    assert places[0] is not None and places[1] is None
    assert database.run(lambda connection: store.wake_channel(connection, waiting.channel_id))
    assert work.place(database, work.enter(database), waiting) is not None
