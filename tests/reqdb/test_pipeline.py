"""Whole requests, from submission to the end."""

from __future__ import annotations

from dtscore.database import Database
from reqdb import models
from reqdb.states import State
from tests.reqdb import work


def test_a_file_does_not_wait_for_the_others(database: Database) -> None:
    """A file moves on when its own earlier step is Done on all targets; a file without one waits for the operation."""
    steps = (work.operation("a b", targets=["x", "y"]), work.operation("a c", "remove"))
    work.submit(database, work.request(*steps))
    for name in ("x", "y"):
        token, files = work.claim(database)
        assert files[0].target == name
        work.finish(database, token, [work.outcome(files[0])])
        ready = [channel.target for channel in work.channels(database, "remove")]
        assert ready == ([] if name == "x" else ["x"])
        work.check(database)
    assert work.work_off(database, "remove") == ["/a"]
    token = max(row.id for row in work.rows(database, models.claims))
    assert work.states(database)[-1] == "Queued" and token


def test_a_failure_ends_the_later_steps_of_its_file_alone(database: Database) -> None:
    """The other file goes through; the failed one's steps are cancelled down the chain, and what waited for all."""
    steps = [work.operation("a b", kind) for kind in ("verify", "remove", "register")]
    work.submit(database, work.request(*steps, work.operation("c", "transfer")))
    token, files = work.claim(database)
    work.finish(database, token, [work.outcome(files[0], State.FAILED), work.outcome(files[1])])
    for kind in ("remove", "register"):
        assert work.work_off(database, kind) == ["/b"]
    row = work.rows(database, models.requests)[0]
    assert (row.state, row.done, row.failed, row.cancelled) == ("Failed", 3, 1, 3)
    assert [event.kind for event in work.rows(database, models.events)] == [
        "submitted", "started", "file-failed", "failed",
    ]  # fmt: skip
    work.check(database)
