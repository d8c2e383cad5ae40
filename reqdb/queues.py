"""The door of the queues: submitting local files to them, their states, and what stands in them.

    file = look_at(config, path)
    queue = choose(config, "des", path, file)                       # or "*": the routes choose
    database.run(lambda connection: submit_file(connection, config, queue, [file], owner="observer"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.config import Config
from dtscore.database import now as database_now
from dtscore.queueing import QueueSettings
from reqdb import models
from reqdb.cards import reader
from reqdb.hops import Origin, check_no_circle, note_in
from reqdb.queue_requests import (
    LocalFile,
    check_room,
    find_queue,
    is_any,
    lfn_of,
    look_at,
    name_of,
    request_for,
    route,
)
from reqdb.queue_states import (
    PAUSED,
    RUNNING,
    STOPPED,
    Poked,
    QueueState,
    check_open,
    flush,
    is_known,
    pause,
    poke,
    restart,
    start,
    state_of,
    stop,
)
from reqdb.spec import RequestSpec
from reqdb.states import ENDED, State
from reqdb.submitting import Submitted, find_submitted, submit

__all__ = [
    "PAUSED",
    "RUNNING",
    "STOPPED",
    "LocalFile",
    "Origin",
    "Poked",
    "QueueStat",
    "QueueState",
    "accept",
    "check_known",
    "choose",
    "find_queue",
    "flush",
    "lfn_of",
    "look_at",
    "pause",
    "poke",
    "request_for",
    "restart",
    "route",
    "start",
    "stat",
    "state_of",
    "stats",
    "stop",
    "submit_file",
    "submit_open",
]


def check_known(connection: Connection, config: Config, name: str) -> None:
    """Raise NotFoundError for a queue that is neither configured nor, from earlier days, in the database."""
    if name not in config.queues and not is_known(connection, name):
        find_queue(config, name)


def choose(config: Config, name: str, path: Path, file: LocalFile) -> QueueSettings:
    """Return the queue of that name, or where it is '*' or '' the one that the routes choose; raises NotFoundError."""
    if not is_any(name):
        return find_queue(config, name)
    return route(config, str(path), file.size, reader(path))


def accept(connection: Connection, config: Config, queue: QueueSettings, size: int) -> QueueState:
    """Return the state of a queue that takes `size` more bytes; raises a refusal that says what is in the way.

    StateError: it is stopped; ElementFullError, PermissionRefusedError: a local target cannot take them.
    """
    state = state_of(connection, queue.name)
    check_open(state)
    check_room(config, queue, size)
    return state


def submit_open(connection: Connection, spec: RequestSpec, *, owner: str, origin: str) -> Submitted:
    """Submit a request whose submitter can still be told no: StateError where it is new and its queue was stopped."""
    done = submit(connection, spec, owner=owner, origin=origin)
    if spec.queue is not None and not done.existing:
        check_open(state_of(connection, spec.queue))
    return done


def submit_file(
    connection: Connection, config: Config, queue: QueueSettings, files: Sequence[LocalFile], *, owner: str,
    name: str = "", label: str = "", origin: Origin | None = None,
) -> Submitted:  # fmt: skip
    """Make one request for files of one element, durable with the transaction; the same files again are the same one.

    `name` is the request's, else it follows from the files (`label` stands in it for their names). Raises the refusals
    of `accept`, ConfigurationError and NameRefusedError.
    """
    name = name or name_of(queue, files, label)
    found = find_submitted(connection, name)
    if found is not None:
        return found
    if origin is not None:
        check_no_circle(origin, config.site.name, queue.name)
    accept(connection, config, queue, sum(file.size for file in files))
    spec = request_for(config, queue, files, name=name, now=database_now(connection))
    submitted = submit(connection, spec, owner=owner, origin=_origin(queue, origin))
    if origin is not None:
        for file in files:
            note_in(connection, submitted.id, lfn_of(queue, file), origin, config.site.name)
    return submitted


def _origin(queue: QueueSettings, origin: Origin | None) -> str:
    before = f" from {origin.site or 'this site'}, request {origin.request_id}" if origin else ""
    return f"queue {queue.name}{before}"


@dataclass(frozen=True, slots=True)
class QueueStat:
    """What stands in a queue: its state, its open requests and their files, and what failed; sizes in bytes."""

    state: QueueState
    type: str
    targets: tuple[str, ...]
    requests: int
    queued: int
    todo: int
    running: int
    done: int
    failed: int
    bytes_left: int
    requests_done: int
    requests_failed: int
    oldest: datetime | None
    resting: tuple[str, ...]


def stats(connection: Connection, config: Config) -> list[QueueStat]:
    """Return what stands in each queue of the configuration."""
    return [stat(connection, queue) for queue in config.queues.values()]


def stat(connection: Connection, queue: QueueSettings) -> QueueStat:
    """Return what stands in a queue."""
    requests, name = models.requests, queue.name
    ours = sa.and_(requests.c.queue == name, requests.c.queue != sa.literal_column("''"))
    open_ones = sa.and_(ours, requests.c.state.in_([state.value for state in State if state not in ENDED]))
    names = ("queued", "todo", "running", "done", "failed")
    sums = [sa.func.coalesce(sa.func.sum(requests.c[one]), 0).label(one) for one in names]
    left = sa.func.coalesce(sa.func.sum(requests.c.bytes_total - requests.c.bytes_done), 0).label("left")
    query = sa.select(sa.func.count().label("number"), *sums, left, sa.func.min(requests.c.submitted_at).label("first"))
    row = connection.execute(query.where(open_ones)).one()
    ended = sa.select(requests.c.state, sa.func.count()).where(ours).group_by(requests.c.state)
    counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(ended)}
    targets = (*queue.elements, *map(str, queue.handovers))
    return QueueStat(
        state_of(connection, name), queue.type, targets, row.number, int(row.queued), int(row.todo), int(row.running),
        int(row.done), int(row.failed), max(0, int(row.left)), counts.get(State.DONE.value, 0),
        counts.get(State.FAILED.value, 0), row.first, _resting(connection, name),
    )  # fmt: skip


def _resting(connection: Connection, name: str) -> tuple[str, ...]:
    """Return the channels of a queue that have met an outage, with what it was."""
    channels = models.channels
    query = sa.select(channels).where(channels.c.queue == name, channels.c.failures > 0).order_by(channels.c.id)
    return tuple(f"{row.type} → {row.target or row.source}: {row.error}" for row in connection.execute(query))
