"""The builder nodes in the database: heartbeats, who is alive, and draining."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.bulk import any_of
from dtscore.database import now
from dtscore.errors import NotFoundError
from imagebuilder import models
from imagebuilder.counting import raise_number
from imagebuilder.records import NodeLine, NodeStatus
from imagebuilder.upsert import upsert

__all__ = ["NodeLine", "NodeStatus", "alive", "beat", "drain", "forget", "listing"]


def beat(connection: Connection, status: NodeStatus) -> bool:
    """Write a node's heartbeat; return whether it is draining: then it takes no new exposure."""
    table = models.nodes
    moment = now(connection)
    values = {
        "host": status.host, "port": status.port, "heartbeat_at": moment, "pages": status.pages, "free": status.free,
        "page_bytes": status.page_bytes, "exposures": list(status.exposures), "software": status.software,
    }  # fmt: skip
    upsert(connection, table, ["name"], [{"name": status.node, **values}], tuple(values))
    if status.active:
        exposures = models.exposures
        ours = (any_of(connection, exposures.c.id, status.active), exposures.c.node == status.node)
        connection.execute(sa.update(exposures).where(*ours).values(touched_at=moment))
    if status.highest:
        raise_number(connection, status.highest)
    drains: bool = connection.execute(sa.select(table.c.draining).where(table.c.name == status.node)).scalar_one()
    return drains


def listing(connection: Connection) -> Sequence[NodeLine]:
    """Return all nodes by name, with the age of their heartbeats."""
    moment = now(connection)
    rows = connection.execute(sa.select(models.nodes).order_by(models.nodes.c.name))
    return [
        NodeLine(
            row.name, row.host, row.port, "draining" if row.draining else "active",
            max(0.0, (moment - row.heartbeat_at).total_seconds()), row.pages, row.free, row.page_bytes,
            tuple(row.exposures), row.software,
        )
        for row in rows
    ]  # fmt: skip


def alive(connection: Connection, stale: float) -> list[NodeLine]:
    """Return the nodes whose heartbeat is at most `stale` seconds old, the one with most free memory first."""
    found = [node for node in listing(connection) if node.age <= stale]
    return sorted(found, key=lambda node: (-node.free * node.page_bytes, len(node.exposures), node.node))


def drain(connection: Connection, node: str, *, undo: bool = False) -> None:
    """Have a node take no new exposure (`undo`: take them again); raises NotFoundError."""
    change = sa.update(models.nodes).where(models.nodes.c.name == node).values(draining=not undo)
    if not connection.execute(change).rowcount:
        known = ", ".join(line.node for line in listing(connection)) or "none"
        raise NotFoundError(f"there is no builder node {node!r}", f"the nodes are: {known}")


def forget(connection: Connection, node: str) -> None:
    """Take a node that left in good order out of the list."""
    connection.execute(sa.delete(models.nodes).where(models.nodes.c.name == node))
