"""How agents claim files.

An agent takes a place on a channel (a row in `claims`) whose id is the fencing token of every file it then holds.
Places are counted under a lock on the channels that share a storage element, so that limits hold between hosts; going
on with the next batch in a place already taken needs no lock.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import now as database_now
from dtscore.driver import Prepared, clock, is_postgres, pipelined, raw, read_clock
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
    queue: str = ""


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


def release(connection: Connection, token: int, now: datetime | None = None, tally: Tally | None = None) -> None:
    """Give up a place: what it still holds goes back to ToDo, and its token is worth nothing from now on.

    `tally` is settled by whoever gives it.
    """
    counted = tally or Tally(connection, now or database_now(connection))
    release_all(connection, (token,), counted)
    if tally is None:
        counted.settle()


def release_all(connection: Connection, tokens: Sequence[int], tally: Tally) -> None:
    """Give up places; the caller settles the tally.

    The places go first: whoever is about to claim for one waits here, and finds it gone.
    """
    files = models.files
    connection.execute(sa.delete(models.claims).where(models.claims.c.id.in_(tokens)))
    statement = (
        sa.update(files)
        .where(files.c.token.in_(tokens), files.c.state == sa.literal_column("'Running'"))
        .values(state=State.TODO.value, token=None)
        .returning(*MOVED)
    )
    tally.move_rows(connection.execute(statement).all(), State.RUNNING, State.TODO)


def waiting_channels(connection: Connection, kind: str, *, node: str) -> list[Waiting]:
    """Return the channels of a kind that have files in ToDo, do not rest and are of no queue that is held.

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
    query = sa.select(channels, top.label("top")).where(*ours, rested, channels.c.paused.is_(False))
    rows = [row for row in connection.execute(query) if row.top is not None]
    rows.sort(key=lambda row: (-row.top, row.served_at is not None, row.served_at))
    return [Waiting(row.id, row.source, row.target, row.top, row.failures > 0) for row in rows]


