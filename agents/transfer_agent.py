"""The transfer agent: puts local files and replicates between storage elements, registered where they land."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from agents.attempt import Achieved, Attempt
from agents.base import ClaimingAgent
from agents.queue_ways import Paces
from agents.services import Services
from agents.sweeper import Sweeper
from storage.batch import MANY


class TransferAgent(ClaimingAgent):
    """Works on `transfer` operations (seed 003: the core of the transfer framework)."""

    kind = "transfer"
    together = MANY

    def __init__(self, services: Services) -> None:
        """Begin with nothing to sweep."""
        super().__init__(services)
        self._sweeper = Sweeper(services)
        self._paces = Paces(services.config)

    def perform(self, attempt: Attempt) -> Achieved:
        """Copy one file to its target, verified and landed."""
        attempt.pace = self._paces.of(attempt.file.operation.queue)
        self._sweeper.note(attempt.file.target)
        return self.services.manager.transfer(attempt)

    def perform_many(self, attempts: Sequence[Attempt]) -> Sequence[Achieved | Exception | None]:
        """Copy files to their target, the small ones together."""
        for attempt in attempts:
            attempt.pace = self._paces.of(attempt.file.operation.queue)
        self._sweeper.note(attempts[0].file.target)
        return self.services.manager.transfer_many(attempts)

    def run_once(self, wake: threading.Event | None = None) -> Counter[str]:
        """Work on requests, and now and then clear away what killed agents left."""
        summary = super().run_once(wake)
        if not self.draining:
            self._sweeper.sweep_if_due()
        return summary
