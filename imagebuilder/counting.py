"""The counter of exposure numbers: one row that only grows, locked by whoever counts."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imagebuilder import models
from imagebuilder.upsert import upsert

_NAME = "exposure"


def take_numbers(connection: Connection, count: int, above: int) -> range:
    """Take `count` numbers, all above `above`; they are others' again if the transaction is rolled back."""
    table = models.numbers
    _ensure(connection)
    start = sa.case((table.c.last < above, above), else_=table.c.last)
    statement = sa.update(table).where(table.c.name == _NAME).values(last=start + count).returning(table.c.last)
    last: int = connection.execute(statement).scalar_one()
    return range(last - count + 1, last + 1)


def raise_number(connection: Connection, number: int) -> None:
    """Have the next number lie above `number`."""
    table = models.numbers
    _ensure(connection)
    connection.execute(sa.update(table).where(table.c.name == _NAME, table.c.last < number).values(last=number))


def _ensure(connection: Connection) -> None:
    upsert(connection, models.numbers, ["name"], [{"name": _NAME, "last": 0}], ())


def label_of(camera: str, exposure: int) -> str:
    """Return the data label of an exposure, the base of its file's name."""
    return f"{camera}_{exposure:08d}"
