"""Why Queued files wait: for a moment, for an earlier step of their own, or for a whole operation."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from reqdb import models
from reqdb.queries import counts_of, in_states
from reqdb.scene import Reason, Scene, examples, files_word
from reqdb.states import State, WaitsOn

_RANKS = (State.CANCELLED, State.FAILED, State.QUEUED, State.TODO, State.RUNNING)
"""Which of several unfinished earlier steps is told of: the one that is farthest from Done."""

_QUEUED = State.QUEUED.value


def queued_reasons(scene: Scene) -> list[Reason]:
    """Return the reasons of Queued files in the order of the operations."""
    reasons = _for_a_moment(scene) + _for_a_step(scene) + _for_an_operation(scene)
    return sorted(reasons, key=lambda reason: reason.operation)


def _queued(scene: Scene, waits: WaitsOn) -> sa.ColumnElement[bool]:
    files = models.files
    words = sa.literal_column(f"files.waits_on = '{waits.value}'", sa.Boolean)
    return sa.and_(files.c.operation_id.in_(list(scene.operations)), in_states(State.QUEUED), words)


def _for_a_moment(scene: Scene) -> list[Reason]:
    files = models.files
    keys = (files.c.operation_id, files.c.error_class, files.c.failures)
    due = sa.case((files.c.not_before <= scene.now, 1), else_=0)
    query = (
        sa.select(*keys, sa.func.count().label("number"), sa.func.min(files.c.id).label("example"), due.label("due"))
        .add_columns(sa.func.min(files.c.not_before).label("first"), sa.func.max(files.c.not_before).label("last"))
        .where(_queued(scene, WaitsOn.TIME))
        .group_by(*keys, due)
        .order_by(sa.text("example"))
    )
    rows = scene.connection.execute(query).all()
    known = examples(scene, [row.example for row in rows])
    return [
        scene.reason(row, _QUEUED, _moment_why(scene, row, one), _moment_frees(scene, row), one.lfn)
        for row, one in ((row, known[row.example]) for row in rows)
    ]


def _moment_why(scene: Scene, row: Row[Any], example: Row[Any]) -> str:
    if not row.error_class:
        return f"the request is not to begin before {scene.at(row.first)}"
    number = min(row.failures + 1, scene.limits.attempts)
    which = f"attempt {number} of {scene.limits.attempts}" if row.failures else "another attempt, none used up,"
    return f"{which} comes at {scene.at(row.first)} after a temporary error ({row.error_class}): {example.error}"


def _moment_frees(scene: Scene, row: Row[Any]) -> str:
    if not scene.live_agents():
        kind = scene.operations[row.operation_id].type
        return f"its moment, and a running agent: none runs; start it: dts-agent run {kind}"
    if row.due:
        return "the moment has come: the next look of an agent makes it ready"
    first, last = scene.at(row.first), scene.at(row.last)
    return f"time alone: at {first}" if first == last else f"time alone: the first at {first}, the last at {last}"


def _for_a_step(scene: Scene) -> list[Reason]:
    """Group by the state of the step before; one that has several targets counts once.

    The rank is looked up file by file through its index: joined to a grouped subquery, PostgreSQL without statistics
    of a fresh request compares each file with each other one.
    """
    files, earlier = models.files, models.files.alias("earlier")
    rank = sa.case({state.value: number for number, state in enumerate(_RANKS)}, value=earlier.c.state)
    group = earlier.c.leader_id == files.c.follows_id
    behind = sa.select(sa.func.min(rank)).where(group, sa.text("earlier.state <> 'Done'"))
    step = sa.select(earlier.c.operation_id).where(group).limit(1)
    each = (
        sa.select(files.c.id, files.c.operation_id, behind.scalar_subquery().label("rank"))
        .add_columns(step.scalar_subquery().label("before_id"))
        .where(_queued(scene, WaitsOn.FILE))
        .subquery("each")
    )
    query = (
        sa.select(each.c.operation_id, each.c.before_id, each.c.rank, sa.func.count().label("number"))
        .add_columns(sa.func.min(each.c.id).label("example"))
        .group_by(each.c.operation_id, each.c.before_id, each.c.rank)
        .order_by(sa.text("example"))
    )
    rows = scene.connection.execute(query).all()
    known = examples(scene, [row.example for row in rows])
    return [scene.reason(row, _QUEUED, *_step_words(scene, row), known[row.example].lfn) for row in rows]


def _step_words(scene: Scene, row: Row[Any]) -> tuple[str, str]:
    """Say which step comes first."""
    if row.rank is None:
        return "its earlier step is Done and it was not let go", "this should not be: run dts doctor"
    before = scene.operations[row.before_id]
    state = _RANKS[row.rank]
    step = f"operation {before.sequence} ({before.type}) of the same file"
    if state in (State.FAILED, State.CANCELLED):
        return f"{step} is {state.value}", f"dts-request retry {scene.request.id}"
    frees = f"that step, as soon as it is Done; for why it is {state.value} see there"
    return f"{step} is not Done but {state.value}", frees


def _for_an_operation(scene: Scene) -> list[Reason]:
    files = models.files
    query = (
        sa.select(files.c.operation_id, sa.func.count().label("number"), sa.func.min(files.c.id).label("example"))
        .where(_queued(scene, WaitsOn.OPERATION))
        .group_by(files.c.operation_id)
        .order_by(sa.text("example"))
    )
    rows = scene.connection.execute(query).all()
    known = examples(scene, [row.example for row in rows])
    return [scene.reason(row, _QUEUED, *_operation_words(scene, row), known[row.example].lfn) for row in rows]


def _operation_words(scene: Scene, row: Row[Any]) -> tuple[str, str]:
    own = scene.operations[row.operation_id]
    earlier = [before for before in scene.operations.values() if before.sequence < own.sequence]
    open_ones = [before for before in earlier if before.state != State.DONE.value]
    if not open_ones:
        return "all earlier operations are Done and it was not let go", "this should not be: run dts doctor"
    first = open_ones[0]
    counts = counts_of(first)
    left = files_word(counts.total - counts.done)
    why = f"the whole of operation {first.sequence} ({first.type}) comes first: {left} of {counts.total:,} not Done"
    why += f", and {len(open_ones) - 1} more operations after it" if len(open_ones) > 1 else ""
    return why, f"operation {first.sequence}, as soon as all of it is Done; for why it is not see there"
