"""Reading the agents: who works, when they were last heard of, and what they hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import now as database_now
from reqdb import models
from reqdb.leasing import agent_label


@dataclass(frozen=True, slots=True)
class AgentLine:
    """One agent; ages in seconds by the database's clock. `condition` is ok, hung or dead."""

    id: int
    kind: str
    node: str
    pid: int
    state: str
    condition: str
    started_at: datetime
    label: str
    heartbeat_age: float
    tick_age: float
    lease_left: float
    files: int
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def agents(connection: Connection, *, lost_within: float = 0.0) -> list[AgentLine]:
    """Return the agents that work or should, and those that were lost within so many seconds, by kind and id.

    An agent is dead when its lease is over, and hung when its heart beats but its main loop has stood still for more
    than three poll intervals and a minute.
    """
    table, claims, files = models.agents, models.claims, models.files
    held = (
        sa.select(sa.func.count())
        .select_from(files.join(claims, claims.c.id == files.c.token))
        .where(claims.c.agent_id == table.c.id, files.c.state == sa.literal_column("'Running'"))
        .scalar_subquery()
    )
    now = database_now(connection)
    working = table.c.state.in_(("Running", "Draining"))
    lost = sa.and_(table.c.state == "Lost", table.c.heartbeat_at > now - timedelta(seconds=lost_within))
    query = sa.select(table, held.label("files")).where(sa.or_(working, lost)).order_by(table.c.kind, table.c.id)
    return [_line(row, now) for row in connection.execute(query)]


def _line(row: Any, now: datetime) -> AgentLine:
    tick_age = (now - row.ticked_at).total_seconds()
    lease_left = (row.lease_until - now).total_seconds()
    return AgentLine(
        id=row.id, kind=row.kind, node=row.node, pid=row.pid, state=row.state,
        condition=_condition(row, tick_age, lease_left), started_at=row.started_at,
        label=agent_label(row.kind, row.node, row.pid, row.id),
        heartbeat_age=(now - row.heartbeat_at).total_seconds(), tick_age=tick_age, lease_left=lease_left,
        files=row.files, message=row.message,
    )  # fmt: skip


def _condition(row: Any, tick_age: float, lease_left: float) -> str:
    if row.state == "Lost" or lease_left < 0:
        return "dead"
    return "hung" if tick_age > 3 * row.poll_interval + 60.0 else "ok"
