"""How agents claim files.

An agent takes a place on a channel (a row in `claims`) whose id is the fencing token of every file it then holds.
Places are counted under a lock on the channels that share a storage element, so that limits hold between hosts; going
on with the next batch in a place already taken needs no lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import now as database_now
from reqdb import models
from reqdb.counting import MOVED, Tally
from reqdb.states import State


@dataclass(frozen=True, slots=True)
class Waiting:
    """A channel with files in ToDo: the highest priority among them, and whether it is being probed after an outage."""

    channel_id: int
    source: str
    target: str
    priority: int
    probing: bool


@dataclass(frozen=True, slots=True)
class OperationView:
    """What an agent needs to know of the operation that a claimed file belongs to."""

    id: int
    request_id: int
    type: str
    owner: str
    source: str
    targets: tuple[str, ...]
    options: Mapping[str, str]
    request_name: str


@dataclass(frozen=True, slots=True)
class ClaimedFile:
    """One file in an agent's hands; `attempt` is the number that this attempt will have."""

    id: int
    operation: OperationView
    target: str
    lfn: str
    pfn: str | None
    size: int | None
    checksum: str | None
    attempt: int
    failures: int
    leader_id: int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """How many places may be taken at once on one channel and on each storage element; 0 is no limit."""

    channel: int = 0
    elements: Mapping[str, int] = field(default_factory=dict)

def release(connection: Connection, token: int, now: datetime | None = None) -> None:
    """Give up a place: what it still holds goes back to ToDo, and its token is worth nothing from now on.

    The place goes first: whoever is about to claim for it waits here, and finds it gone.
    """
    files = models.files
    connection.execute(sa.delete(models.claims).where(models.claims.c.id == token))
    tally = Tally(connection, now or database_now(connection))
    statement = (
        sa.update(files)
        .where(files.c.token == token, files.c.state == sa.literal_column("'Running'"))
        .values(state=State.TODO.value, token=None)
        .returning(*MOVED)
    )
    tally.move_rows(connection.execute(statement).all(), State.RUNNING, State.TODO)
    tally.settle()


def waiting_channels(connection: Connection, kind: str, *, node: str) -> list[Waiting]:
    """Return the channels of a kind that have files in ToDo and do not rest.

    The highest priority comes first, then the one that was not served for the longest time.
    """
    channels, files = models.channels, models.files
    top = (
        sa.select(files.c.priority)
        .where(files.c.channel_id == channels.c.id, files.c.state == sa.literal_column("'ToDo'"))
        .order_by(files.c.priority.desc(), files.c.id)
        .limit(1)
        .scalar_subquery()
    )
    now = database_now(connection)
    rested = sa.or_(channels.c.rests_until.is_(None), channels.c.rests_until <= now)
    ours = (channels.c.type == kind, channels.c.node.in_(("", node)))
    query = sa.select(channels, top.label("top")).where(*ours, rested)
    rows = [row for row in connection.execute(query) if row.top is not None]
    rows.sort(key=lambda row: (-row.top, row.served_at is not None, row.served_at))
    return [Waiting(row.id, row.source, row.target, row.top, row.failures > 0) for row in rows]


def take_place(connection: Connection, agent_id: int, waiting: Waiting, limits: Limits) -> int | None:
    """Take a place on a channel; return its token, or None when a limit is reached or the channel rests.

    A channel that is being probed after an outage has one place only. An agent whose lease was lost gets none.
    """
    channels, claims, agents = models.channels, models.claims, models.agents
    alive = sa.select(agents.c.id).where(agents.c.id == agent_id, agents.c.state.in_(("Running", "Draining")))
    if connection.execute(alive.with_for_update(read=True)).first() is None:
        return None
    names = [name for name in (waiting.source, waiting.target) if name and limits.elements.get(name)]
    sharing = sa.or_(channels.c.id == waiting.channel_id, channels.c.source.in_(names), channels.c.target.in_(names))
    shared = connection.execute(sa.select(channels).where(sharing).order_by(channels.c.id).with_for_update()).all()
    now = database_now(connection)
    ours = next(row for row in shared if row.id == waiting.channel_id)
    places = sa.select(channels.c.id, channels.c.source, channels.c.target)
    taken = connection.execute(places.join(claims, claims.c.channel_id == channels.c.id)).all()
    if (ours.rests_until and ours.rests_until > now) or _is_full(ours, taken, limits, names):
        return None
    connection.execute(sa.update(channels).where(channels.c.id == ours.id).values(served_at=now))
    values = {"agent_id": agent_id, "channel_id": ours.id, "claimed_at": now}
    token: int = connection.execute(sa.insert(claims).values(values).returning(claims.c.id)).scalar_one()
    return token


