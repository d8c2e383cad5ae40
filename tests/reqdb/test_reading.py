"""Reading requests, files, attempts, events, failures and progress; and back to what was submitted."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from dtscore.database import Database
from dtscore.errors import NotFoundError
from reqdb import models, reading, store
from reqdb.progress import time_left
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.states import State
from reqdb.views import Counts, percent
from tests.reqdb.driving import DONE, MISSING, FakeAgent, change, submit, then, transfer


def test_list_filters_and_pages(database: Database) -> None:
    """The list is newest first, knows states and owners, and its pages follow each other without a gap."""
    ids = [submit(database, transfer(2, name=f"r{i}")) for i in range(5)]
    other = submit(database, dataclasses.replace(transfer(1, name="other"), owner="gemini"))
    FakeAgent(database).work()
    with database.read() as connection:
        first = reading.list_requests(connection, limit=4)
        rest = reading.list_requests(connection, limit=4, before_id=first[-1].id)
        gemini = reading.list_requests(connection, owner="gemini")
        done = reading.list_requests(connection, state=State.DONE)
        failed = reading.list_requests(connection, state=State.FAILED)
    assert [line.id for line in first + rest] == [*reversed([*ids, other])]
    assert [line.id for line in gemini] == [other]
    assert len(done) == 6 and not failed
    assert (done[-1].percent, done[-1].files, done[-1].done, done[-1].bytes_done) == (100.0, 2, 2, 200)


def test_show_has_counters_percent_and_reasons(database: Database) -> None:
    """A request's view holds its operations, counted files and bytes, and its failures by reason with an example."""
    number = submit(database, then(transfer(4, "archive"), "verify"))
    FakeAgent(database).work(lambda n: MISSING if n < 3 else DONE)
    with database.read() as connection:
        view = reading.show(connection, number)
    first, second = view.operations
    assert (first.type, first.source, first.targets, first.state) == ("transfer", "local", ("archive",), "Failed")
    assert first.counts == Counts(0, 0, 0, 1, 3, 0)
    assert (first.percent_files, first.percent_bytes, first.bytes_done, first.bytes_total) == (25.0, 25.0, 100, 400)
    assert second.counts == Counts(0, 1, 0, 0, 0, 3)
    assert second.percent_bytes is None, "sizes of the files to verify are not known"
    (failure,) = view.failures
    assert (failure.count, failure.error_class, failure.error) == (3, *MISSING[1:])
    assert (failure.lfn, failure.target, failure.operation) == ("/raw/f00000.fits", "archive", 1)
    assert view.owner == "des" and view.priority == 5 and view.started_at is not None and view.finished_at is None


def test_failures_come_most_frequent_first_and_are_limited(database: Database) -> None:
    """Reasons are grouped by class and message, the largest group first, and no more than asked for."""
    number = submit(database, transfer(10))
    FakeAgent(database).work(lambda n: (State.FAILED, "size" if n < 7 else "missing", f"message {n // 7}"))
    with database.read() as connection:
        both = reading.failures(connection, number)
        one = reading.failures(connection, number, 1)
    assert [(f.count, f.error_class) for f in both] == [(7, "size"), (3, "missing")]
    assert one == both[:1]


def test_files_attempts_and_events(database: Database) -> None:
    """Files page by id and filter by state; each attempt and each event is kept in order."""
    number = submit(database, transfer(5, "archive", "fnal"))
    agent = FakeAgent(database)
    agent.work(lambda n: (State.QUEUED, "timeout", "too slow") if n == 0 else DONE)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    change(database, models.files, {"not_before": yesterday}, models.files.c.waits_on == "time")
    database.run(store.tend)
    agent.work()
    agent.work()
    with database.read() as connection:
        page = reading.list_files(connection, number, limit=4)
        rest = reading.list_files(connection, number, after_id=page[-1].id)
        none = reading.list_files(connection, number, states=[State.FAILED, State.TODO])
        attempts = reading.attempts_of(connection, page[0].id)
        every = reading.attempts_of_request(connection, number)
        events = reading.events_of(connection, number)
        latest = reading.events_of(connection, number, limit=1)
    assert [(f.lfn, f.target) for f in page + rest] == [
        (f"/raw/f{i:05d}.fits", target) for i in range(5) for target in ("archive", "fnal")
    ]
    assert none == []
    assert page[0].size == 100 and page[0].checksum == "adler32:03da0195"
    assert len(every) == 11
    retried = next(a for a in every if a.outcome == "Retried")
    assert (retried.error_class, retried.error, retried.attempt) == ("timeout", "too slow", 1)
    assert [a.attempt for a in attempts] == list(range(1, len(attempts) + 1))
    assert [event.kind for event in events] == ["submitted", "started", "done"]
    assert latest == events[-1:]


def test_progress_counts_bytes_in_flight(database: Database) -> None:
    """Bytes of the file in a worker's hands count, with who works on what; ended files count in full."""
    number = submit(database, transfer(4, size=1000))
    agent = FakeAgent(database)
    token, files = agent.claim(batch=2)
    agent.end(token, files[:1])
    token, files = agent.claim(batch=2)
    agent.beat(token, files[0].id, 500)
    with database.read() as connection:
        now = reading.progress(connection, number)
    (current,) = now.current
    assert (current.lfn, current.target, current.bytes_now, current.size) == (files[0].lfn, "archive", 500, 1000)
    assert current.agent == f"transfer@dtn1:77#{agent.id}"
    assert (now.bytes_done, now.bytes_in_flight, now.bytes_total) == (1000, 500, 4000)
    assert (now.percent_files, now.percent_bytes) == (25.0, 37.5)
    assert now.counts.running == 2 and now.bytes_per_second and now.eta and now.eta > 0


