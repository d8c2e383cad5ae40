"""From a request's content to its rows: all of them or none, and the same request only once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from dtscore.bulk import insert_many, new_ids
from dtscore.database import now as database_now
from dtscore.errors import StateError
from reqdb import models
from reqdb.events import note
from reqdb.queue_states import is_held
from reqdb.spec import BRANCHES, BUILD, TRANSFER, OperationSpec, RequestSpec
from reqdb.states import State, WaitsOn, derive

_FILE_COLUMNS = (
    "id", "request_id", "operation_id", "channel_id", "lfn", "pfn", "size", "checksum",
    "state", "waits_on", "not_before", "priority", "leader_id", "follows_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submission led to; `existing` says that the same request was there already."""

    id: int
    name: str
    files: int
    existing: bool


def submit(connection: Connection, spec: RequestSpec, *, owner: str, origin: str = "") -> Submitted:
    """Write a request with its operations and files; the same name and content again gives the first one's id.

    `owner` is used where the request names none. A request without a name is named after its content. Raises
    StateError when the name is taken by other content. It is taken though its queue be stopped, and waits then.
    """
    digest = spec.digest()
    name = spec.name or f"{spec.operations[0].type}-{digest[:16]}"
    now = database_now(connection)
    request_id = _insert_request(connection, spec, name, digest, spec.owner or owner, origin, now)
    if request_id is None:
        return _existing(connection, name, digest)
    rows = _Rows(connection, spec, request_id, now).write()
    note(connection, now, request_id, "submitted", f"{rows} files in {len(spec.operations)} operations{_from(origin)}")
    return Submitted(request_id, name, rows, False)


def _from(origin: str) -> str:
    return f", from {origin}" if origin else ""


def _insert_request(
    connection: Connection, spec: RequestSpec, name: str, digest: str, owner: str, origin: str, now: datetime
) -> int | None:
    """Insert the request's row; None when the name is taken. ON CONFLICT, since two may submit at the same time."""
    values = {
        "name": name, "digest": digest, "owner": owner, "priority": spec.priority, "state": State.QUEUED.value,
        "not_before": spec.not_before, "deadline": spec.deadline, "submitted_at": now, "origin": origin,
        "queue": spec.queue or "",
    }  # fmt: skip
    insert = _dialect_insert(connection, models.requests).values(values)
    statement = insert.on_conflict_do_nothing(index_elements=["name"]).returning(models.requests.c.id)
    found: int | None = connection.execute(statement).scalar()
    return found


def _dialect_insert(connection: Connection, table: sa.Table) -> Any:
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def find_submitted(connection: Connection, name: str) -> Submitted | None:
    """Return the request of a name, whatever is in it; None if there is none."""
    table = models.requests
    row = connection.execute(sa.select(table).where(table.c.name == name)).first()
    if row is None:
        return None
    return Submitted(row.id, name, sum(getattr(row, state.value.lower()) for state in State), True)


def _existing(connection: Connection, name: str, digest: str) -> Submitted:
    table = models.requests
    row = connection.execute(sa.select(table).where(table.c.name == name)).one()
    if row.digest != digest:
        raise StateError(
            f"request {row.id} already has the name {name!r} with other content",
            f"give it another name, or see the first one: dts-request show {row.id}",
        )
    return Submitted(row.id, name, sum(getattr(row, state.value.lower()) for state in State), True)


