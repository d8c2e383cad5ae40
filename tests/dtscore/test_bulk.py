"""Many rows at once."""

from __future__ import annotations

import sqlalchemy as sa

from dtscore.bulk import any_of, insert_many, new_ids, update_many
from dtscore.database import Database
from reqdb import models
from tests.reqdb import work

_COLUMNS = ("id", "type", "source", "error", "served_at")


def _channels(database: Database, number: int) -> list[int]:
    def write(connection: sa.Connection) -> list[int]:
        ids = list(new_ids(connection, models.channels, number))
        rows = ((i, "verify", f"s{i}", "tab\tback\\slash\nnew ä", work.STARTED) for i in ids)
        insert_many(connection, models.channels, _COLUMNS, rows)
        return ids

    return database.run(write)


def test_rows_come_back_as_they_went_in(database: Database) -> None:
    """Text with any character, moments and ids pass through the bulk insert unchanged."""
    ids = _channels(database, 300)
    found = work.rows(database, models.channels)
    assert [row.id for row in found] == ids == sorted(set(ids))
    assert {(row.error, row.served_at) for row in found} == {("tab\tback\\slash\nnew ä", work.STARTED)}


def test_update_many_changes_only_what_is_held(database: Database) -> None:
    """Rows are changed where the condition holds; the number says how many."""
    ids = _channels(database, 3)
    rows = [(number, f"new{number}", None) for number in [*ids, 999]]

    def write(connection: sa.Connection, source: str) -> int:
        columns = ("id", "error", "served_at")
        return update_many(connection, models.channels, columns, rows, where=("source", source))

    assert database.run(lambda connection: write(connection, f"s{ids[1]}")) == 1
    assert database.run(lambda connection: write(connection, "none")) == 0
    assert [row.served_at for row in work.rows(database, models.channels)] == [work.STARTED, None, work.STARTED]
    assert database.run(lambda c: update_many(c, models.channels, ("id", "error"), [], where=("source", "x"))) == 0


def test_any_of_takes_many_values_and_keeps_none_from_before(database: Database) -> None:
    """Thousands of values go in one parameter, and a cached statement gets the new ones."""
    ids = _channels(database, 3)
    table = models.channels
    with database.read() as connection:
        for wanted in (list(range(100_000)), ids[:1], ids[1:], []):
            query = sa.select(table.c.id).where(any_of(connection, table.c.id, wanted)).order_by(table.c.id)
            assert connection.execute(query).scalars().all() == [number for number in ids if number in wanted]
        words = any_of(connection, table.c.source, [f"s{ids[0]}", "it's"])
        assert connection.execute(sa.select(table.c.id).where(words)).scalars().all() == ids[:1]