def _is_full(ours: Any, taken: Sequence[Any], limits: Limits, names: Sequence[str]) -> bool:
    """Return whether the places taken (one row for each, with its channel) reach a limit."""
    channel_limit = 1 if ours.failures > 0 else limits.channel
    if channel_limit and sum(row.id == ours.id for row in taken) >= channel_limit:
        return True
    return any(sum(name in (row.source, row.target) for row in taken) >= limits.elements[name] for name in names)


def _claim_statement() -> sa.sql.dml.ReturningUpdate[Any]:
    files = models.files
    picked = (
        sa.select(files.c.id)
        .where(files.c.channel_id == sa.bindparam("of_channel"), files.c.state == sa.literal_column("'ToDo'"))
        .order_by(files.c.priority.desc(), files.c.id)
        .limit(sa.bindparam("batch"))
        .with_for_update(skip_locked=True)
        .cte("picked")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return (
        sa.update(files)
        .where(files.c.id == picked.c.id)
        .values(state=State.RUNNING.value, token=sa.bindparam("to_token"))
        .returning(
            files.c.id, files.c.operation_id, files.c.lfn, files.c.pfn, files.c.size, files.c.checksum,
            files.c.attempts, files.c.failures, files.c.leader_id, files.c.priority, files.c.request_id,
        )
    )  # fmt: skip


_CLAIM = _claim_statement()
"""Built once: putting it together costs more than running it."""


def claim_files(connection: Connection, token: int, channel_id: int, batch: int) -> list[ClaimedFile]:
    """Claim up to `batch` files of a channel for a place that is held: ToDo → Running, in one statement.

    A token that is worth nothing any more claims nothing: else its files would be nobody's, and Running for ever.
    The rows are picked in a materialized CTE: as a plain subquery PostgreSQL may run it again and claim too many.
    """
    target = _target_of_place(connection, token)
    if target is None:
        return []
    claimed = connection.execute(_CLAIM, {"to_token": token, "of_channel": channel_id, "batch": batch}).all()
    rows = sorted(claimed, key=lambda row: (-row.priority, row.id))
    if not rows:
        return []
    tally = Tally(connection, database_now(connection))
    tally.move_rows(rows, State.TODO, State.RUNNING)
    tally.settle()
    views = _operation_views(connection, sorted({row.operation_id for row in rows}))
    return [
        ClaimedFile(
            row.id, views[row.operation_id], target, row.lfn, row.pfn, row.size, row.checksum,
            row.attempts + 1, row.failures, row.leader_id,
        )
        for row in rows
    ]  # fmt: skip


def _target_of_place(connection: Connection, token: int) -> str | None:
    """Return the target of the channel on which a place is held, and keep the place from being given up meanwhile."""
    claims, channels = models.claims, models.channels
    query = sa.select(channels.c.target).join(claims, claims.c.channel_id == channels.c.id).where(claims.c.id == token)
    found: str | None = connection.execute(query.with_for_update(read=True, key_share=True, of=claims)).scalar()
    return found


def _operation_views(connection: Connection, operation_ids: Sequence[int]) -> dict[int, OperationView]:
    operations, requests = models.operations, models.requests
    query = (
        sa.select(operations, requests.c.owner, requests.c.name.label("request_name"))
        .join(requests, requests.c.id == operations.c.request_id)
        .where(operations.c.id.in_(operation_ids))
    )
    return {
        row.id: OperationView(
            row.id, row.request_id, row.type, row.owner, row.source or "", tuple(row.targets.split()),
            row.options, row.request_name,
        )
        for row in connection.execute(query)
    }  # fmt: skip
