"""Thousands of values as one parameter: the only place where SQLite and PostgreSQL differ in this room."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeEngine

from dtscore.database import UtcDateTime

T = TypeVar("T")
Columns = Mapping[str, tuple[TypeEngine[Any], Sequence[Any]]]

CHUNK = 10_000
"""Rows in one statement: bounds the memory that its one parameter takes."""


def chunks(rows: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


class Moment(UtcDateTime):
    """The same moments, read ten times as fast from SQLite's text: a bulk look-up reads thousands of them."""

    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Return the reader of the database's values."""
        return _from_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _from_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(f"{value}+00:00")


def given(connection: Connection, columns: Columns) -> sa.FromClause:
    """Return a table named `given` of the values: `columns` maps a name to (SQL type, values), all of one length.

    Integers and text only: SQLite 3.40 reads a JSON real with an error in its last digit.
    """
    postgres = connection.dialect.name == "postgresql"
    shape = given_shape(postgres, {name: kind for name, (kind, _) in columns.items()})
    parameters = given_values(postgres, {name: values for name, (_, values) in columns.items()})
    return shape.params(parameters)


def given_shape(postgres: bool, kinds: Mapping[str, TypeEngine[Any]]) -> sa.FromClause:
    """Return the table `given` without its values, for a statement that is built once; see `given_values`."""
    if postgres:
        arrays = [sa.cast(sa.bindparam(f"given_{name}"), postgresql.ARRAY(kind)) for name, kind in kinds.items()]
        typed = [sa.column(name, kind) for name, kind in kinds.items()]
        return sa.func.unnest(*arrays).table_valued(*typed, name="given").render_derived()
    rows = sa.bindparam("given_rows", type_=sa.Text())
    each = sa.func.json_each(rows).table_valued(sa.column("value", sa.Text), name="each")
    taken = [
        sa.func.json_extract(each.c.value, sa.literal_column(f"'$[{index}]'"), type_=kind).label(name)
        for index, (name, kind) in enumerate(kinds.items())
    ]
    return sa.select(*taken).subquery("given")


def given_values(postgres: bool, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the parameters that fill a `given_shape` of the same columns."""
    if postgres:
        return {f"given_{name}": list(column) for name, column in values.items()}
    return {"given_rows": json.dumps(list(zip(*values.values(), strict=True)), separators=(",", ":"))}


def upsert(postgres: bool, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Return the dialect's INSERT, the one that knows ON CONFLICT."""
    return postgresql.insert(table) if postgres else sqlite.insert(table)


def compiled(postgres: bool, statement: sa.Insert) -> sa.TextClause:
    """Return an INSERT … SELECT as text, to be built and compiled once: SQLAlchemy does not cache this kind."""
    dialect = postgresql.dialect(paramstyle="named") if postgres else sqlite.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    return sa.text(str(statement.compile(dialect=dialect)))
