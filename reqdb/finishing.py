"""Ending attempts: what an agent found out about its files, written under its fencing token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.bulk import any_of, insert_many, update_many
from dtscore.database import now as database_now
from dtscore.errors import StateError
from reqdb import models
from reqdb.claiming import ClaimedFile
from reqdb.counting import MOVED, Tally
from reqdb.events import note
from reqdb.retry import RetryPolicy
from reqdb.states import State, WaitsOn


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt at one file ended; sizes in bytes, times in seconds.

    `state` is Done, Failed, Cancelled, Queued (try again after `delay`) or ToDo (handed back).
    """

    file: ClaimedFile
    state: State
    agent: str
    source: str
    started_at: datetime
    seconds: float
    bytes_moved: int = 0
    size: int | None = None
    checksum: str | None = None
    error_class: str = ""
    error: str = ""
    counts_as_failure: bool = False
    delay: float = 0.0

    @property
    def word(self) -> str:
        """The outcome's name in attempts and accounting: Done, Failed, Cancelled or Retried."""
        return self.state.value if self.state in (State.DONE, State.FAILED, State.CANCELLED) else "Retried"


def held(connection: Connection, token: int) -> set[int]:
    """Return and lock the files that this token still holds; a stale token holds none."""
    files = models.files
    query = sa.select(files.c.id).where(files.c.token == token, files.c.state == sa.literal_column("'Running'"))
    return set(connection.execute(query.with_for_update()).scalars())


def finish(connection: Connection, token: int, outcomes: Sequence[Outcome]) -> set[str]:
    """Write the outcomes of files held by `token`, their attempts, and all that follows from them.

    Give only outcomes of files that `held` returned in this transaction. Returns the kinds of operations that have
    new files in ToDo. A stale token changes nothing: StateError.
    """
    if not outcomes:
        return set()
    now = database_now(connection)
    _write_files(connection, token, outcomes, now)
    _write_attempts(connection, outcomes)
    tally = Tally(connection, now)
    for outcome in outcomes:
        file, done = outcome.file, outcome.state is State.DONE
        declared = file.size or 0
        size = declared if outcome.size is None else outcome.size
        tally.move(
            file.operation.request_id, file.operation.id, State.RUNNING, outcome.state, leader_id=file.leader_id,
            bytes_done=size if done else 0, bytes_total=size - declared if done else 0,
        )  # fmt: skip
    _note_failures(connection, [outcome for outcome in outcomes if outcome.state is State.FAILED], now)
    tally.settle()
    return tally.ready


def _note_failures(connection: Connection, failed: Sequence[Outcome], now: datetime) -> None:
    if not failed:
        return
    rows = (
        (
            now, o.file.operation.request_id, o.file.operation.id, o.file.id, "file-failed",
            f"{o.file.lfn} → {o.file.target or 'all'}: {o.error}",
        )
        for o in failed
    )  # fmt: skip
    insert_many(connection, models.events, ("at", "request_id", "operation_id", "file_id", "kind", "message"), rows)


_OUTCOME_COLUMNS = (
    "id", "state", "waits_on", "not_before", "token", "attempts", "failures", "error_class", "error", "bytes",
    "found_size", "found_checksum", "ended_at",
)  # fmt: skip


def _write_files(connection: Connection, token: int, outcomes: Sequence[Outcome], now: datetime) -> None:
    """Write the files' rows. What the claim gave is still true of them: nobody else writes a file that is held."""
    rows = [_file_row(outcome, now) for outcome in outcomes]
    running = "files.state = 'Running'"
    written = update_many(connection, models.files, _OUTCOME_COLUMNS, rows, where=("token", token), condition=running)
    if written != len(rows):
        raise StateError(
            f"the claim {token} no longer holds {len(rows) - written} of {len(rows)} files",
            "ask `held` before `finish`",
        )


def _file_row(outcome: Outcome, now: datetime) -> tuple[Any, ...]:
    queued = outcome.state is State.QUEUED
    done = outcome.state is State.DONE
    return (
        outcome.file.id,
        outcome.state.value,
        WaitsOn.TIME.value if queued else None,
        now + timedelta(seconds=outcome.delay) if queued else None,
        None,
        outcome.file.attempt,
        outcome.file.failures + int(outcome.counts_as_failure),
        outcome.error_class,
        outcome.error,
        outcome.bytes_moved,
        outcome.size if done else None,
        outcome.checksum if done else None,
        None if outcome.state in (State.QUEUED, State.TODO) else now,
    )


_ATTEMPT_COLUMNS = (
    "file_id", "attempt", "agent", "source", "target", "started_at", "seconds", "bytes", "outcome",
    "error_class", "error",
)  # fmt: skip


def _write_attempts(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    rows = (
        (
            o.file.id, o.file.attempt, o.agent, o.source, o.file.target, o.started_at, o.seconds, o.bytes_moved,
            o.word, o.error_class, o.error,
        )
        for o in outcomes
    )  # fmt: skip
    insert_many(connection, models.attempts, _ATTEMPT_COLUMNS, rows)


def hand_back(connection: Connection, token: int, file_ids: Sequence[int]) -> None:
    """Give files that were not begun back to ToDo; no attempt is counted."""
    if not file_ids:
        return
    files = models.files
    tally = Tally(connection, database_now(connection))
    statement = (
        sa.update(files)
        .where(any_of(connection, files.c.id, file_ids), files.c.token == token)
        .where(files.c.state == sa.literal_column("'Running'"))
        .values(state=State.TODO.value, token=None)
        .returning(*MOVED)
    )
    tally.move_rows(connection.execute(statement).all(), State.RUNNING, State.TODO)
    tally.settle()


def rest_channel(
    connection: Connection, channel_id: int, error: str, policy: RetryPolicy, *, requests: Collection[int] = ()
) -> float:
    """Let a channel rest after an outage, longer each time; return the seconds. One probe goes first afterwards.

    Whoever meets the same outage while it rests already adds nothing: ten workers are not ten outages. The first one
    is an event of the requests that met it.
    """
    channels = models.channels
    now = database_now(connection)
    row = connection.execute(sa.select(channels).where(channels.c.id == channel_id).with_for_update()).one()
    if row.rests_until is not None and row.rests_until > now:
        return float((row.rests_until - now).total_seconds())
    seconds = policy.outage_delay(row.failures + 1)
    values = {"failures": row.failures + 1, "error": error, "rests_until": now + timedelta(seconds=seconds)}
    connection.execute(sa.update(channels).where(channels.c.id == channel_id).values(values))
    if row.failures == 0:
        for request_id in requests:
            note(connection, now, request_id, "outage", f"{row.source or 'any'} → {row.target or 'any'}: {error}")
    return seconds


def wake_channel(connection: Connection, channel_id: int, *, requests: Collection[int] = ()) -> bool:
    """A channel works again: forget its outages; return whether there were any. It is an event of these requests."""
    channels = models.channels
    statement = sa.update(channels).where(channels.c.id == channel_id, channels.c.failures > 0)
    statement = statement.values(failures=0, rests_until=None, error="")
    row = connection.execute(statement.returning(channels.c.source, channels.c.target)).first()
    if row is None:
        return False
    for request_id in requests:
        way = f"{row.source or 'any'} → {row.target or 'any'}"
        note(connection, database_now(connection), request_id, "works-again", f"{way} works again")
    return True
