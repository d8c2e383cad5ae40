"""INSERT … ON CONFLICT DO UPDATE on both databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection


def upsert(
    connection: Connection,
    table: sa.Table,
    key: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    renew: Sequence[str],
    *,
    where: Mapping[str, Any] | None = None,
) -> None:
    """Insert rows; of one whose `key` is there already renew the columns `renew`, if its columns equal `where`.

    Without columns to renew, what is there stays.
    """
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    if not renew:
        connection.execute(statement.on_conflict_do_nothing(index_elements=list(key)), list(rows))
        return
    condition = sa.and_(*(table.c[name] == value for name, value in where.items())) if where else None
    changes = {name: statement.excluded[name] for name in renew}
    renewing = statement.on_conflict_do_update(index_elements=list(key), set_=changes, where=condition)
    connection.execute(renewing, list(rows))
