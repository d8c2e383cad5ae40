"""Agents, their leases, and how they claim files.

An agent takes a place on a channel (a row in `claims`) whose id is the fencing token of every file it then holds. The
lease is the agent's heartbeat, one row however many files it holds. Places are counted under a lock on the channels
that share a storage element, so that limits hold between hosts; going on with the next batch in a place already
taken needs no lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import now as database_now
from reqdb import models
from reqdb.counting import MOVED, Tally
from reqdb.states import State

AGENT_LOST = "agent-lost"
"""The error class of an attempt that was cut off with its agent."""

_AGENT_ROWS_DAYS = 7


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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a worker is: the token, the file being worked on and the bytes so far."""

    token: int
    file_id: int | None
    bytes_now: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer to a heartbeat: whether the lease holds, and which of the agent's files are to be stopped and why."""

    alive: bool
    stops: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """An attempt that was cut off with its agent, for the accounting; `seconds` counts from the claim."""

    file_id: int
    attempt: int
    request_id: int
    type: str
    owner: str
    agent: str
    node: str
    source: str
    target: str
    started_at: datetime
    seconds: float
    bytes_now: int


@dataclass(frozen=True, slots=True)
class Expired:
    """The agents whose lease has ended, and the attempts that were cut off with them."""

    agents: tuple[int, ...]
    attempts: tuple[LostAttempt, ...]


def enter_agent(
    connection: Connection, kind: str, *, node: str, pid: int, lease: float, poll_interval: float
) -> int:
    """Write the row of an agent that begins to work; return its id. `lease` and `poll_interval` are seconds."""
    now = database_now(connection)
    _forget_old_agents(connection, now)
    values = {
        "kind": kind, "node": node, "pid": pid, "state": "Running", "started_at": now, "heartbeat_at": now,
        "ticked_at": now, "lease_until": now + timedelta(seconds=lease), "poll_interval": poll_interval,
    }  # fmt: skip
    statement = sa.insert(models.agents).values(values).returning(models.agents.c.id)
    agent_id: int = connection.execute(statement).scalar_one()
    return agent_id


def _forget_old_agents(connection: Connection, now: datetime) -> None:
    """Delete the rows of agents that left long ago: cron makes some with every run."""
    agents, claims = models.agents, models.claims
    old = agents.c.heartbeat_at < now - timedelta(days=_AGENT_ROWS_DAYS)
    holds = sa.exists().where(claims.c.agent_id == agents.c.id)
    connection.execute(sa.delete(agents).where(agents.c.state.in_(("Ended", "Lost")), old, ~holds))


def beat(
    connection: Connection, agent_id: int, *, lease: float, ticked: bool, draining: bool, progress: Sequence[Progress]
) -> Heartbeat:
    """Renew an agent's lease and write where its workers are; `ticked` says that its main loop still turns."""
    agents = models.agents
    now = database_now(connection)
    values: dict[str, Any] = {"heartbeat_at": now, "lease_until": now + timedelta(seconds=lease)}
    values["state"] = "Draining" if draining else "Running"
    if ticked:
        values["ticked_at"] = now
    live = sa.update(agents).where(agents.c.id == agent_id, agents.c.state.in_(("Running", "Draining"))).values(values)
    if connection.execute(live).rowcount == 0:
        return Heartbeat(False, {})
    if progress:
        _write_progress(connection, progress, now)
    return Heartbeat(True, _stops(connection, agent_id, now))


def _write_progress(connection: Connection, progress: Sequence[Progress], now: datetime) -> None:
    claims = models.claims
    statement = sa.update(claims).where(claims.c.id == sa.bindparam("token"))
    statement = statement.values(file_id=sa.bindparam("file"), bytes_now=sa.bindparam("bytes"), progressed_at=now)
    rows = [{"token": p.token, "file": p.file_id, "bytes": p.bytes_now} for p in progress]
    connection.execute(statement, rows)


def _stops(connection: Connection, agent_id: int, now: datetime) -> dict[int, str]:
    """Return the files of this agent whose request was cancelled or is past its deadline."""
    files, claims, requests = models.files, models.claims, models.requests
    query = (
        sa.select(files.c.id, requests.c.cancelled_at)
        .join(claims, claims.c.id == files.c.token)
        .join(requests, requests.c.id == files.c.request_id)
        .where(claims.c.agent_id == agent_id, files.c.state == sa.literal_column("'Running'"))
        .where(sa.or_(requests.c.cancelled_at.is_not(None), past_deadline(now)))
    )
    return {row.id: "cancelled" if row.cancelled_at else "deadline" for row in connection.execute(query)}


