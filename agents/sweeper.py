"""Clearing away what killed agents left: temporary files of landings that nobody goes on with."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import structlog

from agents.services import Services
from dtscore.errors import DtsError
from storage.temporaries import sweep_temporaries

_FIRST_SECONDS = 3600.0
_AGAIN_SECONDS = 86400.0
_ABANDONED = timedelta(days=1)
"""No attempt goes for so long without writing a byte: its time-out, or its lease, has ended long before."""

log = structlog.get_logger()


class Sweeper:
    """Sweeps the elements on which this agent has landed files: an hour after its start, and then once a day."""

    def __init__(self, services: Services) -> None:
        """Begin with no element."""
        self._services = services
        self._landed: set[str] = set()
        self._due = time.monotonic() + _FIRST_SECONDS
        self._thread: threading.Thread | None = None

    def note(self, element: str) -> None:
        """Remember an element on which files are landed."""
        self._landed.add(element)

    def sweep_if_due(self) -> None:
        """Begin a sweep when it is time; it runs in a thread of its own, for listing an archive takes long."""
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and self._landed and time.monotonic() >= self._due:
            self._due = time.monotonic() + _AGAIN_SECONDS
            self._thread = threading.Thread(target=self.sweep, name="sweeper", daemon=True)
            self._thread.start()

    def sweep(self) -> int:
        """Remove temporary files that were not written for a day; return how many. Errors are logged, never raised."""
        swept = 0
        for name in sorted(self._landed):
            try:
                paths = sweep_temporaries(self._services.manager.element(name), "", _ABANDONED)
            except (DtsError, OSError) as error:
                log.warning("not swept", element=name, error=str(error))
                continue
            swept += len(paths)
            if paths:
                log.info("abandoned temporary files removed", element=name, files=len(paths), first=paths[0])
        return swept