def test_progress_before_and_after(database: Database) -> None:
    """Before the first file there is no rate and no time left; at the end nothing is left."""
    number = submit(database, transfer(2, size=None))
    with database.read() as connection:
        before = reading.progress(connection, number)
    FakeAgent(database).work()
    with database.read() as connection:
        after = reading.progress(connection, number)
    assert (before.percent_files, before.percent_bytes, before.eta, before.files_per_second) == (0.0, None, None, None)
    assert (after.state, after.percent_files, after.percent_bytes, after.eta) == ("Done", 100.0, 100.0, 0.0)
    assert after.files_per_second and after.bytes_done == 200


def test_unknown_request(database: Database) -> None:
    """Every reader of one request refuses an unknown id as not found."""
    with database.read() as connection:
        for read in (reading.show, reading.progress, reading.to_spec, reading.annotations_of):
            with pytest.raises(NotFoundError):
                read(connection, 99)


_MOMENT = datetime(2026, 11, 20, 22, 30, 0, 250000, tzinfo=UTC)
_FILES = (
    FileSpec("/raw/å b.fits", "x/å b.fits", 0, "adler32:00000001"),
    FileSpec("/raw/c.fits"),
    FileSpec("/raw/d.fits", None, 2**40, None),
)
_SPECS = {
    "full": RequestSpec(
        (
            OperationSpec(
                "transfer", _FILES, "local", ("archive", "fnal"), "dtn1", (("overwrite", "yes"), ("checksum", "md5")),
            ),
            OperationSpec("verify", _FILES[1:], None, ("archive",)),
            OperationSpec("remove", _FILES[:1], None, (), None, (("everywhere", "yes"),)),
        ),
        "night", "des", 9, _MOMENT, _MOMENT + timedelta(days=900),
    ),
    "without owner": RequestSpec((OperationSpec("register", _FILES, None, ("archive",)),), "night"),
    "without name": RequestSpec((OperationSpec("register", _FILES, None, ("archive",)),), None, "des"),
    "with neither": RequestSpec((OperationSpec("transfer", _FILES, "local", ("archive",)),)),
}  # fmt: skip


@pytest.mark.parametrize("which", _SPECS)
def test_export_is_what_was_submitted(database: Database, which: str) -> None:
    """Before and after the work the export equals the submission, and submitting it finds the same request."""
    spec = _SPECS[which]
    number = submit(database, spec)
    with database.read() as connection:
        assert reading.to_spec(connection, number) == spec
    FakeAgent(database, spec.operations[0].type).work() if which != "full" else None
    with database.read() as connection:
        exported = reading.to_spec(connection, number)
    again = database.run(lambda connection: store.submit(connection, exported, owner="another"))
    assert exported == spec
    assert (again.id, again.existing) == (number, True)


def test_found_sizes_do_not_leak_into_the_export(database: Database) -> None:
    """Work that finds a size and a checksum shows them, and the export still declares neither."""
    number = submit(database, transfer(1, size=None))
    FakeAgent(database).work()
    with database.read() as connection:
        (file,) = reading.list_files(connection, number)
        exported = reading.to_spec(connection, number)
    assert (file.size, file.checksum) == (100, "adler32:03da0195")
    assert exported.operations[0].files[0] == FileSpec("/raw/f00000.fits", "f00000.fits")


def test_annotations_tell_the_fate_of_each_file(database: Database) -> None:
    """Ids, states, times and errors stand with each file and target, in the order of the targets."""
    number = submit(database, transfer(2, "archive", "fnal"))
    agent = FakeAgent(database)
    agent.work(lambda n: MISSING if n else DONE)
    agent.work()
    with database.read() as connection:
        notes = reading.annotations_of(connection, number)
    assert notes.request["id"] == str(number) and notes.request["state"] == "Failed"
    assert notes.request["finished"].endswith("Z")
    archive, fnal = notes.files[0, "/raw/f00001.fits"]
    assert (archive["target"], archive["state"]) == ("archive", "Failed")
    assert (archive["error-class"], archive["error"]) == MISSING[1:]
    assert (fnal["target"], fnal["state"], fnal["size"], fnal["attempts"]) == ("fnal", "Done", "100", "1")
    assert "error" not in fnal


def test_percent_is_honest() -> None:
    """Percent is 100 only at the end, and for nothing at all."""
    assert [percent(0, 0), percent(9999, 10000), percent(1, 3), percent(3, 3)] == [100.0, 99.9, 33.3, 100.0]


def test_time_left_takes_the_longer_of_files_and_bytes() -> None:
    """Many small files are bound by their number, large ones by their bytes; the last ones by bytes alone."""
    counts = Counts(0, 90, 0, 10, 0, 0)
    assert time_left(counts, 1000, 9.0, 1000.0) == 10.0
    assert time_left(counts, 100_000, 9.0, 1000.0) == 100.0
    assert time_left(counts, None, 9.0, 1000.0) == 10.0
    assert time_left(counts, 1000, None, None) is None
    assert time_left(Counts(0, 0, 2, 98, 0, 0), 500, 0.001, 100.0) == 5.0
    assert time_left(Counts(0, 0, 0, 98, 1, 1), 500, None, None) == 0.0
