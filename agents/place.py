"""A place on a channel: one worker that works through batch after batch and commits many files at once.

Everything a batch led to — states, replicas, accounting, attempts, events — is written in ONE transaction, which also
claims the next batch; it carries the fencing token, so that a worker whose lease ended writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.engine import Connection

from agents.attempt import Attempt, DrainedError
from agents.commit import Turned, take_turn, unwritable
from agents.outcome import Ended, judge, judge_many
from agents.telling import tell_turn
from catalog import store as catalog
from catalog.records import Entry
from dtscore.errors import DatabaseUnavailableError, LeaseLostError
from reqdb import store
from reqdb.store import ClaimedFile, Waiting

if TYPE_CHECKING:
    from agents.base import ClaimingAgent
    from agents.lease import Lease

FLUSH_SECONDS = 0.5
"""A file that is done is committed at the latest this long after, together with its neighbours."""

TURN_SECONDS = 2.0
"""After this long a worker gives its place up at the end of a file: priorities and other channels count again."""

log = structlog.get_logger()


class Place:
    """One worker's place: its fencing token and what it is doing."""

    def __init__(
        self, agent: ClaimingAgent, lease: Lease, token: int, waiting: Waiting, files: Sequence[ClaimedFile]
    ) -> None:
        """Begin with a first batch that is already claimed under `token`."""
        self._agent = agent
        self._services = agent.services
        self.lease = lease
        self.token = token
        self.waiting = waiting
        self._files = list(files)
        self._views = {file.operation.id: file.operation for file in files}
        self._current: ClaimedFile | None = None
        self._bytes = 0
        self._left = False
        self._abandoned = False
        self._heard_at = time.monotonic()

    def hangs(self) -> bool:
        """Whether the worker has asked its guard nothing for longer than an attempt at its file may take at all."""
        current = self._current
        if current is None:
            return False
        allowed = self._services.config.timeout.seconds(max(self._bytes, current.size or 0))
        return time.monotonic() - self._heard_at > allowed

    def abandon(self) -> None:
        """Take the files from a worker that hangs in a system call: should it come back, it may not go on."""
        log.error("a worker hangs; its files go back to ToDo", token=self.token, channel=self.waiting.channel_id)
        self._abandoned = True
        self._services.database.run(lambda connection: store.release(connection, self.token))

    def progress(self) -> store.Progress:
        """Return the file in work and its bytes so far."""
        current = self._current
        return store.Progress(self.token, current.id if current else None, self._bytes)

    def work(self) -> None:
        """Work through batches until the channel is empty, the turn is over, or the agent drains."""
        self._turn_ends = time.monotonic() + TURN_SECONDS
        try:
            files = self._files
            while files:
                files = self._work_batch(files)
        except LeaseLostError as error:
            log.warning("the results of a worker are dropped", token=self.token, error=error.message)
        except DatabaseUnavailableError as error:
            log.error("the results of a worker could not be written", token=self.token, error=error.message)
        except Exception:
            log.exception("a worker broke off; its files go back to ToDo", token=self.token)
            self._rest("internal error: see the agent's log")
        finally:
            if not self._left and not self._abandoned:
                self._give_up()

    def _give_up(self) -> None:
        """Hand back everything that is still held: nobody else would, while this agent's heart beats."""
        if self.lease.lost:
            return
        try:
            self._services.persistently(lambda connection: store.release(connection, self.token), self._must_end)
        except DatabaseUnavailableError as error:
            log.error("not handed back: the lease will end by itself", token=self.token, error=error.message)

    def _rest(self, reason: str) -> None:
        """Let the channel rest: whatever broke a worker off must not do so again and again at full speed."""

        def rest(connection: Connection) -> None:
            store.rest_channel(connection, self.waiting.channel_id, reason, self._services.policy)

        try:
            self._services.persistently(rest, self._must_end)
        except DatabaseUnavailableError as error:
            log.error("the channel was not put to rest", channel=self.waiting.channel_id, error=error.message)

    def _must_end(self) -> bool:
        return self.lease.lost or self._agent.out_of_grace

    def _work_batch(self, files: list[ClaimedFile]) -> list[ClaimedFile]:
        """Work on a batch; return the next one, claimed in the transaction that ended this one."""
        entries = self._services.persistently_reading(
            lambda connection: catalog.lookup(connection, [file.lfn for file in files]), self._must_end
        )
        ended: list[Ended] = []
        flushed = time.monotonic()
        while files:
            some, files = self._work_some(files, entries)
            ended += some
            if any(one.outage for one in some) or self._must_leave():
                return self._commit(ended, files, leaving=True)
            if files and time.monotonic() - flushed > FLUSH_SECONDS:
                self._commit(ended, [], leaving=False, claim=False)
                ended, flushed = [], time.monotonic()
        return self._commit(ended, [], leaving=self.waiting.probing)

    def _must_leave(self) -> bool:
        return self._agent.draining or time.monotonic() > self._turn_ends

    def _work_some(
        self, files: list[ClaimedFile], entries: Mapping[str, Entry]
    ) -> tuple[list[Ended], list[ClaimedFile]]:
        """Make attempts at the first file, or the first few together; return how they ended, and the files left.

        LeaseLostError passes, for nothing may be written then.
        """
        some = files[: self._agent.together]
        self._current, self._bytes, self._heard_at = some[0], 0, time.monotonic()
        attempts = [self._attempt(file, entries.get(file.lfn), len(some)) for file in some]
        if len(some) == 1:
            with attempts[0].logged():
                return [judge(self._agent, self.lease, attempts[0], self.waiting)], files[1:]
        endings = judge_many(self._agent, self.lease, attempts, self.waiting)
        left = [file for file, ending in zip(some, endings, strict=True) if ending is None]
        return [ending for ending in endings if ending is not None], left + files[len(some) :]

    def _attempt(self, file: ClaimedFile, entry: Entry | None, together: int) -> Attempt:
        """Return an attempt; one of several together may take as long as all of them."""
        seconds = self._services.config.timeout.seconds
        return Attempt(
            file, self.token, entry=entry, check=lambda: self._check(file), progressed=self._progressed,
            time_limit=lambda size: together * seconds(size),
        )  # fmt: skip

    def _check(self, file: ClaimedFile) -> None:
        self._heard_at = time.monotonic()
        if self._current is not file:
            self._current, self._bytes = file, 0
        if self._abandoned:
            raise LeaseLostError("the worker hung and its files were given to others", "see the storage element")
        self.lease.check(file.id)
        if self._agent.out_of_grace:
            raise DrainedError("the agent is ending and its grace is over", "another agent goes on with the file")

    def _progressed(self, bytes_so_far: int) -> None:
        self._bytes = bytes_so_far

    def _commit(
        self, ended: Sequence[Ended], unworked: Sequence[ClaimedFile], *, leaving: bool, claim: bool = True
    ) -> list[ClaimedFile]:
        """Write what ended, hand back what was not begun, and claim the next batch or give up the place.

        Where the database refuses the batch, its files are written one by one, and what it refuses then fails alone.
        """
        try:
            return self._write(ended, unworked, leaving=leaving, claim=claim)
        except (LeaseLostError, DatabaseUnavailableError):
            raise
        except Exception:
            if not ended:
                raise
            log.exception("a batch could not be written; its files are written one by one", token=self.token)
        self._write_singly(ended)
        return self._write([], unworked, leaving=leaving, claim=claim)

    def _write(
        self, ended: Sequence[Ended], unworked: Sequence[ClaimedFile], *, leaving: bool, claim: bool
    ) -> list[ClaimedFile]:
        def transaction(connection: Connection) -> Turned:
            batch = self._agent.settings.batch if claim and not leaving else 0
            return take_turn(
                connection, self.token, ended, self._services, unworked=unworked, batch=batch, leave=claim,
                views=self._views,
            )  # fmt: skip

        self._current = None
        turned = self._services.persistently(transaction, self._must_end)
        self._left = claim and not turned.following
        self._agent.ended(turned.states)
        tell_turn(self._services.config, self._agent.kind, ended, turned.states)
        if turned.ready:
            self._services.poke(turned.ready)
        return turned.following

    def _write_singly(self, ended: Sequence[Ended]) -> None:
        for one in ended:
            try:
                self._write([one], [], leaving=False, claim=False)
            except (LeaseLostError, DatabaseUnavailableError):
                raise
            except Exception as defect:
                self._write([unwritable(one, defect)], [], leaving=False, claim=False)
