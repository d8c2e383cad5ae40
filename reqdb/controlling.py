"""What users and the clock do to a request: cancel, retry, deadlines, and moments that come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.bulk import any_of
from dtscore.database import now as database_now
from dtscore.errors import NotFoundError, StateError
from reqdb import models
from reqdb.counting import CANCELLED, EARLIER_STEP_UNFINISHED, MOVED, Tally, files_of, not_being_claimed
from reqdb.events import note
from reqdb.leasing import past_deadline
from reqdb.states import ENDED, State, WaitsOn

_DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Changed:
    """What a command did: the request, how many files it changed at once, and how many are still Running."""

    request_id: int
    files: int
    running: int
    ready: frozenset[str] = frozenset()


def find_request(connection: Connection, id_or_name: int | str) -> int:
    """Return the id of a request given by its id or name; NotFoundError when there is none."""
    requests = models.requests
    text = str(id_or_name)
    by_name = connection.execute(sa.select(requests.c.id).where(requests.c.name == text)).scalar()
    if by_name is None and text.isascii() and text.isdigit() and len(text) < 19:
        by_name = connection.execute(sa.select(requests.c.id).where(requests.c.id == int(text))).scalar()
    if by_name is None:
        raise NotFoundError(f"there is no request {text!r}", "see them all: dts-request list")
    found: int = by_name
    return found


def states_of(connection: Connection, request_ids: Sequence[int]) -> dict[int, State]:
    """Return the states of many requests in one call; unknown ids are left out."""
    requests = models.requests
    query = sa.select(requests.c.id, requests.c.state).where(any_of(connection, requests.c.id, request_ids))
    return {row.id: State(row.state) for row in connection.execute(query)}


def cancel(connection: Connection, request_id: int, *, by: str) -> Changed:
    """Cancel what has not ended: waiting files at once, running ones as soon as their agent hears of it.

    Raises StateError when the request has ended otherwise. Cancelling twice is safe.
    """
    row = _locked(connection, request_id)
    if row.state == State.CANCELLED.value and row.cancelled_at is not None:
        return Changed(request_id, 0, 0)
    if State(row.state) in ENDED:
        raise StateError(f"request {request_id} has ended: {row.state}", f"see it: dts-request show {request_id}")
    now = database_now(connection)
    if row.cancelled_at is None:
        _set(connection, request_id, {"cancelled_at": now, "cancelled_by": by})
        note(connection, now, request_id, "cancel", f"cancelled by {by}")
    values = {"state": State.CANCELLED.value, "error_class": CANCELLED, "error": f"cancelled by {by}"}
    number = _end_waiting(connection, [request_id], values, now)
    return Changed(request_id, number, _running(connection, request_id))


def retry(connection: Connection, request_id: int) -> Changed:
    """Let the failed files of a request begin again, and those that were cancelled because of them or by the user.

    Files that are Done stay Done. Raises StateError when there is nothing to retry.
    """
    row = _locked(connection, request_id)
    now = database_now(connection)
    tally = Tally(connection, now)
    later = row.not_before if row.not_before is not None and row.not_before > now else None
    number = sum(_revive(connection, tally, request_id, ended, later) for ended in (State.FAILED, State.CANCELLED))
    if not number:
        raise StateError(
            f"request {request_id} is {row.state} and has no failed or cancelled file",
            f"see its files: dts-request show {request_id}",
        )
    values: dict[str, Any] = {"cancelled_at": None, "cancelled_by": None, "finished_at": None}
    if row.deadline is not None and row.deadline <= now:
        values["deadline_lifted"] = True
    _set(connection, request_id, values)
    note(connection, now, request_id, "retry", f"{number} files begin again")
    tally.settle()
    return Changed(request_id, number, _running(connection, request_id), frozenset(tally.ready))


def _revive(connection: Connection, tally: Tally, request_id: int, before: State, later: datetime | None) -> int:
    """Bring ended files back: to ToDo where their turn has come, else to Queued for an earlier step or a moment."""
    files, operations = models.files, models.operations
    mine = operations.alias("mine")  # by another name, or the inner query takes the outer one's operation for its own
    own = sa.select(mine.c.sequence).where(mine.c.id == files.c.operation_id).correlate(files).scalar_subquery()
    before_it = sa.exists().where(
        operations.c.request_id == request_id, operations.c.sequence < own, operations.c.state != State.DONE.value
    )
    free = (State.TODO, None) if later is None else (State.QUEUED, WaitsOn.TIME.value)
    changes = (
        (sa.and_(files.c.follows_id.is_not(None), EARLIER_STEP_UNFINISHED), State.QUEUED, WaitsOn.FILE.value),
        (sa.and_(files.c.follows_id.is_(None), before_it), State.QUEUED, WaitsOn.OPERATION.value),
        (sa.true(), *free),
    )
    number = 0
    for condition, after, waits in changes:
        which = (files_of([request_id]), files.c.state == sa.literal_column(f"'{before.value}'"), condition)
        values = {
            "state": after.value, "waits_on": waits, "failures": 0, "ended_at": None,
            "not_before": later if waits == WaitsOn.TIME.value else None,
        }  # fmt: skip
        rows = connection.execute(sa.update(files).where(*which).values(values).returning(*MOVED)).all()
        tally.move_rows(rows, before, after)
        number += len(rows)
    return number


def tend(connection: Connection) -> frozenset[str]:
    """Do what the clock asks for: promote files whose moment has come, fail those past their deadline.

    Returns the kinds of operations that have new files in ToDo.
    """
    now = database_now(connection)
    files, requests = models.files, models.requests
    overdue = sa.select(requests.c.id).where(_overdue(now)).order_by(requests.c.id).with_for_update()
    values = {"state": State.FAILED.value, "error_class": _DEADLINE, "error": "the request's deadline passed"}
    _end_waiting(connection, connection.execute(overdue).scalars().all(), values, now)
    tally = Tally(connection, now)
    due = sa.update(files).where(_due(files, now)).values(state=State.TODO.value, waits_on=None)
    rows = connection.execute(due.returning(*MOVED)).all()
    tally.move_rows(rows, State.QUEUED, State.TODO)
    tally.settle()
    return frozenset(tally.ready)


def needs_tending(connection: Connection, *, margin: float = 0.0) -> bool:
    """Return, reading only, whether `tend` or `expire_agents` has anything to do."""
    now = database_now(connection)
    files, requests, agents = models.files, models.requests, models.agents
    late = agents.c.lease_until < now - timedelta(seconds=margin)
    questions = (
        sa.select(files.c.id).where(_due(files, now)),
        sa.select(requests.c.id).where(_overdue(now), requests.c.queued + requests.c.todo > 0),
        sa.select(agents.c.id).where(late, agents.c.state.in_(("Running", "Draining"))),
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in questions)


def _due(files: sa.Table, now: datetime) -> sa.ColumnElement[bool]:
    waiting = sa.literal_column("files.state = 'Queued' AND files.waits_on = 'time'", sa.Boolean)
    return sa.and_(waiting, files.c.not_before <= now)


def _overdue(now: datetime) -> sa.ColumnElement[bool]:
    """Past its deadline and not ended; the states come first, for they have an index and most requests have ended."""
    requests = models.requests
    open_states = [state.value for state in State if state not in ENDED]
    return sa.and_(requests.c.state.in_(open_states), past_deadline(now))


def _end_waiting(connection: Connection, request_ids: Sequence[int], values: dict[str, Any], now: datetime) -> int:
    """End the Queued and ToDo files of these requests, and settle."""
    if not request_ids:
        return 0
    files = models.files
    tally = Tally(connection, now)
    number = 0
    for before in (State.QUEUED, State.TODO):
        which = (files_of(request_ids), files.c.state == sa.literal_column(f"'{before.value}'"))
        statement = sa.update(files).where(not_being_claimed(*which))
        statement = statement.values({**values, "waits_on": None, "ended_at": now})
        rows = connection.execute(statement.returning(*MOVED)).all()
        tally.move_rows(rows, before, State(values["state"]))
        number += len(rows)
    tally.settle()
    return number


def _locked(connection: Connection, request_id: int) -> Any:
    query = sa.select(models.requests).where(models.requests.c.id == request_id).with_for_update()
    row = connection.execute(query).first()
    if row is None:
        raise NotFoundError(f"there is no request {request_id}", "see them all: dts-request list")
    return row


def _set(connection: Connection, request_id: int, values: dict[str, Any]) -> None:
    connection.execute(sa.update(models.requests).where(models.requests.c.id == request_id).values(values))


def _running(connection: Connection, request_id: int) -> int:
    query = sa.select(models.requests.c.running).where(models.requests.c.id == request_id)
    number: int = connection.execute(query).scalar_one()
    return number
