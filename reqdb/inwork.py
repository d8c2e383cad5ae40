"""Reading what all workers have in their hands just now, over the whole site."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from reqdb import models
from reqdb.leasing import agent_label


@dataclass(frozen=True, slots=True)
class InWork:
    """A file that is being worked on: bytes so far as of the last heartbeat, its size where known, and by whom."""

    file_id: int
    lfn: str
    type: str
    source: str
    target: str
    bytes_now: int
    size: int | None
    agent: str


def in_work(connection: Connection, most: int = 100) -> list[InWork]:
    """Return the files that are being worked on, the oldest places first, at most so many."""
    files, claims, channels, agents = models.files, models.claims, models.channels, models.agents
    query = (
        sa.select(files.c.id, files.c.lfn, files.c.size, claims.c.bytes_now, channels.c.type, channels.c.source)
        .add_columns(channels.c.target, agents.c.id.label("agent_id"), agents.c.kind, agents.c.node, agents.c.pid)
        .select_from(claims)
        .join(files, sa.and_(files.c.id == claims.c.file_id, files.c.token == claims.c.id))
        .join(channels, channels.c.id == claims.c.channel_id)
        .join(agents, agents.c.id == claims.c.agent_id)
        .order_by(claims.c.id)
        .limit(most)
    )
    return [
        InWork(
            row.id, row.lfn, row.type, row.source, row.target, row.bytes_now, row.size,
            agent_label(row.kind, row.node, row.pid, row.agent_id),
        )
        for row in connection.execute(query)
    ]  # fmt: skip
