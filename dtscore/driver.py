"""SQL at the driver's own speed, for what runs with every batch of files.

SQLAlchemy's part in running one small statement costs several times what the database needs for it. Here a Core
statement is compiled once for each database and then run on the driver's connection, in SQLAlchemy's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from dtscore.wire import Row, Statement, Wire


def is_postgres(connection: Connection) -> bool:
    """Return which of the two databases a connection is to."""
    return connection.dialect.name == "postgresql"


def raw(connection: Connection) -> Any:
    """Return the driver's own connection: sqlite3's or psycopg's."""
    return connection.connection.driver_connection


def wire(connection: Connection) -> Wire:
    """Return what sends statements to PostgreSQL past the cursors of psycopg, on the connection of this transaction."""
    found: Wire | None = connection.info.get("wire")
    if found is None:
        found = connection.info["wire"] = Wire(raw(connection))
    return found


@contextmanager
def pipelined(connection: Connection) -> Iterator[None]:
    """Let PostgreSQL answer only where an answer is asked for, so that statements without one cost no round trip.

    What a statement was refused for is raised at the next answer, or at the end of the block.
    """
    if not is_postgres(connection):
        yield
        return
    line = wire(connection)
    line.depth += 1
    try:
        yield
    except BaseException:
        line.drop()
        raise
    finally:
        line.depth -= 1
    if not line.depth:
        line.flush()


def moment_text(value: datetime | None) -> str | None:
    """Return a moment as SQLite stores it, UTC with microseconds; ValueError for one without a time zone."""
    if value is None:
        return None
    if value.tzinfo is not timezone.utc:
        if value.tzinfo is None:
            raise ValueError(f"a moment without a time zone was given to the database: {value!r}")
        value = value.astimezone(timezone.utc)
    return value.isoformat(" ", "microseconds")[:_MOMENT]


_MOMENT = len("2026-11-20 04:00:00.000000")


def moment_texts(column: Iterable[datetime | None]) -> list[str | None]:
    """Return many moments as `moment_text` does; in a batch the same one comes again and again."""
    last, text = None, None
    texts = []
    for value in column:
        if value is not last:
            last, text = value, moment_text(value)
        texts.append(text)
    return texts


def stored(connection: Connection, value: datetime | None) -> datetime | str | None:
    """Return a moment as the driver takes it."""
    return value if is_postgres(connection) else moment_text(value)


def clock(postgres: bool) -> sa.ColumnElement[Any]:
    """Return the expression of the database's own clock; `read_clock` makes a moment of its value."""
    return sa.literal_column("clock_timestamp()" if postgres else "strftime('%Y-%m-%d %H:%M:%f', 'now')")


def read_clock(value: datetime | str) -> datetime:
    """Return the value of `clock`, aware UTC."""
    if isinstance(value, str):
        return datetime.fromisoformat(f"{value}+00:00")
    return value.astimezone(timezone.utc)


class Prepared:
    """A statement that answers with rows, compiled when first used; what changes in it is a `bindparam` with a name."""

    def __init__(self, build: Callable[[bool], sa.ClauseElement]) -> None:
        """`build(postgres)` gives the Core statement for one database."""
        self._build = build
        self._compiled: dict[bool, tuple[str, dict[str, Any]]] = {}
        self._statement: Statement | None = None

    def run(self, connection: Connection, values: Mapping[str, Any]) -> list[Row]:
        """Run the statement; return its rows as the driver gives them. Moments are to be given as `stored`."""
        return self.start(connection, values)()

    def start(self, connection: Connection, values: Mapping[str, Any]) -> Callable[[], list[Row]]:
        """Run the statement; return what gives its rows. Several may be started before the first is asked."""
        if is_postgres(connection):
            if self._statement is None:
                self._statement = Statement(*self.text(connection))
            return wire(connection).send(self._statement, values)
        text, constants = self.text(connection)
        answer: Callable[[], list[Row]] = raw(connection).execute(text, {**constants, **values}).fetchall
        return answer

    def text(self, connection: Connection) -> tuple[str, dict[str, Any]]:
        """Return the statement in the words of the driver, and the values that it always has."""
        postgres = is_postgres(connection)
        if postgres not in self._compiled:
            dialect = connection.dialect if postgres else sqlite.dialect(paramstyle="named")
            compiled = self._build(postgres).compile(dialect=dialect)
            constants = {name: value for name, value in compiled.params.items() if value is not None}
            self._compiled[postgres] = (str(compiled), constants)
        return self._compiled[postgres]
