"""The transfer agent: puts local files and replicates between storage elements, registered where they land."""

from __future__ import annotations

from agents.attempt import Achieved, Attempt
from agents.base import ClaimingAgent


class TransferAgent(ClaimingAgent):
    """Works on `transfer` operations (seed 003: the core of the transfer framework)."""

    kind = "transfer"

    def perform(self, attempt: Attempt) -> Achieved:
        """Copy one file to its target, verified and landed."""
        return self.services.manager.transfer(attempt)
