"""An agent's lease: renewed by its heartbeat, asked by its workers before anything that cannot be undone.

Deadlines are counted on the monotonic clock from the moment before the heartbeat was sent, so that they end here
before they end in the database.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agents.services import Services
from dtscore.errors import DeadlinePassedError, LeaseLostError, WorkCancelledError
from reqdb import store


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat tells the database about an agent."""

    ticked: bool
    draining: bool
    progress: Sequence[store.Progress]


class Lease:
    """The lease of one agent row; once lost it stays lost, and the agent enters anew with another."""

    def __init__(self, services: Services, kind: str) -> None:
        """Enter the agent in the database; raises DatabaseUnavailableError when it is away."""
        self._services = services
        self._seconds = services.config.agents.lease
        self._changed = threading.Condition()
        self._stops: dict[int, str] = {}
        self._lost = False
        begun = time.monotonic()
        self.agent_id = services.database.run(
            lambda connection: store.enter_agent(
                connection, kind, node=services.node, pid=services.pid, lease=self._seconds,
                poll_interval=services.config.agent(kind).poll_interval,
            )
        )  # fmt: skip
        self._until = begun + self._seconds
        self.label = store.agent_label(kind, services.node, services.pid, self.agent_id)

    @property
    def lost(self) -> bool:
        """Whether the database has given this agent's files to others."""
        return self._lost

    def beat(self, beat: Beat) -> None:
        """Renew the lease and learn which files are to be stopped; raises DatabaseUnavailableError."""
        begun = time.monotonic()
        answer = self._services.database.run(
            lambda connection: store.beat(
                connection, self.agent_id, lease=self._seconds, ticked=beat.ticked, draining=beat.draining,
                progress=beat.progress,
            ),
            tries=2,
        )  # fmt: skip
        with self._changed:
            self._lost = self._lost or not answer.alive
            self._stops = dict(answer.stops)
            if answer.alive:
                self._until = begun + self._seconds
            self._changed.notify_all()

    def check(self, file_id: int) -> None:
        """Raise unless the lease holds and nobody wants the file stopped.

        While the database is away the lease cannot be renewed: then wait here until it is back and says whose the
        file is, for going on could meet another agent's work and giving up would throw good work away.
        Raises LeaseLostError, WorkCancelledError or DeadlinePassedError.
        """
        with self._changed:
            while not self._lost and time.monotonic() >= self._until:
                self._changed.wait(timeout=1.0)
            if self._lost:
                raise LeaseLostError("the lease ended and the file was given to another agent", "nothing is to be done")
            why = self._stops.get(file_id)
        if why == "cancelled":
            raise WorkCancelledError("the request was cancelled", "bring it back with: dts-request retry ID")
        if why == "deadline":
            raise DeadlinePassedError("the request's deadline passed", "try again with: dts-request retry ID")

    def abandon(self) -> None:
        """Give the lease up: whoever waits in `check` gets LeaseLostError."""
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    def leave(self) -> None:
        """End the agent in the database; what it still holds goes back to ToDo."""
        if not self._lost:
            self._services.database.run(lambda connection: store.leave_agent(connection, self.agent_id))
