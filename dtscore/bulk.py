"""Writing and looking up many rows at once: the two places where SQLite and PostgreSQL need different words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def insert_many(connection: Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert plain rows, in the order of `columns`: COPY on PostgreSQL, executemany on SQLite.

    Values go to the driver as they are; a UtcDateTime column takes aware datetimes on both.
    """
    names = ", ".join(columns)
    if connection.dialect.name == "postgresql":
        raw = connection.connection.driver_connection
        assert raw is not None
        with raw.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        return
    marks = ", ".join("?" * len(columns))
    processors = _processors(connection, table, columns)
    raw = connection.connection.driver_connection
    assert raw is not None
    raw.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", _bound(rows, processors))  # noqa: S608


def insert_new(
    connection: Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    key: Sequence[str],
) -> None:
    """Insert plain rows and leave out those whose `key`, a unique set of columns, is there already."""
    if not rows:
        return
    names, conflict = ", ".join(columns), f"ON CONFLICT ({', '.join(key)}) DO NOTHING"
    if connection.dialect.name == "postgresql":
        statement = f"INSERT INTO {table.name} ({names}) SELECT * FROM unnest({_arrays(connection, table, columns)})"  # noqa: S608
        connection.exec_driver_sql(f"{statement} {conflict}", tuple(list(column) for column in zip(*rows, strict=True)))
        return
    marks = ", ".join("?" * len(columns))
    processed = [tuple(row) for row in _bound(rows, _processors(connection, table, columns))]
    connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks}) {conflict}", processed)  # noqa: S608


def _arrays(connection: Connection, table: sa.Table, columns: Sequence[str]) -> str:
    """Return one array parameter for each column, for PostgreSQL's unnest."""
    return ", ".join(f"%s::{table.c[name].type.compile(connection.dialect)}[]" for name in columns)


def update_many(
    connection: Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    where: tuple[str, Any],
    condition: str = "true",
) -> int:
    """Set `columns` of the rows whose key is in the first of them, where also the column `where[0]` equals `where[1]`.

    `condition` is a further one in SQL with no value in it, for the sake of a partial index that only serves with it.
    Returns how many rows were changed. One statement on PostgreSQL (UPDATE … FROM unnest), executemany on SQLite.
    """
    if not rows:
        return 0
    key, *names = columns
    if connection.dialect.name == "postgresql":
        arrays = _arrays(connection, table, columns)
        changes = ", ".join(f"{name} = fresh.{name}" for name in names)
        statement = f"UPDATE {table.name} SET {changes} FROM unnest({arrays}) AS fresh({', '.join(columns)})"  # noqa: S608
        statement += f" WHERE {table.name}.{key} = fresh.{key} AND {table.name}.{where[0]} = %s AND {condition}"
        given = tuple(list(column) for column in zip(*rows, strict=True))
        return connection.exec_driver_sql(statement, (*given, where[1])).rowcount
    changes = ", ".join(f"{name} = ?" for name in names)
    statement = f"UPDATE {table.name} SET {changes} WHERE {key} = ? AND {where[0]} = ? AND {condition}"  # noqa: S608
    processed = _bound(rows, _processors(connection, table, columns))
    return connection.exec_driver_sql(statement, [(*row[1:], row[0], where[1]) for row in processed]).rowcount


def _processors(connection: Connection, table: sa.Table, columns: Sequence[str]) -> list[tuple[int, Any]]:
    """Return, for each column that needs it, its place and how its values are turned into the database's."""
    dialect = connection.dialect
    found = [(i, table.c[name].type.dialect_impl(dialect).bind_processor(dialect)) for i, name in enumerate(columns)]
    return [(i, process) for i, process in found if process is not None]


def _bound(rows: Iterable[Sequence[Any]], processors: list[tuple[int, Any]]) -> Iterable[Sequence[Any]]:
    """Turn the moments of each row into what SQLite stores."""
    if not processors:
        yield from rows
        return
    for row in rows:
        changed = list(row)
        for index, process in processors:
            changed[index] = process(changed[index])
        yield changed


def new_ids(connection: Connection, table: sa.Table, count: int) -> Sequence[int]:
    """Reserve `count` ids of a table, ascending, before its rows are inserted; never one that was used before.

    On SQLite the caller holds the write lock, so that nobody takes them meanwhile; the table is AUTOINCREMENT.
    """
    if connection.dialect.name == "postgresql":
        query = sa.text("SELECT nextval(pg_get_serial_sequence(:table, 'id')) FROM generate_series(1, :count)")
        return connection.execute(query, {"table": table.name, "count": count}).scalars().all()
    query = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :table")
    last = connection.execute(query, {"table": table.name}).scalar()
    first = (last or 0) + 1
    return range(first, first + count)


def any_of(connection: Connection, column: sa.ColumnElement[Any], values: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Return `column is one of values` with all the values in ONE bound parameter, however many they are."""
    if connection.dialect.name == "postgresql":
        return column == sa.any_(sa.bindparam(None, list(values), type_=sa.ARRAY(column.type), unique=True))
    each = sa.text("SELECT value FROM json_each(:values)").bindparams(
        sa.bindparam("values", json.dumps(list(values)), unique=True)
    )
    return column.in_(each)
