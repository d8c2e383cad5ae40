"""Drives the store as an agent does, so that tests can put a request into any situation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import Database
from reqdb import models, store
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.states import State
from reqdb.store import ClaimedFile, Limits, Outcome, Progress

Ending = tuple[State, str, str]
"""A state, an error class and an error."""

DONE: Ending = (State.DONE, "", "")
MISSING: Ending = (State.FAILED, "missing", "local: the file does not exist")


def transfer(
    number: int = 4, *targets: str, name: str | None = "night", priority: int = 5, size: int | None = 100
) -> RequestSpec:
    """Return a request that transfers `number` files of `size` bytes from local to the targets (archive)."""
    files = tuple(FileSpec(f"/raw/f{i:05d}.fits", f"f{i:05d}.fits", size) for i in range(number))
    return RequestSpec((OperationSpec("transfer", files, "local", targets or ("archive",)),), name, "des", priority)


def then(spec: RequestSpec, kind: str, lfns: Sequence[str] | None = None, target: str = "archive") -> RequestSpec:
    """Return the request with one more operation: over its own files, or over others."""
    names = [file.lfn for file in spec.operations[0].files] if lfns is None else lfns
    operation = OperationSpec(kind, tuple(FileSpec(lfn) for lfn in names), None, (target,))
    return RequestSpec((*spec.operations, operation), spec.name, spec.owner, spec.priority)


def submit(database: Database, spec: RequestSpec) -> int:
    """Submit a request; return its id."""
    return database.run(lambda connection: store.submit(connection, spec, owner="login")).id


class FakeAgent:
    """An agent whose work ends as the test says."""

    def __init__(self, database: Database, kind: str = "transfer", node: str = "dtn1", lease: float = 60.0) -> None:
        """Enter the database."""
        self.database = database
        self.kind = kind
        self.node = node
        self.id = database.run(
            lambda connection: store.enter_agent(connection, kind, node=node, pid=77, lease=lease, poll_interval=5.0)
        )

    def claim(self, batch: int = 1000, channel: int = 0) -> tuple[int, list[ClaimedFile]]:
        """Take a place on the n-th waiting channel and claim files; return the token and the files."""
        with self.database.read() as connection:
            waiting = store.waiting_channels(connection, self.kind, node=self.node)[channel]
        token = self.database.run(lambda connection: store.take_place(connection, self.id, waiting, Limits()))
        assert token is not None
        return token, self.database.run(
            lambda connection: store.claim_files(connection, token, waiting.channel_id, batch)
        )

    def beat(self, token: int, file_id: int | None, bytes_now: int) -> None:
        """Send a heartbeat that says where the worker is."""
        where = [Progress(token, file_id, bytes_now)]
        self.database.run(
            lambda connection: store.beat(
                connection, self.id, lease=60.0, ticked=True, draining=False, progress=where
            )
        )

    def end(self, token: int, files: Sequence[ClaimedFile], ending: Callable[[int], Ending] = lambda _: DONE) -> None:
        """End files, the n-th as `ending(n)` says, and give the place back."""
        outcomes = [self._outcome(file, *ending(number)) for number, file in enumerate(files)]

        def finish(connection: Connection) -> None:
            store.held(connection, token)
            store.finish(connection, token, outcomes)
            store.release(connection, token)

        self.database.run(finish)

    def _outcome(self, file: ClaimedFile, state: State, error_class: str, error: str) -> Outcome:
        done = state is State.DONE
        size = (file.size or 100) if done else None
        return Outcome(
            file, state, "agent", "local", datetime.now(UTC), 0.5, bytes_moved=size or 0, size=size,
            checksum="adler32:03da0195" if done else None, error_class=error_class, error=error,
            counts_as_failure=state is State.QUEUED, delay=30.0,
        )  # fmt: skip

    def work(self, ending: Callable[[int], Ending] = lambda _: DONE) -> None:
        """Claim everything on the first waiting channel and end it."""
        token, files = self.claim()
        self.end(token, files, ending)


def change(database: Database, table: sa.Table, values: dict[str, object], *where: sa.ColumnElement[bool]) -> None:
    """Change rows behind the store's back: for clocks and outages that a test cannot wait for."""
    database.run(lambda connection: connection.execute(sa.update(table).where(*where).values(values)).rowcount)


def long_ago(database: Database, agent: FakeAgent, column: str, moment: datetime) -> None:
    """Put one of an agent's moments back."""
    change(database, models.agents, {column: moment}, models.agents.c.id == agent.id)
