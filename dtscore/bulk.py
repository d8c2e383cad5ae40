"""Writing and looking up many rows at once: the two places where SQLite and PostgreSQL need different words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import UtcDateTime
from dtscore.driver import is_postgres, moment_text, moment_texts, raw, wire
from dtscore.wire import Answer, Statement


class Rows:
    """Plain rows for some columns of a table, written by one statement that is put together once for each database.

    On PostgreSQL each column is one array parameter of `unnest`; on SQLite the statement runs for each row. Values are
    what the columns hold: text, integers, floats, aware datetimes, dates or their text, None.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str]) -> None:
        """Name the columns in the order of the rows' values."""
        self._table, self._columns = table, tuple(columns)
        self._names = ", ".join(columns)
        self._marks = ", ".join("?" * len(columns))
        self._text: str | None = None
        self._statement: Statement | None = None
        kinds = [table.c[name].type for name in columns]
        self._moments = [index for index, kind in enumerate(kinds) if isinstance(kind, UtcDateTime)]
        self._dates = [index for index, kind in enumerate(kinds) if isinstance(kind, sa.Date)]
        self._literals = [_literal_of(kind) for kind in kinds]

    def _send(self, connection: Connection, rows: Sequence[Sequence[Any]], values: Mapping[str, Any]) -> Answer:
        """Send the statement for PostgreSQL with the rows and other values."""
        if self._statement is None:
            self._statement = Statement(self._postgres(connection))
        return wire(connection).send(self._statement, {**self._arrays(rows), **values})

    def _for_sqlite(self) -> str:
        """Return the statement for SQLite."""
        if self._text is None:
            self._text = self._sqlite()
        return self._text

    def _postgres(self, connection: Connection) -> str:
        raise NotImplementedError

    def _sqlite(self) -> str:
        raise NotImplementedError

    def _fresh(self, connection: Connection) -> str:
        """Return the rows as a table expression of PostgreSQL: an array parameter, named like it, for each column."""
        kinds = (self._table.c[name].type.compile(connection.dialect) for name in self._columns)
        types = (kind.partition(" COLLATE ")[0] for kind in kinds)
        return ", ".join(f"%({name})s::{kind}[]" for name, kind in zip(self._columns, types, strict=True))

    def _arrays(self, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        columns = zip(*rows, strict=True)
        return {
            name: _array(literal, column)
            for name, literal, column in zip(self._columns, self._literals, columns, strict=True)
        }

    def _bound(self, rows: Sequence[Sequence[Any]]) -> Iterable[Sequence[Any]]:
        """Turn moments and dates into what SQLite stores."""
        if not self._moments and not self._dates:
            return rows
        if len(rows) == 1:
            return [self._bound_alone(rows[0])]
        columns: list[Any] = list(zip(*rows, strict=True))
        for index in self._moments:
            columns[index] = moment_texts(columns[index])
        for index in self._dates:
            columns[index] = [_date_text(value) for value in columns[index]]
        return zip(*columns, strict=True)

    def _bound_alone(self, row: Sequence[Any]) -> Sequence[Any]:
        """Do the same for a batch of one, which is what most are on an idle site."""
        values = list(row)
        for index in self._moments:
            values[index] = moment_text(values[index])
        for index in self._dates:
            values[index] = _date_text(values[index])
        return values


class InsertRows(Rows):
    """INSERT of many rows; `ending` is what stands behind it, as ON CONFLICT … DO NOTHING."""

    def __init__(self, table: sa.Table, columns: Sequence[str], ending: str = "") -> None:
        """Name the columns in the order of the rows' values."""
        super().__init__(table, columns)
        self._ending = ending

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert the rows in their order."""
        if not rows:
            return
        if is_postgres(connection):
            self._send(connection, rows, {})
        else:
            raw(connection).executemany(self._for_sqlite(), self._bound(rows))

    def _postgres(self, connection: Connection) -> str:
        fresh = self._fresh(connection)
        return f"INSERT INTO {self._table.name} ({self._names}) SELECT * FROM unnest({fresh}) {self._ending}"  # noqa: S608

    def _sqlite(self) -> str:
        return f"INSERT INTO {self._table.name} ({self._names}) VALUES ({self._marks}) {self._ending}"  # noqa: S608


class InsertNew(Rows):
    """INSERT of those rows alone whose key is not there yet; it tells their numbers."""

    def __init__(self, table: sa.Table, columns: Sequence[str], *, key: Sequence[str], number: str) -> None:
        """`key`, the first of the columns, is unique; `number` is the primary key, which nobody gives but this room."""
        super().__init__(table, columns)
        self._keys, self._number = ", ".join(key), number
        self._width = len(key)

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> dict[Any, int]:
        """Insert the rows in their order; return the numbers of the new ones by their keys."""
        if not rows:
            return {}
        if is_postgres(connection):
            return {tuple(key): number for *key, number in self._send(connection, rows, {})()}
        table, cursor = self._table.name, raw(connection).cursor()
        (last,) = cursor.execute(f"SELECT max({self._number}) FROM {table}").fetchone()  # noqa: S608
        first = (last or 0) + 1
        cursor.executemany(self._for_sqlite(), [(first + i, *row) for i, row in enumerate(self._bound(rows))])
        if cursor.rowcount == len(rows):
            return {tuple(row[: self._width]): first + i for i, row in enumerate(rows)}
        query = f"SELECT {self._keys}, {self._number} FROM {table} WHERE {self._number} >= ?"  # noqa: S608
        return {tuple(key): number for *key, number in cursor.execute(query, (first,))}

    def _postgres(self, connection: Connection) -> str:
        return (
            f"INSERT INTO {self._table.name} ({self._names}) SELECT * FROM unnest({self._fresh(connection)})"  # noqa: S608
            f" ON CONFLICT ({self._keys}) DO NOTHING RETURNING {self._keys}, {self._number}"
        )

    def _sqlite(self) -> str:
        """Return the statement; the numbers are given, for the caller has the write lock and nobody takes them."""
        names = f"{self._number}, {self._names}"
        return (
            f"INSERT INTO {self._table.name} ({names}) VALUES (?, {self._marks}) ON CONFLICT ({self._keys}) DO NOTHING"  # noqa: S608
        )


class UpdateRows(Rows):
    """UPDATE of many rows by their key, the first column, of those alone that a condition names.

    `where` is SQL on the table with `:name` for its values; few rows meet it, and there is an index for it. `fixed` is
    what all rows are set to, in SQL.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str], *, where: str, fixed: str) -> None:
        """Name the key and the columns in the order of the rows' values."""
        super().__init__(table, columns)
        self._where, self._fixed = where, fixed

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]], values: Mapping[str, Any]) -> set[Any]:
        """Change the rows that meet the condition with `values` in it; return their keys."""
        if not rows:
            return set()
        if is_postgres(connection):
            return {key for (key,) in self._send(connection, rows, values)()}
        key = self._columns[0]
        chosen = raw(connection).execute(f"SELECT {key} FROM {self._table.name} WHERE {self._where}", values)  # noqa: S608
        known = {number for (number,) in chosen}
        found = [row for row in rows if row[0] in known]
        if found:
            raw(connection).executemany(self._for_sqlite(), [(*row[1:], row[0]) for row in self._bound(found)])
        return {row[0] for row in found}

    def _postgres(self, connection: Connection) -> str:
        name, key = self._table.name, self._columns[0]
        changes = ", ".join(f"{column} = fresh.{column}" for column in self._columns[1:])
        # Rows are found by their key: a plan that is made without statistics could compare each with each by an index.
        where = re.sub(r":(\w+)", r"%(\1)s", self._where).replace(" = ", " IS NOT DISTINCT FROM ")
        return (
            f"UPDATE {name} SET {self._fixed}, {changes} FROM unnest({self._fresh(connection)}) AS fresh({self._names})"  # noqa: S608
            f" WHERE {name}.{key} = fresh.{key} AND {where} RETURNING {name}.{key}"
        )

    def _sqlite(self) -> str:
        changes = ", ".join(f"{column} = ?" for column in self._columns[1:])
        return f"UPDATE {self._table.name} SET {self._fixed}, {changes} WHERE {self._columns[0]} = ?"  # noqa: S608


