"""Many rows at once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dtscore.bulk import InsertNew, InsertRows, UpdateRows, any_of, insert_many, new_ids
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


def test_update_rows_changes_only_what_is_held(database: Database) -> None:
    """Rows are changed where the condition holds, whatever text is in them; the answer says which."""
    ids = _channels(database, 3)
    update = UpdateRows(models.channels, ("id", "error", "served_at"), where="source = :source", fixed="failures = 7")
    rows = [(number, f'n"e\\w{number}', None) for number in [*ids, 999]]

    def write(given: list[tuple[int, str, None]], source: str) -> set[int]:
        return database.run(lambda connection: update.run(connection, given, {"source": source}))

    assert write(rows, f"s{ids[1]}") == {ids[1]}
    assert write(rows, "none") == set() and write([], "s1") == set()
    found = work.rows(database, models.channels)
    assert [row.served_at for row in found] == [work.STARTED, None, work.STARTED]
    assert (found[1].error, found[1].failures, found[0].failures) == (f'n"e\\w{ids[1]}', 7, 0)


@pytest.mark.parametrize(
    "word", ["", "plain", "a,b", "NULL", 'say "so"', "back\\slash", "{x}", "line\nä€", "%s :x", "'"]
)
def test_insert_rows_keep_any_text(database: Database, word: str) -> None:
    """Whatever a text holds, it comes back unchanged, alone and between others; None stays None."""
    insert = InsertRows(
        models.requests, ("name", "digest", "owner", "priority", "state", "submitted_at", "cancelled_by")
    )
    rows = [
        (f"r{i}", text, word, i, "Done", work.STARTED, by) for i, (text, by) in enumerate([("x", None), (word, word)])
    ]
    database.run(lambda connection: insert.run(connection, rows))
    found = [
        (r.name, r.digest, r.owner, r.priority, r.state, r.submitted_at, r.cancelled_by)
        for r in work.rows(database, models.requests)
    ]
    assert found == rows


def test_insert_new_tells_the_numbers_of_the_new_rows(database: Database) -> None:
    """What is there already stays as it is and is not among the answers."""
    key = ("type", "source", "target", "node", "queue")
    insert = InsertNew(models.channels, ("type", "source", "error"), key=key, number="id")
    first = database.run(lambda connection: insert.run(connection, [("verify", "a", "x")]))
    both = database.run(lambda connection: insert.run(connection, [("verify", "a", "y"), ("verify", "b", "y")]))
    assert [key[:2] for key in first] == [("verify", "a")] and [key[:2] for key in both] == [("verify", "b")]
    rows = {row.id: row.error for row in work.rows(database, models.channels)}
    assert rows == {**dict.fromkeys(first.values(), "x"), **dict.fromkeys(both.values(), "y")}
    assert database.run(lambda connection: insert.run(connection, [])) == {}


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
