"""A worker that claims and ends files as an agent does, with a no-op as the work on each file.

Each batch is ended by `agents.commit.take_turn` (states, replicas, accounting, attempts, under the fencing token) in
the same transaction that claims the next one, as in `agents.place`.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from typing import Any

from sqlalchemy.engine import Connection

from agents.attempt import Achieved, CatalogChanges
from agents.commit import take_turn
from agents.outcome import Ended
from benchmarks.children import serve
from benchmarks.stage import KIND, NODE, services
from catalog.records import Registration
from dtscore.database import Database
from reqdb import store
from reqdb.states import State
from reqdb.store import ClaimedFile


def no_op(_file: ClaimedFile) -> None:
    """Do nothing: the work on one file."""


class Worker:
    """One agent with one place, until nothing is left or `most` files are done."""

    def __init__(self, url: str, batch: int, most: int) -> None:
        """Enter the agent and find the channel."""
        self._database = Database(url)
        self._batch = batch
        self._left = most
        self._services = services()
        self._waits: list[float] = []
        self._agent = self._database.run(
            lambda connection: store.enter_agent(connection, KIND, node=NODE, pid=1, lease=600, poll_interval=5)
        )
        with self._database.read() as connection:
            (self._waiting,) = store.waiting_channels(connection, KIND, node=NODE)

    def work(self) -> dict[str, Any]:
        """Work until there is nothing left; return the files done and the worst claim in seconds."""
        done = 0
        channel = self._waiting.channel_id
        token = self._timed(self._take)
        if token is None:
            raise RuntimeError("no place on the channel")
        files = self._timed(lambda connection: store.claim_files(connection, token, channel, self._next()))
        self._views = {file.operation.id: file.operation for file in files}
        while files:
            ended = [self._attempt(file) for file in files]
            done += len(ended)
            self._left -= len(ended)
            files = self._timed(lambda connection, ended=ended: self._turn(connection, token, ended))
        return {"files": done, "worst": max(self._waits)}

    def _take(self, connection: Connection) -> int | None:
        return store.take_place(connection, self._agent, self._waiting, store.Limits())

    def _next(self) -> int:
        return min(self._batch, self._left)

    def _turn(self, connection: Connection, token: int, ended: list[Ended]) -> list[ClaimedFile]:
        """End a batch and claim the next one, in one transaction."""
        turned = take_turn(connection, token, ended, self._services, batch=self._next(), leave=True, views=self._views)
        return turned.following

    def _timed(self, work: Any) -> Any:
        """Run a transaction and keep how long it took, with the wait for it and its commit."""
        begun = time.monotonic()
        found = self._database.run(work)
        self._waits.append(time.monotonic() - begun)
        return found

    def _attempt(self, file: ClaimedFile) -> Ended:
        no_op(file)
        size, checksum = 10, "adler32:00000001"
        pfn = file.lfn[1:]
        outcome = store.Outcome(
            file, State.DONE, "transfer@bench:1#1", "local", datetime.now(timezone.utc), 0.001, size, size, checksum
        )
        changes = CatalogChanges([Registration(file.lfn, size, checksum, file.target, pfn, "readback")])
        return Ended(outcome, Achieved(size, checksum, size, "local", "file", 0.001), changes)


def main(url: str, batch: str, most: str = "1000000000") -> None:
    """Claim and end files from the database at `url`, `batch` at a time."""
    serve(Worker(url, int(batch), int(most)).work)


if __name__ == "__main__":
    main(*sys.argv[1:])
