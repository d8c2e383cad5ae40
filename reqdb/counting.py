"""Keeping the counters and derived states of operations and requests true while their files change.

Two agents that end the last two steps of one file, or the last two operations before a third, meet at their request's
row: it is updated before any later step is looked at, so that whoever comes second sees what the first one did. All
changes that follow are made under that lock, and so are cancel and retry, which take it first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.bulk import any_of
from dtscore.driver import Prepared, pipelined
from reqdb import models
from reqdb.events import note
from reqdb.states import ENDED, State, WaitsOn, derive

UPSTREAM = "upstream"
"""The error class of a file that was cancelled because an earlier step of it did not end well."""

CANCELLED = "cancelled"
"""The error class of a file whose request was cancelled by a user."""

_STATES = tuple(state.value.lower() for state in State)

MOVED = (models.files.c.request_id, models.files.c.operation_id, models.files.c.leader_id)
"""What an UPDATE of files returns, so that a Tally can count them."""


_earlier = models.files.alias("earlier")

EARLIER_STEP_UNFINISHED = sa.exists().where(
    _earlier.c.leader_id == models.files.c.follows_id, sa.literal_column("earlier.state <> 'Done'", sa.Boolean)
)
"""A row of the group that a file follows is not Done."""


def files_of(request_ids: Sequence[int]) -> sa.ColumnElement[bool]:
    """Return the condition that a file is of one of these requests, by way of the index on its operation."""
    operations = models.operations
    return models.files.c.operation_id.in_(sa.select(operations.c.id).where(operations.c.request_id.in_(request_ids)))


def not_being_claimed(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the condition for files that wait and that nobody has just locked to claim or to promote them.

    Whoever has waits for the row of the request, which the caller holds: waiting for the file would be a deadlock. What
    is left out ends all the same: a claimed file is stopped at the next heartbeat, any other when that change settles.
    """
    files = models.files
    chosen = sa.select(files.c.id).where(*conditions).with_for_update(skip_locked=True)
    free = chosen.cte("free").prefix_with("MATERIALIZED", dialect="postgresql")
    return files.c.id.in_(sa.select(free.c.id))


@dataclass(slots=True)
class _Delta:
    """What is to be added to one row's counters."""

    counts: dict[State, int] = field(default_factory=lambda: defaultdict(int))
    bytes_done: int = 0
    bytes_total: int = 0

    def add(self, other: _Delta) -> None:
        for state, number in other.counts.items():
            self.counts[state] += number
        self.bytes_done += other.bytes_done
        self.bytes_total += other.bytes_total

    def values(self, row_id: int) -> dict[str, int]:
        """Return the parameters of the statement that adds it to a row."""
        amounts = {name: self.counts.get(state, 0) for name, state in _ADDED}
        return {"row_id": row_id, **amounts, "add_bytes_done": self.bytes_done, "add_bytes_total": self.bytes_total}


_ADDED = tuple((f"add_{state.value.lower()}", state) for state in State)


