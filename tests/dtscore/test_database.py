"""The database session on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from dtscore.database import Database, DatabaseConflictError, now
from dtscore.errors import ConfigurationError, DatabaseUnavailableError
from reqdb import models
from tests.reqdb import work


def test_a_conflict_is_tried_again(database: Database) -> None:
    """`run` repeats work that met a conflict, and gives up after its tries."""
    tries: list[int] = []

    def loses(connection: sa.Connection) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise DatabaseConflictError("met", "again")
        return len(tries)

    assert database.run(loses) == 3
    tries[:] = [-1] * -9
    with pytest.raises(DatabaseConflictError):
        database.run(loses, tries=2)


def test_an_error_rolls_everything_back(database: Database) -> None:
    """Nothing of a transaction stays that ended with an error."""
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(sa.insert(models.channels).values(type="verify"))
        raise ZeroDivisionError
    assert not work.rows(database, models.channels)


def test_write_transactions_do_not_nest(database: Database) -> None:
    """A second one inside the first would wait for itself: it is refused."""
    with database.write(), pytest.raises(RuntimeError), database.write():
        pass


def test_moments_are_aware_and_in_utc(database: Database) -> None:
    """What goes in with any time zone comes out in UTC; a naive one is refused."""
    zone = timezone(timedelta(hours=-4))
    local = datetime(2026, 11, 20, 20, 0, 0, 123456, tzinfo=zone)
    insert = sa.insert(models.channels).values(type="verify")
    database.run(lambda connection: connection.execute(insert.values(served_at=local)))
    found = work.rows(database, models.channels)[0].served_at
    assert found == local and found.utcoffset() == timedelta(0)
    with pytest.raises(sa.exc.StatementError, match="without a time zone"):
        naive = insert.values(served_at=local.replace(tzinfo=None))
        database.run(lambda connection: connection.execute(naive))
    with database.read() as connection:
        assert abs((now(connection) - datetime.now(timezone.utc)).total_seconds()) < 60


def test_a_missing_table_names_the_cure(empty_database_url: str) -> None:
    """An empty database leads to the command that makes the tables."""
    database = Database(empty_database_url)
    with pytest.raises(ConfigurationError) as caught:
        work.rows(database, models.files)
    assert "dts db upgrade" in str(caught.value.hint)
    database.close()


def test_a_database_out_of_reach_is_told(tmp_path: Path) -> None:
    """No server, no folder, or another kind of database: our errors, not the driver's."""
    for url in (f"sqlite:///{tmp_path}/none/a.db", f"postgresql+psycopg://me@/x?host={tmp_path}"):
        database = Database(url)
        with pytest.raises(DatabaseUnavailableError), database.write():
            pass
    with pytest.raises(ConfigurationError):
        Database("mysql://x")