def _array(literal: Callable[[Sequence[Any]], str], column: tuple[Any, ...]) -> str:
    """Return a column as a literal; in a batch most columns hold one value again and again."""
    first = column[0]
    if len(column) > 1 and first == first and column.count(first) == len(column):
        return "{" + ",".join([literal((first,))[1:-1]] * len(column)) + "}"
    return literal(column)


def _date_text(value: date | str | None) -> str | None:
    return value if value is None or isinstance(value, str) else value.isoformat()


def _literal_of(kind: sa.types.TypeEngine[Any]) -> Callable[[Sequence[Any]], str]:
    """Return what makes a literal of a PostgreSQL array of a column; psycopg's own way takes ten times longer."""
    if isinstance(kind, UtcDateTime):
        return _moments
    if isinstance(kind, sa.Date):
        return _dates
    if isinstance(kind, (sa.Integer, sa.Float)):
        return _numbers
    if isinstance(kind, sa.Text):
        return words
    raise TypeError(f"no array literal for {kind!r}")


def _numbers(column: Sequence[float | None]) -> str:
    if None in column:
        return "{" + ",".join(["NULL" if value is None else repr(value) for value in column]) + "}"
    return "{" + ",".join(map(repr, column)) + "}"


def words(column: Sequence[str | None]) -> str:
    """Return texts as a literal of an array of PostgreSQL."""
    if None not in column:
        joined = '","'.join(column)  # type: ignore[arg-type]
        if "\\" not in joined and joined.count('"') == 2 * (len(column) - 1):
            return '{"' + joined + '"}'
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in column]) + "}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _moments(column: Sequence[datetime | None]) -> str:
    return words([None if text is None else f"{text}+00" for text in moment_texts(column)])


def _dates(column: Sequence[date | str | None]) -> str:
    return words([_date_text(value) for value in column])


def insert_many(connection: Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert plain rows, in the order of `columns`, however many: COPY on PostgreSQL, executemany on SQLite.

    Values go to the driver as they are; a UtcDateTime column takes aware datetimes on both.
    """
    names = ", ".join(columns)
    if is_postgres(connection):
        wire(connection).flush()
        with raw(connection).cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        return
    marks = ", ".join("?" * len(columns))
    moments = [index for index, name in enumerate(columns) if isinstance(table.c[name].type, UtcDateTime)]
    raw(connection).executemany(
        f"INSERT INTO {table.name} ({names}) VALUES ({marks})",  # noqa: S608
        _with_moments(rows, moments),
    )


def _with_moments(rows: Iterable[Sequence[Any]], moments: Sequence[int]) -> Iterable[Sequence[Any]]:
    """Turn the moments of each row into what SQLite stores."""
    for row in rows:
        if all(row[index] is None for index in moments):
            yield row
            continue
        changed = list(row)
        for index in moments:
            changed[index] = moment_text(changed[index])
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
