"""Ending attempts: what an agent found out about its files, written under its fencing token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.bulk import InsertRows, UpdateRows, any_of
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
        state = self.state
        return "Retried" if state is State.QUEUED or state is State.TODO else state._value_


def held(connection: Connection, token: int) -> set[int]:
    """Return and lock the files that this token still holds; a stale token holds none."""
    files = models.files
    query = sa.select(files.c.id).where(files.c.token == token, files.c.state == sa.literal_column("'Running'"))
    return set(connection.execute(query.with_for_update()).scalars())


def finish(connection: Connection, token: int, outcomes: Sequence[Outcome]) -> set[str]:
    """Write the outcomes of files held by `token`, their attempts, and all that follows from them.

    Returns the kinds of operations that have new files in ToDo. A stale token changes nothing: StateError.
    """
    if not outcomes:
        return set()
    now = database_now(connection)
    ours = take(connection, token, outcomes, now)
    if len(ours) != len(outcomes):
        raise StateError(
            f"the claim {token} no longer holds {len(outcomes) - len(ours)} of {len(outcomes)} files",
            "drop the results: the files are another agent's",
        )
    tally = Tally(connection, now)
    keep(connection, ours, tally, now)
    tally.settle()
    return tally.ready


def take(connection: Connection, token: int, outcomes: Sequence[Outcome], now: datetime) -> list[Outcome]:
    """Write how these files ended, where `token` still holds them; return those outcomes, for `keep`.

    What the claim gave is still true of the files: nobody else writes a file that is held.
    """
    taken = _END_FILES.run(connection, [_file_row(outcome, now) for outcome in outcomes], {"mine": token})
    return [outcome for outcome in outcomes if outcome.file.id in taken]


def refuse(connection: Connection, outcome: Outcome) -> None:
    """Write that a file which was taken as Done has failed instead."""
    files = models.files
    values = {
        "state": outcome.state.value, "error_class": outcome.error_class, "error": outcome.error,
        "found_size": None, "found_checksum": None,
    }  # fmt: skip
    connection.execute(sa.update(files).where(files.c.id == outcome.file.id).values(values))


def keep(connection: Connection, outcomes: Sequence[Outcome], tally: Tally, now: datetime) -> None:
    """Write the attempts and events of files that were taken, and count them."""
    _ADD_ATTEMPTS.run(connection, [_attempt_row(outcome) for outcome in outcomes])
    _count(outcomes, tally)
    _note_failures(connection, [outcome for outcome in outcomes if outcome.state is State.FAILED], now)


def _count(outcomes: Sequence[Outcome], tally: Tally) -> None:
    """Count what is alike in one go: most files of a batch are of one operation and end in the same way."""
    alike: dict[tuple[int, State, int | None], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        alike[outcome.file.operation.id, outcome.state, outcome.file.leader_id].append(outcome)
    for (operation_id, state, leader_id), group in alike.items():
        done = declared = 0
        if state is State.DONE:
            declared = sum([one.file.size or 0 for one in group])
            done = sum([(one.file.size or 0) if one.size is None else one.size for one in group])
        tally.move(
            group[0].file.operation.request_id, operation_id, State.RUNNING, state, leader_id=leader_id,
            count=len(group), bytes_done=done, bytes_total=done - declared,
        )  # fmt: skip


def _note_failures(connection: Connection, failed: Sequence[Outcome], now: datetime) -> None:
    if not failed:
        return
    rows = [
        (
            now, o.file.operation.request_id, o.file.operation.id, o.file.id, "file-failed",
            f"{o.file.lfn} → {o.file.target or 'all'}: {o.error}",
        )
        for o in failed
    ]  # fmt: skip
    _ADD_EVENTS.run(connection, rows)


_ADD_EVENTS = InsertRows(models.events, ("at", "request_id", "operation_id", "file_id", "kind", "message"))
_END_FILES = UpdateRows(
    models.files,
    (
        "id", "state", "waits_on", "not_before", "attempts", "failures", "error_class", "error", "bytes",
        "found_size", "found_checksum", "ended_at",
    ),
    where="files.token = :mine AND files.state = 'Running'",
    fixed="token = NULL",
)  # fmt: skip


def _file_row(outcome: Outcome, now: datetime) -> tuple[Any, ...]:
    file, state = outcome.file, outcome.state
    queued, done = state is State.QUEUED, state is State.DONE
    return (
        file.id,
        state._value_,
        WaitsOn.TIME.value if queued else None,
        now + timedelta(seconds=outcome.delay) if queued else None,
        file.attempt,
        file.failures + outcome.counts_as_failure,
        outcome.error_class,
        outcome.error,
        outcome.bytes_moved,
        outcome.size if done else None,
        outcome.checksum if done else None,
        None if queued or state is State.TODO else now,
    )


_ADD_ATTEMPTS = InsertRows(
    models.attempts,
    (
        "file_id", "attempt", "agent", "source", "target", "started_at", "seconds", "bytes", "outcome",
        "error_class", "error",
    ),
)  # fmt: skip


def _attempt_row(outcome: Outcome) -> tuple[Any, ...]:
    file = outcome.file
    return (
        file.id, file.attempt, outcome.agent, outcome.source, file.target, outcome.started_at, outcome.seconds,
        outcome.bytes_moved, outcome.word, outcome.error_class, outcome.error,
    )  # fmt: skip


def hand_back(connection: Connection, token: int, file_ids: Sequence[int], tally: Tally | None = None) -> None:
    """Give files that were not begun back to ToDo; no attempt is counted. `tally` is settled by whoever gives it."""
    if not file_ids:
        return
    files = models.files
    counted = tally or Tally(connection, database_now(connection))
    statement = (
        sa.update(files)
        .where(any_of(connection, files.c.id, file_ids), files.c.token == token)
        .where(files.c.state == sa.literal_column("'Running'"))
        .values(state=State.TODO.value, token=None)
        .returning(*MOVED)
    )
    counted.move_rows(connection.execute(statement).all(), State.RUNNING, State.TODO)
    if tally is None:
        counted.settle()


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