class _Rows:
    """Writes the operations and files of one new request.

    A delivery or handover follows its own copy alone, of whichever earlier operation: a target that is away holds up
    nothing but what comes after it. What stands behind them waits for all that was before.
    """

    def __init__(self, connection: Connection, spec: RequestSpec, request_id: int, now: datetime) -> None:
        self._connection = connection
        self._spec = spec
        self._request_id = request_id
        self._delayed = spec.not_before is not None and spec.not_before > now
        self._channels: dict[tuple[str, ...], int] = {}
        self._followed: dict[str, int] = {}
        self._landed: dict[tuple[str, str], int] = {}
        self._branches = any(operation.type in BRANCHES for operation in spec.operations)

    def write(self) -> int:
        """Write everything; return the number of file rows."""
        totals: Counter[State] = Counter()
        size = 0
        ids = new_ids(self._connection, models.operations, len(self._spec.operations))
        for sequence, (operation_id, operation) in enumerate(zip(ids, self._spec.operations, strict=True), start=1):
            state, rows, bytes_total = self._write_operation(operation_id, sequence, operation)
            totals[state] += rows
            size += bytes_total
        self._update(models.requests, self._request_id, totals, size)
        return totals.total()

    def _write_operation(self, operation_id: int, sequence: int, operation: OperationSpec) -> tuple[State, int, int]:
        """Write one operation; return the state of its files, their number and their bytes as far as known."""
        targets = operation.targets or ("",)
        state = self._first_state(sequence)
        rows = len(operation.files) * len(targets)
        size = sum(file.size or 0 for file in operation.files) * len(targets)
        values = {
            "id": operation_id, "request_id": self._request_id, "sequence": sequence, "type": operation.type,
            "source": operation.source, "targets": " ".join(operation.targets), "node": operation.node,
            "options": dict(operation.options), "state": state.value,
        }  # fmt: skip
        self._connection.execute(sa.insert(models.operations).values(values))
        self._update(models.operations, operation_id, Counter({state: rows}), size)
        file_ids = new_ids(self._connection, models.files, rows)
        channels = [self._channel(operation, target) for target in targets]
        file_rows = self._file_rows(operation_id, sequence, operation, channels, file_ids)
        insert_many(self._connection, models.files, _FILE_COLUMNS, file_rows)
        return state, rows, size

    def _file_rows(
        self, operation_id: int, sequence: int, operation: OperationSpec, channels: list[int], ids: Sequence[int]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield a row for each file and target; it follows its own earlier step, or else the whole operation."""
        follows_of = self._followers(sequence, operation)
        parted = self._type(sequence + 1) in BRANCHES
        last = sequence == len(self._spec.operations)
        self._followed = {}
        position = 0
        state = self._first_state(sequence)
        for file in operation.files:
            leader = ids[position]
            if not last and not parted:
                self._followed[file.lfn] = leader
            for target, channel in zip(operation.targets or ("",), channels, strict=True):
                leader = ids[position] if parted else leader
                follows = follows_of(file.lfn, target)
                waits = self._waits(sequence, follows)
                if self._branches:
                    self._landed[file.lfn, target] = leader
                yield (
                    ids[position], self._request_id, operation_id, channel, file.lfn, file.pfn, file.size,
                    file.checksum, state.value, waits, self._spec.not_before if waits == WaitsOn.TIME.value else None,
                    self._spec.priority, None if last else leader, follows,
                )  # fmt: skip
                position += 1

    def _followers(self, sequence: int, operation: OperationSpec) -> Callable[[str, str], int | None]:
        """Return what gives, for an LFN and a target, the leader of what comes first; None: the whole operation."""
        before, landed = self._followed, self._landed
        if operation.type in BRANCHES:
            source = operation.source
            return lambda lfn, target: landed.get((lfn, source or target)) or before.get(lfn)
        if self._type(sequence - 1) in BRANCHES:
            return lambda lfn, target: None
        return lambda lfn, target: before.get(lfn)

    def _type(self, sequence: int) -> str:
        """Return the type of an operation; '' before the first and after the last."""
        inside = 1 <= sequence <= len(self._spec.operations)
        return self._spec.operations[sequence - 1].type if inside else ""

    def _first_state(self, sequence: int) -> State:
        return State.QUEUED if sequence > 1 or self._delayed else State.TODO

    def _waits(self, sequence: int, follows: int | None) -> str | None:
        if sequence == 1:
            return WaitsOn.TIME.value if self._delayed else None
        return WaitsOn.FILE.value if follows is not None else WaitsOn.OPERATION.value

    def _channel(self, operation: OperationSpec, target: str) -> int:
        source = (operation.source or "") if operation.type == TRANSFER else ""
        # What a camera waits for is never held up by a queue.
        queue = "" if operation.type == BUILD else self._spec.queue or ""
        key = (operation.type, source, target, operation.node or "", queue)
        if key not in self._channels:
            self._channels[key] = _ensure_channel(self._connection, key)
        return self._channels[key]

    def _update(self, table: sa.Table, row_id: int, counts: Counter[State], size: int) -> None:
        values: dict[str, Any] = {state.value.lower(): number for state, number in counts.items()}
        values.update(state=derive(counts).value, bytes_total=size)
        self._connection.execute(sa.update(table).where(table.c.id == row_id).values(values))


def _ensure_channel(connection: Connection, key: tuple[str, ...]) -> int:
    """Return the id of a channel, made when it is new; two submitters may make it at the same time."""
    table = models.channels
    values: dict[str, Any] = dict(zip(("type", "source", "target", "node", "queue"), key, strict=True))
    wanted = sa.select(table.c.id).where(*(table.c[name] == value for name, value in values.items()))
    found: int | None = connection.execute(wanted).scalar()
    if found is None:
        values["paused"] = is_held(connection, values["queue"])
        connection.execute(_dialect_insert(connection, table).values(values).on_conflict_do_nothing())
        found = connection.execute(wanted).scalar_one()
    return found
