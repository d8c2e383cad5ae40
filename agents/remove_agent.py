"""The remove agent: removes replicas, and empties the trash of the storage elements."""

from __future__ import annotations

import threading
from collections import Counter

from agents.attempt import Achieved, Attempt
from agents.base import ClaimingAgent
from agents.remover import Remover
from agents.services import Services
from agents.trash import empty_trash


class RemoveAgent(ClaimingAgent):
    """Works on `remove` operations; never removes the last good copy unless the request says so in as many words."""

    kind = "remove"

    def __init__(self, services: Services) -> None:
        """Take the grace of the trash from the configuration."""
        super().__init__(services)
        self._remover = Remover(services.manager, services.database, services.config.trash.grace, services.config)

    def perform(self, attempt: Attempt) -> Achieved:
        """Remove one replica, or all replicas of one file."""
        return self._remover.remove(attempt)

    def run_once(self, wake: threading.Event | None = None) -> Counter[str]:
        """Work on requests, then unlink what has been in the trash long enough."""
        summary = super().run_once(wake)
        if not self.draining and (purged := empty_trash(self.services, lambda: self.draining)):
            summary["purged"] = purged
        return summary
