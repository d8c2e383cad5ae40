"""Agents and their leases: one heartbeat row for each agent, however many files it holds.

Time is the database's own: no two hosts' clocks are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import now as database_now
from reqdb import models
from reqdb.claiming import release_all
from reqdb.counting import Tally

AGENT_LOST = "agent-lost"
"""The error class of an attempt that was cut off with its agent."""

_AGENT_ROWS_DAYS = 7

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


def places_of(connection: Connection, agent_id: int) -> set[int]:
    """Return the tokens of the places that an agent has."""
    claims = models.claims
    return set(connection.execute(sa.select(claims.c.id).where(claims.c.agent_id == agent_id)).scalars())


def leave_agent(connection: Connection, agent_id: int) -> None:
    """End an agent: hand back what it still holds and keep its row as Ended."""
    now = database_now(connection)
    _hand_back_all(connection, [agent_id], now)
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
    for some in _by_hundreds(lost):
        attempts += _record_lost_attempts(connection, some, now)
    _hand_back_all(connection, lost, now)
    return Expired(tuple(lost), tuple(attempts))


def agent_label(kind: str, node: str, pid: int, agent_id: int) -> str:
    """Return how an agent is named in attempts and messages: `transfer@node:pid#id`."""
    return f"{kind}@{node}:{pid}#{agent_id}"


def _record_lost_attempts(connection: Connection, agent_ids: Sequence[int], now: datetime) -> list[LostAttempt]:
    """Keep an attempt for each file that the agents were known to be working on when they were lost."""
    lost = [_lost_attempt(row, now) for row in _files_in_work(connection, agent_ids)]
    if not lost:
        return []
    values = [
        {
            "file_id": one.file_id, "attempt": one.attempt, "agent": one.agent, "source": one.source,
            "target": one.target, "started_at": one.started_at, "seconds": one.seconds, "bytes": one.bytes_now,
            "outcome": "Lost", "error_class": AGENT_LOST, "error": "the agent's lease ended without a heartbeat",
        }
        for one in lost
    ]  # fmt: skip
    connection.execute(sa.insert(models.attempts), values)
    files = models.files
    statement = sa.update(files).where(files.c.id == sa.bindparam("file")).values(attempts=files.c.attempts + 1)
    connection.execute(statement, [{"file": one.file_id} for one in lost])
    return lost


def _files_in_work(connection: Connection, agent_ids: Sequence[int]) -> Sequence[Any]:
    """Return and lock the files that the agents' workers had in their hands at their last heartbeats."""
    files, claims, channels, agents = models.files, models.claims, models.channels, models.agents
    query = (
        sa.select(files.c.id, files.c.request_id, files.c.attempts, claims.c.claimed_at, claims.c.bytes_now)
        .add_columns(channels.c.type, channels.c.source, channels.c.target, models.requests.c.owner)
        .add_columns(agents.c.kind, agents.c.node, agents.c.pid, agents.c.id.label("agent_id"))
        .join(claims, sa.and_(claims.c.id == files.c.token, claims.c.file_id == files.c.id))
        .join(channels, channels.c.id == claims.c.channel_id)
        .join(agents, agents.c.id == claims.c.agent_id)
        .join(models.requests, models.requests.c.id == files.c.request_id)
        .where(claims.c.agent_id.in_(agent_ids), files.c.state == sa.literal_column("'Running'"))
        .with_for_update(of=files)
    )
    return connection.execute(query).all()


def _lost_attempt(row: Any, now: datetime) -> LostAttempt:
    return LostAttempt(
        file_id=row.id, attempt=row.attempts + 1, request_id=row.request_id, type=row.type, owner=row.owner,
        agent=agent_label(row.kind, row.node, row.pid, row.agent_id), node=row.node, source=row.source,
        target=row.target, started_at=row.claimed_at, seconds=max(0.0, (now - row.claimed_at).total_seconds()),
        bytes_now=row.bytes_now,
    )  # fmt: skip


def _hand_back_all(connection: Connection, agent_ids: Sequence[int], now: datetime) -> None:
    claims = models.claims
    tally = Tally(connection, now)
    for some in _by_hundreds(agent_ids):
        tokens = connection.execute(sa.select(claims.c.id).where(claims.c.agent_id.in_(some))).scalars().all()
        for places in _by_hundreds(sorted(tokens)):
            release_all(connection, places, tally)
    tally.settle()


def _by_hundreds(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for begin in range(0, len(numbers), 100):
        yield numbers[begin : begin + 100]
