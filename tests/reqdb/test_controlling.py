"""What users and the clock do to a request."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dtscore.database import Database
from dtscore.errors import NotFoundError, StateError
from reqdb import models, store
from reqdb.states import State
from tests.reqdb import work


def test_cancel_while_running_then_done_stays_done(database: Database) -> None:
    """What waits is cancelled at once; a running file that its agent ends well all the same stays Done."""
    request = work.submit(database, work.request(work.operation("a b"), work.operation("a", "remove")))
    token, files = work.claim(database, batch=1)
    changed = database.run(lambda connection: store.cancel(connection, request, by="me"))
    assert (changed.files, changed.running) == (2, 1)
    agent = work.rows(database, models.agents)[0].id
    heart = database.run(
        lambda connection: store.beat(connection, agent, lease=9, ticked=True, draining=False, progress=[])
    )
    assert heart.stops == {files[0].id: "cancelled"}
    work.finish(database, token, [work.outcome(files[0])])
    assert work.states(database) == ["Done", "Cancelled", "Cancelled"]
    again = database.run(lambda connection: store.cancel(connection, request, by="me"))
    assert (again.files, again.running) == (0, 0)
    work.check(database)


@pytest.mark.parametrize("way", ["hand back", "release", "retry later"])
def test_nothing_of_a_cancelled_request_comes_back_into_the_queue(database: Database, way: str) -> None:
    """A running file that is given back after the cancellation ends as Cancelled, not as ToDo."""
    request = work.submit(database, work.request(work.operation("a"), work.operation("a", "remove")))
    token, files = work.claim(database)
    database.run(lambda connection: store.cancel(connection, request, by="me"))
    if way == "hand back":
        database.run(lambda connection: store.hand_back(connection, token, [files[0].id]))
    elif way == "release":
        database.run(lambda connection: store.release(connection, token))
    else:
        work.finish(database, token, [work.outcome(files[0], State.QUEUED, delay=60)])
    assert work.states(database) == ["Cancelled", "Cancelled"]
    assert work.rows(database, models.requests)[0].state == "Cancelled"
    work.check(database)


def test_retry_while_another_file_runs(database: Database) -> None:
    """The failed file begins again while the other goes on; its cancelled next step waits again."""
    request = work.submit(database, work.request(work.operation("a b"), work.operation("a", "remove")))
    token, files = work.claim(database)
    work.finish(database, token, [work.outcome(files[0], State.FAILED, error="why")])
    assert work.states(database) == ["Failed", "Running", "Cancelled"]
    changed = database.run(lambda connection: store.retry(connection, request))
    assert (changed.files, changed.running, changed.ready) == (2, 1, frozenset({"verify"}))
    assert work.states(database) == ["ToDo", "Running", "Queued"]
    work.finish(database, token, [work.outcome(files[1])])
    assert work.work_off(database) == ["/a"] and work.work_off(database, "remove") == ["/a"]
    work.check(database)


def test_retry_keeps_the_barrier(database: Database) -> None:
    """A file without a counterpart waits again for all earlier operations, though its own step had been cancelled."""
    steps = (work.operation("a"), work.operation("b", "remove"), work.operation("c", "register"))
    request = work.submit(database, work.request(*steps))
    work.work_off(database, state=State.FAILED)
    assert work.states(database) == ["Failed", "Cancelled", "Cancelled"]
    database.run(lambda connection: store.retry(connection, request))
    assert work.states(database) == ["ToDo", "Queued", "Queued"]
    assert [work.work_off(database, kind) for kind in ("verify", "remove", "register")] == [["/a"], ["/b"], ["/c"]]
    work.check(database)


def test_what_has_ended_or_is_missing_is_refused(database: Database) -> None:
    """A Done request is neither cancelled nor retried, and an unknown one is not found."""
    request = work.submit(database, work.request(work.operation("a"), name="one"))
    work.work_off(database)
    for command in (lambda connection: store.cancel(connection, request, by="me"),
                    lambda connection: store.retry(connection, request)):  # fmt: skip
        with pytest.raises(StateError, match="Done"):
            database.run(command)
    with database.read() as connection:
        assert store.find_request(connection, "one") == store.find_request(connection, request) == request
        with pytest.raises(NotFoundError):
            store.find_request(connection, "two")


def test_a_deadline_fails_what_waits(database: Database) -> None:
    """Past the deadline waiting files fail, and `needs_tending` says so before and no longer after."""
    work.submit(database, work.request(work.operation("a b"), work.operation("b", "remove")))
    token, files = work.claim(database, batch=1)
    with database.read() as connection:
        assert not store.needs_tending(connection)
    late = sa.update(models.requests).values(deadline=work.STARTED)
    database.run(lambda connection: connection.execute(late))
    with database.read() as connection:
        assert store.needs_tending(connection)
    database.run(store.tend)
    assert work.states(database) == ["Running", "Failed", "Failed"]
    with database.read() as connection:
        assert not store.needs_tending(connection)
    work.finish(database, token, [work.outcome(files[0])])
    assert work.rows(database, models.requests)[0].state == "Failed"
    work.check(database)
