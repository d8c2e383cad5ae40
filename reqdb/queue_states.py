"""The states of queues: running, paused (takes files, which wait) or stopped (takes none).

The channels of a queue carry a flag that follows its state, so that claiming looks at no other table and a queue that
runs costs nothing. Whoever makes a channel holds the queue's row meanwhile: the flag cannot miss a change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from dtscore.database import now as database_now
from dtscore.errors import StateError
from reqdb import models
from reqdb.counting import MOVED, Tally, files_of, not_being_claimed
from reqdb.events import note
from reqdb.states import ENDED, State

RUNNING, PAUSED, STOPPED = "running", "paused", "stopped"

_MOST_RETRIED = 1000
"""A restart brings back so many failed requests at most, the oldest first."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """Where a queue stands: who put it there, why and since when; None of a moment: it was never touched."""

    name: str
    state: str = RUNNING
    reason: str = ""
    changed_by: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Poked:
    """What a poke, a start or a flush did: files that were made ready or cancelled, and kinds with new work."""

    name: str
    files: int
    ready: frozenset[str] = frozenset()
    requests: int = 0


def state_of(connection: Connection, name: str) -> QueueState:
    """Return the state of a queue; one that was never touched runs."""
    row = connection.execute(sa.select(models.queues).where(models.queues.c.name == name)).first()
    return QueueState(name) if row is None else QueueState(row.name, row.state, row.reason, row.changed_by, row.since)


def is_known(connection: Connection, name: str) -> bool:
    """Return whether a queue was ever used or touched here."""
    return connection.execute(sa.select(models.queues.c.name).where(models.queues.c.name == name)).first() is not None


def is_held(connection: Connection, name: str) -> bool:
    """Return whether a queue works on nothing now, and keep its state until this transaction ends; '' never is."""
    if not name:
        return False
    _ensure(connection, name, database_now(connection))
    query = sa.select(models.queues.c.state).where(models.queues.c.name == name).with_for_update(read=True)
    return bool(connection.execute(query).scalar_one() != RUNNING)


def start(connection: Connection, name: str, *, by: str) -> Poked:
    """Let a queue work; what waits for another attempt is ready at once."""
    _change(connection, name, RUNNING, by, "")
    return poke(connection, name, early=False)


def pause(connection: Connection, name: str, *, by: str, reason: str = "") -> QueueState:
    """Let a queue wait: it takes files and works on none; what is being worked on is finished."""
    return _change(connection, name, PAUSED, by, reason)


def stop(connection: Connection, name: str, *, by: str, reason: str = "") -> QueueState:
    """Stop a queue: it takes no files and works on none."""
    return _change(connection, name, STOPPED, by, reason)


def poke(connection: Connection, name: str, *, early: bool = True) -> Poked:
    """Let a queue look now: its channels' rests end, and files that wait for a moment are ready.

    With `early` that holds for scheduled files too, else for those alone that wait for another attempt.
    """
    files, channels = models.files, models.channels
    rest = sa.update(channels).where(channels.c.queue == name, channels.c.rests_until.is_not(None))
    connection.execute(rest.values(rests_until=None))
    kinds = set(connection.execute(sa.select(channels.c.type).where(channels.c.queue == name)).scalars())
    tally = Tally(connection, database_now(connection))
    which = [files_of(_open_requests(connection, name)), files.c.state == sa.literal_column("'Queued'")]
    which.append(files.c.waits_on == sa.literal_column("'time'"))
    if not early:
        which.append(files.c.error_class != "")
    values = {"state": State.TODO.value, "waits_on": None, "not_before": None}
    statement = sa.update(files).where(not_being_claimed(*which)).values(values)
    rows = connection.execute(statement.returning(*MOVED)).all()
    tally.move_rows(rows, State.QUEUED, State.TODO)
    tally.settle()
    return Poked(name, len(rows), frozenset(kinds | tally.ready))


def flush(connection: Connection, name: str, *, by: str, most: int = 200) -> Poked:
    """Empty a queue: cancel all that waits in it, of at most `most` requests; running files stop when they hear of it.

    `requests` of the result is how many that were: as long as they are `most`, there may be more.
    """
    from reqdb.controlling import cancel

    found = _open_requests(connection, name, most)
    return Poked(name, sum(cancel(connection, one, by=by).files for one in found), requests=len(found))


def restart(connection: Connection, name: str, *, by: str) -> Poked:
    """Start a queue anew: it works, rests end, and the requests that failed begin again."""
    from reqdb.controlling import retry

    started = start(connection, name, by=by)
    requests = models.requests
    failed = sa.select(requests.c.id).where(requests.c.queue == name, requests.c.queue != sa.literal_column("''"))
    failed = failed.where(requests.c.state == State.FAILED.value).order_by(requests.c.id).limit(_MOST_RETRIED)
    revived = [retry(connection, one) for one in connection.execute(failed).scalars().all()]
    ready = started.ready.union(*(one.ready for one in revived))
    return Poked(name, started.files + sum(one.files for one in revived), ready)


def check_open(state: QueueState) -> None:
    """Raise StateError when a queue takes no files."""
    if state.state == STOPPED:
        why = f": {state.reason}" if state.reason else ""
        raise StateError(
            f"queue {state.name} was stopped by {state.changed_by}{why}", f"start it: dts-queue start {state.name}"
        )


def _open_requests(connection: Connection, name: str, most: int | None = None) -> list[int]:
    """Return and lock the requests of a queue that have neither ended nor been cancelled, in the order of their ids."""
    requests = models.requests
    words = [state.value for state in State if state not in ENDED]
    query = sa.select(requests.c.id).where(requests.c.queue == name, requests.c.queue != sa.literal_column("''"))
    query = query.where(requests.c.state.in_(words), requests.c.cancelled_at.is_(None))
    query = query.order_by(requests.c.id).limit(most).with_for_update()
    return list(connection.execute(query).scalars())


def _change(connection: Connection, name: str, state: str, by: str, reason: str) -> QueueState:
    queues, channels = models.queues, models.channels
    now = database_now(connection)
    _ensure(connection, name, now)
    before = connection.execute(sa.select(queues).where(queues.c.name == name).with_for_update()).one()
    if (before.state, before.reason) != (state, reason) or not before.changed_by:
        values: dict[str, Any] = {"state": state, "reason": reason, "changed_by": by, "since": now}
        connection.execute(sa.update(queues).where(queues.c.name == name).values(values))
        told = f"queue {name} is {state} by {by}{f': {reason}' if reason else ''}"
        note(connection, now, None, f"queue-{state}", told)
    connection.execute(sa.update(channels).where(channels.c.queue == name).values(paused=state != RUNNING))
    return state_of(connection, name)


def _ensure(connection: Connection, name: str, now: datetime) -> None:
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(models.queues)
    connection.execute(insert.values(name=name, state=RUNNING, since=now).on_conflict_do_nothing())
