"""The register agent: makes files known that lie on a storage element already."""

from __future__ import annotations

from agents.attempt import Achieved, Attempt
from agents.base import ClaimingAgent


class RegisterAgent(ClaimingAgent):
    """Works on `register` operations: reads the file whole, for nothing is registered without size and checksum."""

    kind = "register"

    def perform(self, attempt: Attempt) -> Achieved:
        """Read one file and register what was found."""
        return self.services.manager.register(attempt)
