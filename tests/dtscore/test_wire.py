"""Statements sent to PostgreSQL past psycopg's cursors."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.bulk import InsertRows
from dtscore.database import Database
from dtscore.driver import Prepared, pipelined, raw, wire
from dtscore.wire import Statement
from reqdb import models
from tests.reqdb import work

_ECHO = Statement("SELECT %(number)s::INTEGER, %(word)s::TEXT, %(moment)s::TIMESTAMPTZ, '%%' WHERE %(number)s::INT > 0")
_MOMENT = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=-4)))
_NOTE = InsertRows(models.events, ("at", "kind", "message"))


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL database of this test alone."""
    opened = Database(postgres_url)
    yield opened
    opened.close()


def _note(connection: Connection, *words: str) -> None:
    _NOTE.run(connection, [(_MOMENT, "test", word) for word in words])


def _noted(database: Database) -> list[str]:
    return [row.message for row in work.rows(database, models.events)]


@pytest.mark.parametrize("word", ["", "plain", "100 %", "%(x)s", "'", "\\", "ä€\n", None])
def test_values_come_back_as_they_went(postgres: Database, word: str | None) -> None:
    """Numbers, text with any character, moments and None pass unchanged."""
    with postgres.read() as connection:
        values = {"number": 7, "word": word, "moment": _MOMENT}
        assert wire(connection).send(_ECHO, values)() == [(7, word, _MOMENT, "%")]


def test_a_nul_is_refused_and_not_cut_off(postgres: Database) -> None:
    """PostgreSQL would take the text as far as the NUL."""
    with postgres.read() as connection, pytest.raises(psycopg.DataError, match="NUL"):
        wire(connection).send(_ECHO, {"number": 1, "word": "a\0b", "moment": None})


def test_what_is_kept_back_goes_out_together_and_in_order(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a block the statements wait for the first answer; SQLAlchemy's statements come after those before them."""
    waits: list[int] = []
    real = psycopg.Connection.wait

    def counted(self: psycopg.Connection[Any], *arguments: Any, **options: Any) -> Any:
        waits.append(1)
        return real(self, *arguments, **options)

    count = Prepared(lambda _: sa.select(sa.func.count()).select_from(models.events))
    monkeypatch.setattr(psycopg.Connection, "wait", counted)
    with postgres.write() as connection:
        waits.clear()
        with pipelined(connection):
            _note(connection, "a")
            with pipelined(connection):
                _note(connection, "b")
            answer = count.start(connection, {})
            _note(connection, "c")
            assert not waits
            assert answer() == [(2,)] and len(waits) == 1
            _note(connection, "d")
            assert connection.scalar(sa.select(sa.func.count()).select_from(models.events)) == 4
    assert _noted(postgres) == ["a", "b", "c", "d"]


def test_an_error_undoes_all_and_the_connection_goes_on(postgres: Database) -> None:
    """The first refusal is raised, also one that nobody asked for; nothing of the transaction stays."""
    missing = Statement("INSERT INTO missing VALUES (1)")
    for _ in range(3):
        with pytest.raises(Exception, match="missing"), postgres.write() as connection, pipelined(connection):
            _note(connection, "lost")
            wire(connection).send(missing, {})
            _note(connection, "lost too")
        with pytest.raises(ZeroDivisionError), postgres.write() as connection, pipelined(connection):
            _note(connection, "never sent")
            raise ZeroDivisionError
        postgres.run(lambda connection: _note(connection, "kept"))
    assert _noted(postgres) == ["kept"] * 3


def test_statements_that_the_server_forgot_are_prepared_again(postgres: Database) -> None:
    """psycopg forgets all that is prepared when it rolls back; what is still there is used, and not prepared twice."""
    for deallocated in (True, False):
        postgres.run(lambda connection: _note(connection, "before"))
        with pytest.raises(ZeroDivisionError), postgres.write() as connection:
            _note(connection, "lost")
            if deallocated:
                raw(connection).execute("DEALLOCATE ALL")
            raise ZeroDivisionError
        postgres.run(lambda connection: _note(connection, "after"))
    with postgres.read() as connection:
        names = raw(connection).execute("SELECT statement FROM pg_prepared_statements").fetchall()
    assert len([text for (text,) in names if "INTO events" in text]) == 1
    assert _noted(postgres) == ["before", "after"] * 2


def test_plans_go_by_indexes_from_the_first_row_on(postgres: Database) -> None:
    """A plan is kept, and not made for the few rows that the table held when it was made."""
    find = Statement("SELECT id FROM requests WHERE name = %(name)s")
    with postgres.read() as connection:
        assert wire(connection).send(find, {"name": "x"})() == []
        name = raw(connection).execute("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%name = $1'")
        (plan,) = raw(connection).execute(f"EXPLAIN EXECUTE {name.fetchone()[0]}('x')").fetchall()[:1]
        kept = raw(connection).execute("SELECT sum(generic_plans) FROM pg_prepared_statements").fetchone()
    assert "Index Scan" in plan[0] and kept[0] > 0
    with postgres.read() as connection:
        assert connection.scalar(sa.text("SHOW plan_cache_mode")) == "force_custom_plan"
