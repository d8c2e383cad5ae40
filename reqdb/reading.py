"""Reading the request database: lists, one request with everything in it, files, attempts, events and failures.

Nothing here writes. Files are found through their operations: that index stays fast among millions of other rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from reqdb import models
from reqdb.exporting import annotations_of, to_spec
from reqdb.progress import progress
from reqdb.queries import counts_of, failures, of_request, operation_rows, request_row, unsized_operations
from reqdb.states import State
from reqdb.views import (
    AttemptLine,
    Counts,
    Current,
    EventLine,
    Failure,
    FileLine,
    OperationLine,
    Progress,
    RequestLine,
    RequestView,
    percent,
)

__all__ = [
    "AttemptLine",
    "Counts",
    "Current",
    "EventLine",
    "Failure",
    "FileLine",
    "OperationLine",
    "Progress",
    "RequestLine",
    "RequestView",
    "annotations_of",
    "attempts_of",
    "attempts_of_request",
    "events_of",
    "failures",
    "list_files",
    "list_requests",
    "progress",
    "show",
    "states_by_name",
    "to_spec",
]


def list_requests(
    connection: Connection,
    *,
    state: State | None = None,
    owner: str | None = None,
    queue: str | None = None,
    limit: int = 50,
    before_id: int | None = None,
) -> list[RequestLine]:
    """Return requests, newest first: of a state, an owner, a queue, and older than `before_id` for the next page."""
    requests = models.requests
    query = sa.select(requests).order_by(requests.c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(requests.c.state == state.value)
    if owner is not None:
        query = query.where(requests.c.owner == owner)
    if queue is not None:
        query = query.where(requests.c.queue == queue)
    if before_id is not None:
        query = query.where(requests.c.id < before_id)
    return [_request_line(row) for row in connection.execute(query)]


def _request_line(row: Row[Any]) -> RequestLine:
    counts = counts_of(row)
    return RequestLine(
        row.id, row.name, row.owner, row.priority, row.state, percent(counts.done, counts.total), counts.total,
        counts.done, counts.failed, counts.cancelled, row.bytes_total, row.bytes_done,
        row.submitted_at, row.started_at, row.finished_at, row.queue,
    )  # fmt: skip


def states_by_name(connection: Connection, names: Sequence[str]) -> dict[str, tuple[int, State]]:
    """Return id and state of requests by name, some hundred in one call; unknown names are left out."""
    requests = models.requests
    query = sa.select(requests.c.name, requests.c.id, requests.c.state).where(requests.c.name.in_(names))
    return {row.name: (row.id, State(row.state)) for row in connection.execute(query)}


def show(connection: Connection, request_id: int, *, reasons: int = 10) -> RequestView:
    """Return one request with its operations and at most `reasons` reasons of failures; raises NotFoundError."""
    row = request_row(connection, request_id)
    counts = counts_of(row)
    unsized = unsized_operations(connection, request_id)
    lines = tuple(_operation_line(r, r.id not in unsized) for r in operation_rows(connection, request_id))
    return RequestView(
        row.id, row.name, row.owner, row.priority, row.state, counts, row.bytes_total, row.bytes_done,
        percent(counts.done, counts.total), None if unsized else percent(row.bytes_done, row.bytes_total),
        row.not_before, row.deadline, row.submitted_at, row.started_at, row.finished_at, row.cancelled_at,
        row.cancelled_by, row.origin, lines, failures(connection, request_id, reasons) if counts.failed else (),
        row.queue,
    )  # fmt: skip


def _operation_line(row: Row[Any], sized: bool) -> OperationLine:
    counts = counts_of(row)
    return OperationLine(
        row.id, row.sequence, row.type, row.source, tuple(row.targets.split()), row.node, dict(row.options), row.state,
        counts, row.bytes_total, row.bytes_done, percent(counts.done, counts.total),
        percent(row.bytes_done, row.bytes_total) if sized else None,
    )  # fmt: skip


def list_files(
    connection: Connection,
    request_id: int,
    *,
    states: Iterable[State] = (),
    limit: int = 1000,
    after_id: int = 0,
) -> list[FileLine]:
    """Return files of a request in the order of its operations: those in `states`, beginning after `after_id`."""
    files, operations, channels = models.files, models.operations, models.channels
    words = [state.value for state in states]
    query = (
        sa.select(files, operations.c.sequence, operations.c.type, channels.c.source, channels.c.target)
        .join(operations, operations.c.id == files.c.operation_id)
        .join(channels, channels.c.id == files.c.channel_id)
        .where(operations.c.request_id == request_id, files.c.id > after_id)
        .order_by(files.c.id)
        .limit(limit)
    )
    if words:
        query = query.where(files.c.state.in_(words))
    return [_file_line(row) for row in connection.execute(query)]


def _file_line(row: Row[Any]) -> FileLine:
    return FileLine(
        row.id, row.sequence, row.type, row.source, row.target, row.lfn, row.pfn,
        row.size if row.found_size is None else row.found_size, row.found_checksum or row.checksum,
        row.state, row.waits_on, row.not_before, row.attempts, row.failures, row.error_class, row.error, row.ended_at,
    )  # fmt: skip


def attempts_of(connection: Connection, file_id: int) -> list[AttemptLine]:
    """Return all attempts at one file, first to last."""
    return _attempts(connection, models.files.c.id == file_id, None)


def attempts_of_request(connection: Connection, request_id: int, *, limit: int = 1000) -> list[AttemptLine]:
    """Return the attempts at the files of a request, file by file, at most `limit`."""
    return _attempts(connection, of_request(request_id), limit)


def _attempts(connection: Connection, which: sa.ColumnElement[bool], limit: int | None) -> list[AttemptLine]:
    files, attempts = models.files, models.attempts
    query = (
        sa.select(attempts, files.c.lfn)
        .join(files, files.c.id == attempts.c.file_id)
        .where(which)
        .order_by(attempts.c.file_id, attempts.c.attempt)
        .limit(limit)
    )
    return [
        AttemptLine(
            row.file_id, row.lfn, row.attempt, row.agent, row.source, row.target, row.started_at, row.seconds,
            row.bytes, row.outcome, row.error_class, row.error,
        )
        for row in connection.execute(query)
    ]  # fmt: skip


def events_of(connection: Connection, request_id: int, *, limit: int = 1000) -> list[EventLine]:
    """Return the latest `limit` events of a request, oldest first."""
    events = models.events
    query = sa.select(events).where(events.c.request_id == request_id).order_by(events.c.id.desc()).limit(limit)
    rows = reversed(connection.execute(query).all())
    return [EventLine(row.id, row.at, row.kind, row.message, row.file_id) for row in rows]
