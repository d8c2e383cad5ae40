"""Write and read the ledger of attempts. All functions take the caller's open connection and never commit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from accounting.models import attempts
from dtscore.bulk import InsertRows

FinalStatus = Literal["Done", "Failed", "Cancelled", "Retried"]

_EXPORT_BATCH = 2000


class AttemptRecord(NamedTuple):
    """One attempt at one file, with DIRAC's fields: sizes in bytes, times in seconds, moments aware UTC.

    `transfer_size` counts the bytes that this attempt moved (0 when the destination already held them);
    `error_class` is the error's stable word, empty if there was none; `source` and `destination` are storage
    elements, empty where the operation has none. `final_status` is Retried when a failure will be tried again and
    Failed when it will not. `user` is the request's owner, the column `owner` of the table. A tuple and no dataclass,
    since one is made for each file and has many fields.
    """

    file_id: int
    attempt: int
    request_id: int
    operation_type: str
    user: str
    execution_site: str
    source: str
    destination: str
    protocol: str
    final_status: FinalStatus
    transfer_size: int
    transfer_time: float
    registration_time: float
    transfer_ok: int
    transfer_total: int
    registration_ok: int
    registration_total: int
    error_class: str
    started_at: datetime
    ended_at: datetime


_COLUMNS = (
    "file_id", "attempt", "request_id", "operation_type", "owner", "execution_site", "source", "destination",
    "protocol", "final_status", "transfer_size", "transfer_time", "registration_time", "transfer_ok", "transfer_total",
    "registration_ok", "registration_total", "error_class", "throughput", "started_at", "ended_at", "day", "hour",
)  # fmt: skip
_INSERT = InsertRows(attempts, _COLUMNS, "ON CONFLICT (file_id, attempt) DO NOTHING")


def record(connection: Connection, records: Sequence[AttemptRecord]) -> None:
    """Write a batch of attempts in one statement; a (file_id, attempt) that is already there stays as it is."""
    _INSERT.run(connection, [_row(one) for one in records])


def _row(one: AttemptRecord) -> tuple[Any, ...]:
    """Return the row's values; a senseless number becomes 0, for accounting must never make a transfer fail."""
    size, seconds = max(one.transfer_size, 0), _seconds(one.transfer_time)
    ended = one.ended_at.astimezone(timezone.utc)
    return (
        one.file_id, one.attempt, one.request_id, one.operation_type, one.user, one.execution_site, one.source,
        one.destination, one.protocol, one.final_status, size, seconds, _seconds(one.registration_time),
        one.transfer_ok, one.transfer_total, one.registration_ok, one.registration_total, one.error_class,
        size / seconds if size and seconds else None, one.started_at, ended, ended.date(), ended.hour,
    )  # fmt: skip


def _seconds(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else 0.0


def prune(connection: Connection, before: datetime) -> int:
    """Delete the attempts that ended before a moment; return how many. Export them first."""
    return connection.execute(sa.delete(attempts).where(attempts.c.ended_at < before)).rowcount


def export(connection: Connection, since: datetime | None, until: datetime | None) -> Iterator[dict[str, Any]]:
    """Give the rows that ended in [since, until), oldest first, without holding them all in memory."""
    chosen = sa.select(attempts).order_by(attempts.c.ended_at, attempts.c.file_id, attempts.c.attempt)
    if since is not None:
        chosen = chosen.where(attempts.c.ended_at >= since)
    if until is not None:
        chosen = chosen.where(attempts.c.ended_at < until)
    result = connection.execution_options(yield_per=_EXPORT_BATCH).execute(chosen)
    for row in result.mappings():
        yield dict(row)
