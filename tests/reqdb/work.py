"""What the tests of the request database share: small requests, agents that work, and a check of everything."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import Database
from reqdb import models, store
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.states import ENDED, State, WaitsOn, derive
from reqdb.store import ClaimedFile, Limits, Outcome

T = TypeVar("T")

STARTED = datetime(2026, 11, 20, tzinfo=timezone.utc)


def operation(
    lfns: str, kind: str = "verify", targets: Sequence[str] = ("x",), source: str | None = None
) -> OperationSpec:
    """Return an operation over the files named by the words of `lfns`, each declared with 10 bytes."""
    files = tuple(FileSpec(f"/{name}", None, 10, "adler32:00000001") for name in lfns.split())
    return OperationSpec(kind, files, source, tuple(targets))


def request(*operations: OperationSpec, name: str | None = None, priority: int = 5, **more: Any) -> RequestSpec:
    """Return a request of these operations."""
    return RequestSpec(operations, name, "me", priority, **more)


def call(database: Database, function: Callable[..., T], *arguments: Any, **more: Any) -> T:
    """Call a function of the store in a write transaction of its own."""
    return database.run(lambda connection: function(connection, *arguments, **more))


def submit(database: Database, spec: RequestSpec) -> int:
    """Submit a request; return its id."""
    return call(database, store.submit, spec, owner="me").id


def enter(database: Database, kind: str = "verify", node: str = "n", lease: float = 30.0) -> int:
    """Let an agent begin; return its id."""
    return call(database, store.enter_agent, kind, node=node, pid=1, lease=lease, poll_interval=5)


def channels(database: Database, kind: str = "verify", node: str = "n") -> list[store.Waiting]:
    """Return the channels with work."""
    with database.read() as connection:
        return store.waiting_channels(connection, kind, node=node)


def place(database: Database, agent: int, waiting: store.Waiting, limits: Limits | None = None) -> int | None:
    """Take a place on a channel; return its token."""
    return call(database, store.take_place, agent, waiting, limits or Limits())


def claim(database: Database, kind: str = "verify", batch: int = 100, node: str = "n") -> tuple[int, list[ClaimedFile]]:
    """Let a new agent take a place on the first channel with work and claim a batch there."""
    agent = enter(database, kind, node)
    waiting = channels(database, kind, node)[0]
    token = place(database, agent, waiting)
    assert token is not None
    return token, call(database, store.claim_files, token, waiting.channel_id, batch)


def outcome(file: ClaimedFile, state: State = State.DONE, **more: Any) -> Outcome:
    """Return how an attempt ended."""
    return Outcome(file, state, "agent", "src", STARTED, 0.5, **more)


def finish(database: Database, token: int, outcomes: Sequence[Outcome]) -> set[str]:
    """Write outcomes in a transaction of their own."""
    return call(database, store.finish, token, outcomes)


def work_off(database: Database, kind: str = "verify", state: State = State.DONE) -> list[str]:
    """Claim and end all that is ready of a kind; return the LFNs."""
    names: list[str] = []
    while channels(database, kind):
        token, files = claim(database, kind)
        finish(database, token, [outcome(file, state) for file in files])
        call(database, store.release, token)
        names += [file.lfn for file in files]
    return names


def states(database: Database) -> list[str]:
    """Return the states of all files, in the order of their ids."""
    return [row.state for row in rows(database, models.files)]


def rows(database: Database, table: sa.Table) -> list[Any]:
    """Return all rows of a table, by its primary key."""
    with database.read() as connection:
        return list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)).all())


def alter(database: Database, statement: str, **values: Any) -> None:
    """Change the database behind the store's back, as the passing of time or another program would."""
    database.run(lambda connection: connection.execute(sa.text(statement), values))


def count(connection: Connection, table: sa.Table) -> int:
    """Return the number of rows of a table."""
    number: int = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    return number


def check(database: Database) -> None:
    """Assert everything that must hold of the request database between any two transactions."""
    with database.read() as connection:
        everything = {
            table.name: connection.execute(sa.select(table).order_by(table.c.id)).all()
            for table in (models.requests, models.operations, models.files, models.claims, models.agents)
        }
    files = everything["files"]
    _check_counters(everything["operations"], files, "operation_id")
    _check_counters(everything["requests"], files, "request_id")
    for row in everything["requests"]:
        assert row.percent == 100.0 * row.done / sum(_stored(row).values())
        assert (row.finished_at is not None) == (State(row.state) in ENDED)
        assert row.cancelled_at is None or not (row.queued or row.todo), "a cancelled request still waits"
    live = {agent.id for agent in everything["agents"] if agent.state in ("Running", "Draining")}
    assert {claim.agent_id for claim in everything["claims"]} <= live
    tokens = {claim.id: claim.channel_id for claim in everything["claims"]}
    for file in files:
        assert (file.token is not None) == (file.state == State.RUNNING.value)
        assert file.token is None or tokens[file.token] == file.channel_id
    _check_turns(everything["operations"], files)


def _stored(row: Any) -> dict[State, int]:
    return {state: getattr(row, state.value.lower()) for state in State}


def _check_counters(wholes: Sequence[Any], files: Sequence[Any], key: str) -> None:
    """Counters, bytes and states are what they would be if they were counted anew."""
    counts: dict[int, Counter[State]] = defaultdict(Counter)
    total: Counter[int] = Counter()
    done: Counter[int] = Counter()
    for file in files:
        whole = getattr(file, key)
        counts[whole][State(file.state)] += 1
        ended_well = file.state == State.DONE.value
        size = (file.size if file.found_size is None or not ended_well else file.found_size) or 0
        total[whole] += size
        done[whole] += size if ended_well else 0
    for row in wholes:
        assert _stored(row) == {state: counts[row.id][state] for state in State}
        assert (row.bytes_total, row.bytes_done) == (total[row.id], done[row.id])
        assert row.state == derive(counts[row.id]).value


def _check_turns(operations: Sequence[Any], files: Sequence[Any]) -> None:
    """No file begins before its turn, and none waits for what cannot come or has come."""
    groups: dict[int, list[State]] = defaultdict(list)
    for file in files:
        if file.leader_id is not None:
            groups[file.leader_id].append(State(file.state))
    by_id = {operation.id: operation for operation in operations}
    for file in files:
        own = by_id[file.operation_id]
        before = [
            State(one.state) for one in operations if one.request_id == own.request_id and one.sequence < own.sequence
        ]
        awaited = before if file.follows_id is None else groups[file.follows_id]
        if file.waits_on in (WaitsOn.FILE.value, WaitsOn.OPERATION.value):
            assert any(state is not State.DONE for state in awaited), "waits for what is Done"
            assert not any(state in (State.FAILED, State.CANCELLED) for state in awaited), "waits for what never comes"
        elif file.state not in (State.FAILED.value, State.CANCELLED.value):
            assert all(state is State.DONE for state in awaited), "began before its turn"