def past_deadline(now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition that a request is past its deadline, which a retry after it has not lifted."""
    return sa.and_(models.requests.c.deadline <= now, models.requests.c.deadline_lifted.is_(False))


def leave_agent(connection: Connection, agent_id: int) -> None:
    """End an agent: hand back what it still holds and keep its row as Ended."""
    now = database_now(connection)
    _hand_back_all(connection, agent_id, now)
    values = {"state": "Ended", "heartbeat_at": now, "lease_until": now}
    connection.execute(sa.update(models.agents).where(models.agents.c.id == agent_id).values(values))


def expire_agents(connection: Connection, *, margin: float = 0.0) -> Expired:
    """Take the files from agents whose lease ended more than `margin` seconds ago; return what was taken."""
    agents = models.agents
    now = database_now(connection)
    late = agents.c.lease_until < now - timedelta(seconds=margin)
    statement = (
        sa.update(agents)
        .where(late, agents.c.state.in_(("Running", "Draining")))
        .values(state="Lost", message="its lease ended without a heartbeat")
        .returning(agents.c.id)
    )
    lost = list(connection.execute(statement).scalars())
    attempts: list[LostAttempt] = []
    for agent_id in lost:
        attempts += _record_lost_attempts(connection, agent_id, now)
        _hand_back_all(connection, agent_id, now)
    return Expired(tuple(lost), tuple(attempts))


def agent_label(kind: str, node: str, pid: int, agent_id: int) -> str:
    """Return how an agent is named in attempts and messages: `transfer@node:pid#id`."""
    return f"{kind}@{node}:{pid}#{agent_id}"


def _record_lost_attempts(connection: Connection, agent_id: int, now: datetime) -> list[LostAttempt]:
    """Keep an attempt for each file that the agent was known to be working on when it was lost."""
    lost = [_lost_attempt(row, agent_id, now) for row in _files_in_work(connection, agent_id)]
    if not lost:
        return []
    values = [
        {
            "file_id": one.file_id, "attempt": one.attempt, "agent": one.agent, "source": one.source,
            "target": one.target, "started_at": one.started_at, "seconds": one.seconds, "bytes": one.bytes_now, "outcome": "Lost",
            "error_class": AGENT_LOST, "error": "the agent's lease ended without a heartbeat",
        }
        for one in lost
    ]  # fmt: skip
    connection.execute(sa.insert(models.attempts), values)
    files = models.files
    statement = sa.update(files).where(files.c.id == sa.bindparam("file")).values(attempts=files.c.attempts + 1)
    connection.execute(statement, [{"file": one.file_id} for one in lost])
    return lost


def _files_in_work(connection: Connection, agent_id: int) -> Sequence[Any]:
    """Return and lock the files that an agent's workers had in their hands at its last heartbeat."""
    files, claims, channels, agents = models.files, models.claims, models.channels, models.agents
    query = (
        sa.select(files.c.id, files.c.request_id, files.c.attempts, claims.c.claimed_at, claims.c.bytes_now)
        .add_columns(channels.c.type, channels.c.source, channels.c.target, models.requests.c.owner)
        .add_columns(agents.c.kind, agents.c.node, agents.c.pid)
        .join(claims, sa.and_(claims.c.id == files.c.token, claims.c.file_id == files.c.id))
        .join(channels, channels.c.id == claims.c.channel_id)
        .join(agents, agents.c.id == claims.c.agent_id)
        .join(models.requests, models.requests.c.id == files.c.request_id)
        .where(claims.c.agent_id == agent_id, files.c.state == sa.literal_column("'Running'"))
        .with_for_update(of=files)
    )
    return connection.execute(query).all()


def _lost_attempt(row: Any, agent_id: int, now: datetime) -> LostAttempt:
    return LostAttempt(
        file_id=row.id, attempt=row.attempts + 1, request_id=row.request_id, type=row.type, owner=row.owner,
        agent=agent_label(row.kind, row.node, row.pid, agent_id), node=row.node, source=row.source, target=row.target,
        started_at=row.claimed_at, seconds=max(0.0, (now - row.claimed_at).total_seconds()), bytes_now=row.bytes_now,
    )  # fmt: skip


def _hand_back_all(connection: Connection, agent_id: int, now: datetime) -> None:
    claims = models.claims
    tokens = connection.execute(sa.select(claims.c.id).where(claims.c.agent_id == agent_id)).scalars().all()
    for token in tokens:
        release(connection, token, now)


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
