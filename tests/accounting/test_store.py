"""The ledger: what is written once, what is not written at all, and what comes back."""

from __future__ import annotations

import math
import sqlite3
from datetime import date, datetime, timedelta, timezone

import psycopg
import pytest
import sqlalchemy as sa

from accounting import models, store
from accounting.models import attempts
from accounting.store import AttemptRecord
from dtscore.database import Database, metadata
from tests.accounting.samples import FIRST_NIGHT, attempt


def _count(database: Database) -> int:
    with database.read() as connection:
        count: int = connection.execute(sa.select(sa.func.count()).select_from(attempts)).scalar_one()
        return count


def test_an_attempt_comes_back_as_it_was(database: Database) -> None:
    """All fields return unchanged; throughput, day and hour (UTC, of the end) are derived."""
    zone = timezone(timedelta(hours=-3))
    ended = datetime(2026, 11, 19, 22, 30, 0, 123456, tzinfo=zone)
    one = attempt(file_id=2**40, transfer_size=2**45, transfer_time=4.0, started_at=ended, ended_at=ended)
    with database.write() as connection:
        store.record(connection, [one])
    with database.read() as connection:
        (row,) = store.export(connection, None, None)
    assert row["owner"] == one.user
    for name in set(store.AttemptRecord.__slots__) - {"user"}:
        assert row[name] == getattr(one, name), name
    assert row["throughput"] == 2**45 / 4.0
    assert (row["day"], row["hour"]) == (date(2026, 11, 20), 1)


def test_recording_twice_keeps_one_row(database: Database) -> None:
    """A repeated (file, attempt) is ignored, within one batch as between two; the first one stays."""
    with database.write() as connection:
        store.record(connection, [attempt(1), attempt(2), attempt(1, protocol="late")])
    with database.write() as connection:
        store.record(connection, [attempt(1, protocol="later"), attempt(1, 2)])
    assert _count(database) == 3
    with database.read() as connection:
        assert {row["protocol"] for row in store.export(connection, None, None)} == {"sftp"}


def test_a_rolled_back_transaction_leaves_no_row(database: Database) -> None:
    """The caller's transaction decides: record() never commits by itself."""
    with pytest.raises(RuntimeError, match="stop"), database.write() as connection:
        store.record(connection, [attempt(1), attempt(2)])
        raise RuntimeError("stop")
    assert _count(database) == 0


def test_an_empty_batch_is_nothing(database: Database) -> None:
    """Recording no attempts is allowed and writes none."""
    with database.write() as connection:
        store.record(connection, [])
    assert _count(database) == 0


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, 0.0])
def test_senseless_times_do_not_stop_a_transfer(database: Database, seconds: float) -> None:
    """A negative or undefined time is kept as 0 and gives no throughput, instead of failing the file's commit."""
    with database.write() as connection:
        store.record(connection, [attempt(transfer_time=seconds, registration_time=seconds, transfer_size=5)])
    with database.read() as connection:
        (row,) = store.export(connection, None, None)
    assert (row["transfer_time"], row["registration_time"], row["throughput"]) == (0.0, 0.0, None)


def test_nothing_moved_has_no_throughput(database: Database) -> None:
    """An attempt that found its bytes in place counts no throughput, so that means are not falsified."""
    with database.write() as connection:
        store.record(connection, [attempt(transfer_size=0, transfer_time=3.0), attempt(2, transfer_size=-5)])
    with database.read() as connection:
        rows = list(store.export(connection, None, None))
    assert [row["throughput"] for row in rows] == [None, None]
    assert [row["transfer_size"] for row in rows] == [0, 0]


def test_an_unknown_status_is_refused(database: Database) -> None:
    """The table itself holds the four words, so that no count goes silently wrong."""
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)), database.write() as connection:
        store.record(connection, [attempt(final_status="done")])


def test_export_keeps_to_the_period(filled: Database, records: list[AttemptRecord]) -> None:
    """Rows of [since, until) come oldest first; the beginning is in, the end is out."""
    ends = sorted(one.ended_at for one in records)
    with filled.read() as connection:
        rows = list(store.export(connection, ends[10], ends[50]))
    assert [row["ended_at"] for row in rows] == ends[10:50]


def test_prune_deletes_only_what_is_older(filled: Database, records: list[AttemptRecord]) -> None:
    """prune() says how many it deleted and leaves the rest."""
    moment = FIRST_NIGHT + timedelta(days=1)
    older = sum(one.ended_at < moment for one in records)
    with filled.write() as connection:
        assert store.prune(connection, moment) == older
    assert _count(filled) == len(records) - older


def test_tables_and_views_go_and_come(database: Database) -> None:
    """drop_all and create_all manage the views with their table, also when called twice."""
    engine = database.engine()
    metadata.drop_all(engine)
    assert not set(models.VIEWS) & set(sa.inspect(engine).get_view_names())
    metadata.create_all(engine)
    metadata.create_all(engine)
    assert set(models.VIEWS) <= set(sa.inspect(engine).get_view_names())


def test_views_and_columns_have_a_meaning() -> None:
    """Each column carries its meaning, from which the documentation is checked."""
    assert all(column.comment for column in attempts.columns)
