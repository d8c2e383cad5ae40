"""What an explanation looks at: the request, its operations, the channels, agents and places, all at one moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dtscore.bulk import any_of
from reqdb import models
from reqdb.leasing import agent_label
from reqdb.queries import operation_rows, request_row


def _unlimited(_source: str, _target: str) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """What the site's configuration says about places: an explanation cannot see it in the database.

    `channel` gives the limit from a source to a target, `elements` that of each storage element, `workers` the workers
    of each kind of agent (0 or absent: unknown); `attempts` is how often a temporary error is tried; `nodes` names the
    node that alone reaches a storage element, where there is one.
    """

    channel: Callable[[str, str], int] = _unlimited
    elements: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    attempts: int = 5
    nodes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why `count` files of one operation stand where they stand, what would move them, and one of them."""

    count: int
    state: str
    operation: int
    type: str
    why: str
    frees: str
    example: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that the reasons of one request are told from, read in one transaction."""

    connection: Connection
    request: Row[Any]
    operations: Mapping[int, Row[Any]]
    channels: Mapping[int, Row[Any]]
    agents: Sequence[Row[Any]]
    claims: Sequence[Row[Any]]
    queues: Mapping[str, Row[Any]]
    now: datetime
    limits: SiteLimits

    def reason(self, row: Row[Any], state: str, why: str, frees: str, example: str) -> Reason:
        """Return a reason for a group of files: a row with `operation_id` and `number`."""
        operation = self.operations[row.operation_id]
        return Reason(row.number, state, operation.sequence, operation.type, why, frees, example)

    def live_agents(self, kind: str = "", node: str = "") -> list[Row[Any]]:
        """Return the agents that claim work: leases alive, not draining, of a kind and on a node where given."""
        return [
            agent for agent in self.agents
            if agent.state == "Running" and agent.lease_until > self.now
            and kind in ("", agent.kind) and node in ("", agent.node)
        ]  # fmt: skip

    def at(self, moment: datetime) -> str:
        """Return a moment as text with how far away it is: `2026-11-21 03:40:00Z (in 12 s)`."""
        seconds = (moment - self.now).total_seconds()
        near = f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"
        return f"{moment:%Y-%m-%d %H:%M:%S}Z ({near})"

    def since(self, moment: datetime) -> str:
        """Return how long ago a moment was: `12 s`."""
        return span((self.now - moment).total_seconds())


def set_up(connection: Connection, request_id: int, now: datetime, limits: SiteLimits) -> Scene:
    """Read what an explanation needs besides the files themselves; raises NotFoundError."""
    agents, claims, channels, files = models.agents, models.claims, models.channels, models.files
    alive = sa.select(agents).where(agents.c.state.in_(("Running", "Draining"))).order_by(agents.c.id)
    places = (
        sa.select(claims, channels.c.source, channels.c.target, channels.c.type, files.c.lfn, files.c.size)
        .add_columns(agents.c.kind, agents.c.node, agents.c.pid, agents.c.state.label("agent_state"))
        .add_columns(agents.c.heartbeat_at, agents.c.ticked_at, agents.c.lease_until, agents.c.poll_interval)
        .join(channels, channels.c.id == claims.c.channel_id)
        .join(agents, agents.c.id == claims.c.agent_id)
        .outerjoin(files, sa.and_(files.c.id == claims.c.file_id, files.c.token == claims.c.id))
        .order_by(claims.c.id)
    )
    return Scene(
        connection, request_row(connection, request_id),
        {row.id: row for row in operation_rows(connection, request_id)},
        {row.id: row for row in connection.execute(sa.select(channels))},
        connection.execute(alive).all(), connection.execute(places).all(),
        {row.name: row for row in connection.execute(sa.select(models.queues))}, now, limits,
    )  # fmt: skip


def examples(scene: Scene, ids: Sequence[int]) -> dict[int, Row[Any]]:
    """Return the LFN, error and moment of a few files that stand for their groups."""
    files = models.files
    query = sa.select(files.c.id, files.c.lfn, files.c.error_class, files.c.error, files.c.not_before)
    return {row.id: row for row in scene.connection.execute(query.where(any_of(scene.connection, files.c.id, ids)))}


def label_of(agent: Row[Any]) -> str:
    """Return the name of an agent's row."""
    return agent_label(agent.kind, agent.node, agent.pid, agent.id)


def holder(claim: Row[Any]) -> str:
    """Return the name of the agent that holds a place."""
    return agent_label(claim.kind, claim.node, claim.pid, claim.agent_id)


def way(source: str, target: str) -> str:
    """Return a channel as people read it: `ctio → fnal`, `→ fnal`, or `any storage element`."""
    if not target:
        return f"{source} → any storage element" if source else "any storage element"
    return f"{source} → {target}" if source else f"→ {target}"


def files_word(number: int) -> str:
    """Return `1 file` or `12 files`."""
    return "1 file" if number == 1 else f"{number:,} files"


def span(seconds: float) -> str:
    """Return a duration in its two largest units: `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    left = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"
