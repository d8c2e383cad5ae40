"""From rows back to request files: what was submitted, exactly, and what became of it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from reqdb import models
from reqdb.queries import operation_rows, request_row
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.xml import Annotations


def to_spec(connection: Connection, request_id: int) -> RequestSpec:
    """Return a request as it was submitted, so that submitting it again finds the same one; raises NotFoundError.

    An owner or a name that the submission left out is left out here: its digest tells which.
    """
    row = request_row(connection, request_id)
    operations = tuple(_operation(connection, r) for r in operation_rows(connection, request_id))
    spec = RequestSpec(
        operations, row.name, row.owner, row.priority, row.not_before, row.deadline, row.queue or None
    )
    ownerless = dataclasses.replace(spec, owner=None)
    if spec.digest() != row.digest and ownerless.digest() == row.digest:
        spec = ownerless
    named_after_content = row.name == f"{operations[0].type}-{row.digest[:16]}"
    return dataclasses.replace(spec, name=None) if named_after_content else spec


def _operation(connection: Connection, row: Row[Any]) -> OperationSpec:
    """Return one operation; its files have a row for each target, side by side, of which one is enough."""
    files = models.files
    targets = tuple(row.targets.split())
    query = sa.select(files.c.lfn, files.c.pfn, files.c.size, files.c.checksum).where(files.c.operation_id == row.id)
    rows = connection.execute(query.order_by(files.c.id)).all()[:: max(len(targets), 1)]
    specs = tuple(FileSpec(r.lfn, r.pfn, r.size, r.checksum) for r in rows)
    return OperationSpec(row.type, specs, row.source, targets, row.node, tuple(row.options.items()))


def annotations_of(connection: Connection, request_id: int) -> Annotations:
    """Return what became of a request and of each of its files, to be written beside them; raises NotFoundError."""
    row = request_row(connection, request_id)
    files, operations, channels = models.files, models.operations, models.channels
    query = (
        sa.select(files, operations.c.sequence, channels.c.target)
        .join(operations, operations.c.id == files.c.operation_id)
        .join(channels, channels.c.id == files.c.channel_id)
        .where(operations.c.request_id == request_id)
        .order_by(files.c.id)
    )
    results: dict[tuple[int, str], list[dict[str, str]]] = defaultdict(list)
    for file in connection.execute(query):
        results[file.sequence - 1, file.lfn].append(_result(file))
    request = {
        "id": row.id, "state": row.state, "submitted-by": row.owner, "submitted": row.submitted_at,
        "started": row.started_at, "finished": row.finished_at, "cancelled-by": row.cancelled_by,
    }  # fmt: skip
    return Annotations(_texts(request), dict(results))


def _result(file: Row[Any]) -> dict[str, str]:
    """Return what became of one file on its way to one target."""
    return _texts(
        {
            "id": file.id, "target": file.target, "state": file.state, "attempts": file.attempts,
            "ended": file.ended_at, "size": file.found_size, "checksum": file.found_checksum,
            "error-class": file.error_class, "error": file.error,
        }
    )  # fmt: skip


def _texts(values: dict[str, object]) -> dict[str, str]:
    """Return the values that there are, as text; moments as ISO 8601 in UTC."""
    return {name: _text(value) for name, value in values.items() if value is not None and value != ""}


def _text(value: object) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
