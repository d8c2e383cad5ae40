"""The verify agent: reads replicas again and compares them with the catalog."""

from __future__ import annotations

from agents.attempt import Achieved, Attempt
from agents.base import ClaimingAgent


class VerifyAgent(ClaimingAgent):
    """Works on `verify` operations."""

    kind = "verify"

    def perform(self, attempt: Attempt) -> Achieved:
        """Read one replica, or all replicas of one file."""
        return self.services.manager.verify(attempt)
