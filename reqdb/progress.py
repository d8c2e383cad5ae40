"""Where a request stands at one moment: files and bytes, rates, what is left, and what is being worked on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dtscore.database import now as database_now
from reqdb import models
from reqdb.leasing import agent_label
from reqdb.queries import counts_of, failures, of_request, request_row, unsized_operations
from reqdb.states import ENDED, State
from reqdb.views import Counts, Current, Progress, percent


def progress(connection: Connection, request_id: int, *, reasons: int = 5) -> Progress:
    """Return where a request stands, with at most `reasons` reasons of failures; raises NotFoundError."""
    row = request_row(connection, request_id)
    now = database_now(connection)
    counts = counts_of(row)
    current = _current(connection, request_id) if counts.running else ()
    flying = sum(file.bytes_now for file in current)
    sized = not unsized_operations(connection, request_id)
    files_rate, bytes_rate = _mean_rates(row, now, flying)
    return Progress(
        request_id, row.name, row.state, now, counts, row.bytes_total, row.bytes_done, flying,
        percent(counts.done, counts.total), percent(row.bytes_done + flying, row.bytes_total) if sized else None,
        files_rate, bytes_rate,
        time_left(counts, row.bytes_total - row.bytes_done - flying if sized else None, files_rate, bytes_rate),
        current, failures(connection, request_id, reasons) if counts.failed else (),
    )  # fmt: skip


def time_left(
    counts: Counts, bytes_left: int | None, files_rate: float | None, bytes_rate: float | None
) -> float | None:
    """Return the seconds until all is done at these rates (1/s): the longer of files and bytes; None if unknown.

    Both are looked at since many small files are held up by their number and few large ones by their bytes.
    """
    files_left = counts.total - counts.ended
    if not files_left:
        return 0.0
    by_files = files_left / files_rate if files_rate else None
    by_bytes = max(bytes_left, 0) / bytes_rate if bytes_rate and bytes_left is not None else None
    if by_bytes is not None and files_left <= counts.running:
        return by_bytes
    known = [seconds for seconds in (by_files, by_bytes) if seconds is not None]
    return max(known, default=None)


def _mean_rates(row: Row[Any], now: datetime, flying: int) -> tuple[float | None, float | None]:
    """Return files and bytes per second since the request started; None where nothing was done yet."""
    if row.started_at is None:
        return None, None
    end = row.finished_at if State(row.state) in ENDED and row.finished_at else now
    seconds = max((end - row.started_at).total_seconds(), 0.001)
    return row.done / seconds or None, (row.bytes_done + flying) / seconds or None


def _current(connection: Connection, request_id: int) -> tuple[Current, ...]:
    """Return the files of a request that a worker has in its hands, the oldest claim first."""
    files, claims, channels, agents = models.files, models.claims, models.channels, models.agents
    query = (
        sa.select(claims.c.bytes_now, claims.c.claimed_at, files.c.lfn, files.c.size, channels.c.type)
        .add_columns(channels.c.source, channels.c.target, agents.c.id, agents.c.kind, agents.c.node, agents.c.pid)
        .join(files, sa.and_(files.c.id == claims.c.file_id, files.c.token == claims.c.id))
        .join(channels, channels.c.id == claims.c.channel_id)
        .join(agents, agents.c.id == claims.c.agent_id)
        .where(of_request(request_id))
        .order_by(claims.c.id)
    )
    return tuple(
        Current(
            row.lfn, row.type, row.source, row.target, row.bytes_now, row.size,
            agent_label(row.kind, row.node, row.pid, row.id), row.claimed_at,
        )
        for row in connection.execute(query)
    )  # fmt: skip
