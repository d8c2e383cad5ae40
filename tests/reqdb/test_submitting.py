"""From a request's content to its rows."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dtscore.database import Database
from dtscore.database import now as database_now
from dtscore.errors import StateError
from reqdb import models, store
from reqdb.spec import FileSpec, OperationSpec
from tests.reqdb import work


def test_rows_follow_their_own_earlier_step_or_the_whole_operation(database: Database) -> None:
    """Files with a counterpart wait for it, the others for the operation; the first step is ready."""
    work.submit(database, work.request(work.operation("a b", targets=["x", "y"]), work.operation("b c", "remove")))
    files = work.rows(database, models.files)
    assert [(f.lfn, f.state, f.waits_on) for f in files[:4]] == [(n, "ToDo", None) for n in ("/a", "/a", "/b", "/b")]
    assert [(f.lfn, f.waits_on) for f in files[4:]] == [("/b", "file"), ("/c", "operation")]
    assert [f.leader_id for f in files[:4]] == [files[0].id, files[0].id, files[2].id, files[2].id]
    assert files[4].follows_id == files[2].id
    work.check(database)


def test_submitting_twice_gives_the_first_id(database: Database) -> None:
    """The same content under the same name, or none, is the same request."""
    for name in ("given", None):
        spec = work.request(work.operation("a"), name=name)
        first = work.call(database, store.submit, spec, owner="me")
        second = work.call(database, store.submit, spec, owner="me")
        assert (first.existing, second.existing) == (False, True)
        assert (first.id, first.name, first.files) == (second.id, second.name, second.files)
    assert len(work.rows(database, models.requests)) == 2


def test_the_same_name_with_other_content_is_refused(database: Database) -> None:
    """Other content under a name that is taken is an error, and writes no row."""
    work.submit(database, work.request(work.operation("a"), name="one"))
    with pytest.raises(StateError, match="other content"):
        work.submit(database, work.request(work.operation("b"), name="one"))
    assert len(work.rows(database, models.files)) == 1


def test_a_delayed_request_waits_for_its_moment(database: Database) -> None:
    """With `not_before` the first step is parked and promoted by `tend`, no earlier."""
    with database.read() as connection:
        later = database_now(connection) + timedelta(hours=1)
    work.submit(database, work.request(work.operation("a"), not_before=later))
    database.run(store.tend)
    assert work.states(database) == ["Queued"] and not work.channels(database)
    past = sa.update(models.files).values(not_before=work.STARTED)
    database.run(lambda connection: connection.execute(past))
    assert database.run(store.tend) == {"verify"}
    assert work.states(database) == ["ToDo"]


def test_a_hundred_thousand_files_take_seconds(database: Database) -> None:
    """A request of 100,000 files is written in bulk (no statement for each file)."""
    files = tuple(FileSpec(f"/night/{i:06}.fits", None, 10) for i in range(100_000))
    spec = work.request(OperationSpec("verify", files, None, ("x",)))
    begun = time.monotonic()
    work.submit(database, spec)
    assert time.monotonic() - begun < 20
    assert work.rows(database, models.requests)[0].todo == 100_000