class Tally:
    """Collects the changes of files within one transaction and then settles everything that follows from them."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        """Begin with nothing changed."""
        self._connection = connection
        self._now = now
        self._operations: dict[int, _Delta] = defaultdict(_Delta)
        self._request_of: dict[int, int] = {}
        self._requests: dict[int, _Request] = {}
        self._done_leaders: set[int] = set()
        self._lost_leaders: set[int] = set()
        self.ready: set[str] = set()
        """The kinds of operations that have new files in ToDo."""

    def move(
        self,
        request_id: int,
        operation_id: int,
        before: State,
        after: State,
        *,
        leader_id: int | None = None,
        count: int = 1,
        bytes_done: int = 0,
        bytes_total: int = 0,
    ) -> None:
        """Count `count` files of an operation as gone from one state to another."""
        delta = self._operations[operation_id]
        self._request_of[operation_id] = request_id
        delta.counts[before] -= count
        delta.counts[after] += count
        delta.bytes_done += bytes_done
        delta.bytes_total += bytes_total
        if leader_id is not None and after is State.DONE:
            self._done_leaders.add(leader_id)
        elif leader_id is not None and after in ENDED:
            self._lost_leaders.add(leader_id)

    def move_rows(self, rows: Sequence[Any], before: State, after: State) -> None:
        """Count rows that an UPDATE … RETURNING MOVED gave."""
        for (request_id, operation_id, leader_id), count in Counter(map(tuple, rows)).items():
            self.move(request_id, operation_id, before, after, leader_id=leader_id, count=count)

    def settle(self) -> None:
        """Write all counters, then let later steps begin or be cancelled, until nothing more follows."""
        while self._operations:
            deltas, self._operations = self._operations, defaultdict(_Delta)
            ended = self._settle_operations(deltas, self._add(deltas))
            done, self._done_leaders = self._done_leaders, set()
            lost, self._lost_leaders = self._lost_leaders, set()
            if done:
                self._promote_followers(sorted(done))
            if lost:
                self._cancel_followers(sorted(lost))
            for operation in ended:
                self._open_or_close_later(operation)
            for row in self._requests.values():
                if row.cancelled_at is not None and (row.whole.queued or row.whole.todo):
                    self._end_cancelled(row)
        for _, row in sorted(self._requests.items()):
            self._settle_request(row)
        self._requests.clear()

    def _add(self, deltas: Mapping[int, _Delta]) -> list[_Operation]:
        """Add to the counters of the requests, then of the operations, each in the order of their ids.

        The rows stay locked until the commit. Returns the operations as they then are.
        """
        sums: dict[int, _Delta] = defaultdict(_Delta)
        for operation_id, delta in deltas.items():
            sums[self._request_of[operation_id]].add(delta)
        with pipelined(self._connection):
            requests = [_ADD_TO_REQUEST.start(self._connection, sums[i].values(i)) for i in sorted(sums)]
            operations = [_ADD_TO_OPERATION.start(self._connection, deltas[i].values(i)) for i in sorted(deltas)]
        width = len(_Whole._fields)
        for (row,) in [answer() for answer in requests]:
            self._requests[row[0]] = _Request(_Whole(*row[:width]), *row[width:])
        return [_Operation(_Whole(*row[:width]), *row[width:]) for (row,) in [answer() for answer in operations]]

    def _settle_operations(self, deltas: Mapping[int, _Delta], operations: Sequence[_Operation]) -> list[_Operation]:
        """Write the operations' states where they are others now; return those that have just ended."""
        ended = []
        for operation in operations:
            whole = operation.whole
            if deltas[whole.id].counts.get(State.TODO, 0) > 0:
                self.ready.add(operation.type)
            state = derive(_counts(whole))
            if state.value != whole.state:
                _set(self._connection, models.operations, whole.id, {"state": state.value})
                if state in ENDED:
                    ended.append(operation)
        return ended

    def _promote_followers(self, leaders: list[int]) -> None:
        """Make ready the files whose earlier step is Done on all its targets."""
        files = models.files
        statement = (
            sa.update(files)
            .where(any_of(self._connection, files.c.follows_id, leaders), _queued(files), ~EARLIER_STEP_UNFINISHED)
            .where(files.c.waits_on == WaitsOn.FILE.value)
            .values(state=State.TODO.value, waits_on=None)
        )
        self._take(statement, State.TODO)

    def _cancel_followers(self, leaders: list[int]) -> None:
        files = models.files
        statement = (
            sa.update(files)
            .where(any_of(self._connection, files.c.follows_id, leaders), _queued(files))
            .values(_cancelled("an earlier step of this file did not end well", self._now))
        )
        self._take(statement, State.CANCELLED)

    def _open_or_close_later(self, ended: _Operation) -> None:
        """An operation ended: what waited for the whole of it may go, or never will."""
        files, operations = models.files, models.operations
        fresh = self._connection.execute(sa.select(operations).where(operations.c.id == ended.whole.id)).one()
        waiting = sa.update(files).where(_queued(files), files.c.waits_on == WaitsOn.OPERATION.value)
        later = sa.select(operations.c.id).where(operations.c.request_id == ended.request_id)
        if fresh.state == State.DONE.value:
            unfinished = later.where(operations.c.state != State.DONE.value).order_by(operations.c.sequence).limit(1)
            following = self._connection.execute(unfinished).scalar()
            statement = waiting.where(files.c.operation_id == following).values(state=State.TODO.value, waits_on=None)
            self._take(statement, State.TODO)
        else:
            later_ids = self._connection.execute(later.where(operations.c.sequence > ended.sequence)).scalars().all()
            error = f"operation {ended.sequence} ({ended.type}) did not end well"
            statement = waiting.where(files.c.operation_id.in_(later_ids)).values(_cancelled(error, self._now))
            self._take(statement, State.CANCELLED)

    def _end_cancelled(self, request: _Request) -> None:
        """Cancel what came back into the queue of a request that was cancelled meanwhile."""
        files = models.files
        values = _cancelled(f"cancelled by {request.cancelled_by}", self._now, CANCELLED)
        for before in (State.QUEUED, State.TODO):
            which = (files_of([request.whole.id]), files.c.state == sa.literal_column(f"'{before.value}'"))
            statement = sa.update(files).where(not_being_claimed(*which)).values(values)
            self._take(statement, State.CANCELLED, before)

    def _take(self, statement: sa.Update, after: State, before: State = State.QUEUED) -> None:
        self.move_rows(self._connection.execute(statement.returning(*MOVED)).all(), before, after)

    def _settle_request(self, row: _Request) -> None:
        """Write the state of a request where it is another one now."""
        counts, request_id = _counts(row.whole), row.whole.id
        state = derive(counts)
        if state.value == row.whole.state:
            return
        values = {"state": state.value, "finished_at": self._now if state in ENDED else None}
        if state is State.RUNNING and row.started_at is None:
            values["started_at"] = self._now
            note(self._connection, self._now, request_id, "started", "the first file was claimed")
        if state in ENDED:
            note(self._connection, self._now, request_id, state.value.lower(), _closing(counts))
        _set(self._connection, models.requests, request_id, values)


