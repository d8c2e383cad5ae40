"""What the readers of the request database share: a request's row, its operations' ids, its failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dtscore.errors import NotFoundError
from reqdb import models
from reqdb.states import State
from reqdb.views import Counts, Failure


def request_row(connection: Connection, request_id: int) -> Row[Any]:
    """Return a request's row, or raise NotFoundError."""
    row = connection.execute(sa.select(models.requests).where(models.requests.c.id == request_id)).first()
    if row is None:
        raise NotFoundError(f"there is no request {request_id}", "see them all: dts-request list")
    return row


def operation_rows(connection: Connection, request_id: int) -> Sequence[Row[Any]]:
    """Return a request's operations in order."""
    operations = models.operations
    query = sa.select(operations).where(operations.c.request_id == request_id).order_by(operations.c.sequence)
    return connection.execute(query).all()


def of_request(request_id: int) -> sa.ColumnElement[bool]:
    """Return the condition that a file is one of a request: by its operation, for which there is an index."""
    operations = models.operations
    ids = sa.select(operations.c.id).where(operations.c.request_id == request_id)
    return models.files.c.operation_id.in_(ids)


def in_states(*states: State) -> sa.ColumnElement[bool]:
    """Return the condition that a file is in one of these states, spelled out so that partial indexes serve."""
    words = ", ".join(f"'{state.value}'" for state in states)
    return sa.literal_column(f"files.state IN ({words})", sa.Boolean)


def counts_of(row: Row[Any]) -> Counts:
    """Return the counters of a request's or operation's row."""
    return Counts(row.queued, row.todo, row.running, row.done, row.failed, row.cancelled)


def unsized_operations(connection: Connection, request_id: int) -> set[int]:
    """Return the operations that hold a file of unknown size which is not Done: their bytes in all are not known."""
    files, operations = models.files, models.operations
    missing = sa.exists().where(
        files.c.operation_id == operations.c.id,
        in_states(State.QUEUED, State.TODO, State.RUNNING, State.FAILED, State.CANCELLED),
        files.c.size.is_(None),
    )
    unfinished = operations.c.state != State.DONE.value
    query = sa.select(operations.c.id).where(operations.c.request_id == request_id, unfinished, missing)
    return set(connection.execute(query).scalars())


def failures(connection: Connection, request_id: int, limit: int = 20) -> tuple[Failure, ...]:
    """Return why files of a request failed: one entry for each reason, most frequent first, with one file of it."""
    files, operations, channels = models.files, models.operations, models.channels
    grouped = (
        sa.select(sa.func.count().label("number"), sa.func.min(files.c.id).label("example"))
        .where(of_request(request_id), in_states(State.FAILED))
        .group_by(files.c.error_class, files.c.error)
        .order_by(sa.text("number DESC"), sa.text("example"))
        .limit(limit)
        .subquery("grouped")
    )
    query = (
        sa.select(files.c.error_class, files.c.error, files.c.lfn, grouped.c.number)
        .add_columns(operations.c.sequence, channels.c.target)
        .join(grouped, grouped.c.example == files.c.id)
        .join(operations, operations.c.id == files.c.operation_id)
        .join(channels, channels.c.id == files.c.channel_id)
        .order_by(grouped.c.number.desc(), files.c.id)
    )
    return tuple(
        Failure(row.error_class, row.error, row.number, row.lfn, row.sequence, row.target)
        for row in connection.execute(query)
    )