def take_place(connection: Connection, agent_id: int, waiting: Waiting, limits: Limits) -> int | None:
    """Take a place on a channel; return its token, or None when a limit is reached, or the channel rests or is held.

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
    places = sa.select(channels)
    taken = connection.execute(places.join(claims, claims.c.channel_id == channels.c.id)).all()
    if ours.paused or (ours.rests_until and ours.rests_until > now) or _is_full(ours, taken, limits, names):
        return None
    connection.execute(sa.update(channels).where(channels.c.id == ours.id).values(served_at=now))
    values = {"agent_id": agent_id, "channel_id": ours.id, "claimed_at": now}
    token: int = connection.execute(sa.insert(claims).values(values).returning(claims.c.id)).scalar_one()
    return token


def _is_full(ours: Any, taken: Sequence[Any], limits: Limits, names: Sequence[str]) -> bool:
    """Return whether the places taken (one row for each, with its channel) reach a limit."""
    if ours.failures > 0 and any(row.id == ours.id for row in taken):
        return True
    if limits.channel and sum(_is_same_way(row, ours) for row in taken) >= limits.channel:
        return True
    return any(sum(name in (row.source, row.target) for row in taken) >= limits.elements[name] for name in names)


def _is_same_way(one: Any, other: Any) -> bool:
    """Whether two channels are one but for their queues: they share its limit."""
    return all(getattr(one, name) == getattr(other, name) for name in ("type", "source", "target", "node"))


def claim_files(connection: Connection, token: int, channel_id: int, batch: int) -> list[ClaimedFile]:
    """Claim up to `batch` files of a channel for a place that is held: ToDo → Running, in one statement.

    A token that is worth nothing any more claims nothing: else its files would be nobody's, and Running for ever.
    """
    held = find_place(connection, token)
    if held is None:
        return []
    tally = Tally(connection, held.now)
    claimed = claim_for(connection, held, batch, tally, {})
    tally.settle()
    return claimed


def fair_batch(connection: Connection, channel_id: int, most: int, places: int, small: int) -> int:
    """Return how many files a place should claim first, so that `places` places get equal parts of what waits.

    It is `most` where all files are known to have at most `small` bytes: to take them together costs less than to wait.
    """
    if most <= 1 or places <= 1:
        return most
    values = {"of_channel": channel_id, "batch": most * places, "small": small}
    ((waiting, large),) = _WAITING_SIZES.run(connection, values)
    return max(1, min(most, -(-waiting // places))) if large else most


def _sizes_query(_postgres: bool) -> sa.Select[Any]:
    files = models.files
    first = (
        sa.select(files.c.size)
        .where(files.c.channel_id == sa.bindparam("of_channel", type_=sa.BigInteger))
        .where(files.c.state == sa.literal_column("'ToDo'"))
        .order_by(files.c.priority.desc(), files.c.id)
        .limit(sa.bindparam("batch", type_=sa.Integer))
        .subquery("first")
    )
    small = first.c.size <= sa.bindparam("small", type_=sa.BigInteger)
    return sa.select(sa.func.count(), sa.func.count() - sa.func.count(sa.case((small, 1)))).select_from(first)


_WAITING_SIZES = Prepared(_sizes_query)


@dataclass(frozen=True, slots=True)
class HeldPlace:
    """A place that its agent holds until the end of this transaction at least, and the moment of asking."""

    token: int
    channel_id: int
    target: str
    failures: int
    paused: bool
    now: datetime


def find_place(connection: Connection, token: int) -> HeldPlace | None:
    """Return a place with what is known of its channel, and keep it from being given up meanwhile; None if it was."""
    found = _FIND_PLACE.run(connection, {"mine": token})
    if not found:
        return None
    channel_id, target, failures, paused, moment = found[0]
    return HeldPlace(token, channel_id, target, failures, bool(paused), read_clock(moment))


def _place_query(postgres: bool) -> sa.Select[Any]:
    claims, channels = models.claims, models.channels
    query = sa.select(channels.c.id, channels.c.target, channels.c.failures, channels.c.paused, clock(postgres))
    query = query.join(claims, claims.c.channel_id == channels.c.id)
    query = query.where(claims.c.id == sa.bindparam("mine", type_=sa.BigInteger))
    return query.with_for_update(read=True, key_share=True, of=claims)


_FIND_PLACE = Prepared(_place_query)
_CLAIMED = (
    "id", "operation_id", "request_id", "lfn", "pfn", "size", "checksum", "attempts", "failures", "leader_id",
)  # fmt: skip


def _claim_statement(postgres: bool) -> sa.ClauseElement:
    """Pick and update in one statement; SQLite, where nobody else writes meanwhile, first picks and then updates.

    The rows are picked in a materialized CTE: as a plain subquery PostgreSQL may run it again and claim too many.
    """
    files = models.files
    columns = [files.c[name] for name in _CLAIMED]
    chosen = (
        sa.select(*(columns if not postgres else [files.c.id]))
        .where(files.c.channel_id == sa.bindparam("of_channel", type_=sa.BigInteger))
        .where(files.c.state == sa.literal_column("'ToDo'"))
        .order_by(files.c.priority.desc(), files.c.id)
        .limit(sa.bindparam("batch", type_=sa.Integer))
    )
    if not postgres:
        return chosen
    picked = chosen.with_for_update(skip_locked=True).cte("picked").prefix_with("MATERIALIZED")
    running = {"state": sa.literal_column("'Running'"), "token": sa.bindparam("mine", type_=sa.BigInteger)}
    updated = sa.update(files).where(files.c.id == picked.c.id).values(running)
    return updated.returning(*columns, files.c.priority)


_CLAIM = Prepared(_claim_statement)
_RUN_ON_SQLITE = "UPDATE files SET state = 'Running', token = ? WHERE id = ?"


def claim_for(
    connection: Connection, place: HeldPlace, batch: int, tally: Tally, views: dict[int, OperationView]
) -> list[ClaimedFile]:
    """Claim for a place that was found in this transaction; whoever gives the tally settles it.

    `views` holds the operations that were read before, and gets those that are new: they never change. Nothing is
    claimed for a queue that was paused meanwhile.
    """
    if place.paused:
        return []
    values = {"mine": place.token, "of_channel": place.channel_id, "batch": batch}
    rows = _CLAIM.run(connection, values)
    if is_postgres(connection):
        rows.sort(key=lambda row: (-row[-1], row[0]))
    elif rows:
        raw(connection).executemany(_RUN_ON_SQLITE, [(place.token, row[0]) for row in rows])
    _read_views(connection, {row[1] for row in rows} - views.keys(), views)
    for (operation_id, request_id), count in Counter([row[1:3] for row in rows]).items():
        tally.move(request_id, operation_id, State.TODO, State.RUNNING, count=count)
    target = place.target
    return [
        ClaimedFile(number, views[operation_id], target, lfn, pfn, size, checksum, attempts + 1, failures, leader_id)
        for number, operation_id, _, lfn, pfn, size, checksum, attempts, failures, leader_id, *_ in rows
    ]


def _views_query(postgres: bool) -> sa.Select[Any]:
    operations, requests = models.operations, models.requests
    columns = [operations.c[name] for name in ("id", "request_id", "type", "source", "targets")]
    options = sa.cast(operations.c.options, sa.Text)
    query = sa.select(*columns, options, requests.c.owner, requests.c.name, requests.c.queue)
    query = query.join(requests, requests.c.id == operations.c.request_id)
    return query.where(operations.c.id == sa.bindparam("number", type_=sa.BigInteger))


_VIEW = Prepared(_views_query)


def _read_views(connection: Connection, operation_ids: Collection[int], views: dict[int, OperationView]) -> None:
    if not operation_ids:
        return
    with pipelined(connection):
        answers = [_VIEW.start(connection, {"number": number}) for number in sorted(operation_ids)]
    for (row,) in [answer() for answer in answers]:
        number, request_id, kind, source, targets, options, owner, name, queue = row
        views[number] = OperationView(
            number, request_id, kind, owner, source or "", tuple(targets.split()), json.loads(options), name, queue
        )