def _closing(counts: dict[State, int]) -> str:
    return ", ".join(f"{number} {state.value}" for state, number in counts.items() if number)


class _Whole(NamedTuple):
    """The row of a request or operation after its counters were added to; its state is still the old one."""

    id: int
    state: str
    queued: int
    todo: int
    running: int
    done: int
    failed: int
    cancelled: int


class _Request(NamedTuple):
    """The same of a request; of its moments only whether they are there is asked."""

    whole: _Whole
    started_at: Any
    cancelled_at: Any
    cancelled_by: str | None


class _Operation(NamedTuple):
    """The same of an operation."""

    whole: _Whole
    request_id: int
    sequence: int
    type: str


_REQUEST_FACTS = ("started_at", "cancelled_at", "cancelled_by")
_OPERATION_FACTS = ("request_id", "sequence", "type")


def _addition(table: sa.Table, facts: Sequence[str]) -> sa.sql.dml.ReturningUpdate[Any]:
    """Return the statement that adds to the counters of one row; a request's percentage follows from them."""
    names = [*_STATES, "bytes_done", "bytes_total"]
    amounts = {name: sa.bindparam(f"add_{name}", type_=table.c[name].type) for name in names}
    values: dict[str, Any] = {name: table.c[name] + amount for name, amount in amounts.items()}
    if "percent" in table.c:
        total = sum((table.c[name] for name in _STATES), sa.literal_column("0.0", sa.Float))
        values["percent"] = sa.literal_column("100.0", sa.Float) * values["done"] / total
    changed = sa.update(table).where(table.c.id == sa.bindparam("row_id", type_=table.c.id.type)).values(values)
    return changed.returning(*(table.c[name] for name in (*_Whole._fields, *facts)))


_ADD_TO_REQUEST = Prepared(lambda _: _addition(models.requests, _REQUEST_FACTS))
_ADD_TO_OPERATION = Prepared(lambda _: _addition(models.operations, _OPERATION_FACTS))


def _set(connection: Connection, table: sa.Table, row_id: int, values: dict[str, Any]) -> None:
    connection.execute(sa.update(table).where(table.c.id == row_id).values(values))


def _counts(whole: _Whole) -> dict[State, int]:
    return dict(zip(State, whole[2:], strict=True))


def _queued(files: sa.Table) -> sa.ColumnElement[bool]:
    return files.c.state == sa.literal_column("'Queued'")


def _cancelled(error: str, now: datetime, error_class: str = UPSTREAM) -> dict[str, Any]:
    return {
        "state": State.CANCELLED.value, "waits_on": None, "error_class": error_class, "error": error, "ended_at": now,
    }  # fmt: skip
