"""What was renamed into the trash of a storage element and waits to be unlinked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from catalog.given import chunks, upsert
from catalog.models import catalog_trash as trash
from catalog.records import Trashed, TrashItem
from dtscore.database import now


def put_in_trash(connection: Connection, item: Trashed) -> None:
    """Write down that a file lies in the trash; the same path on the same element is written down once."""
    statement = upsert(connection.dialect.name == "postgresql", trash).values(
        lfn=item.lfn,
        element=item.element,
        path=item.trash_path,
        size=item.size,
        trashed_at=now(connection),
        purge_after=item.purge_after,
        error="",
    )
    connection.execute(statement.on_conflict_do_nothing())


def due_trash(connection: Connection, moment: datetime, limit: int) -> list[TrashItem]:
    """Return what may be unlinked at `moment`, longest due first, at most `limit`."""
    query = sa.select(trash).where(trash.c.purge_after <= moment).order_by(trash.c.purge_after, trash.c.id).limit(limit)
    return [TrashItem(*row) for row in connection.execute(query)]


def drop_trash(connection: Connection, ids: Sequence[int]) -> int:
    """Forget items that were unlinked; return how many there were."""
    return sum(
        connection.execute(sa.delete(trash).where(trash.c.id.in_(part))).rowcount for part in chunks(sorted(ids), 500)
    )


def trash_failed(connection: Connection, number: int, error: str, purge_after: datetime) -> bool:
    """Keep why an item could not be unlinked and when to try again; return False if it is gone already."""
    change = sa.update(trash).where(trash.c.id == number).values(error=error, purge_after=purge_after)
    return connection.execute(change).rowcount == 1
