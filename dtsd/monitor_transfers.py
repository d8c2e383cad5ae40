"""The daemon's own transfers as events: looked at while somebody watches, so that a transfer does nothing for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from dtscore.monitoring import Field
from dtsd.monitor_board import Again, Board

_EVERY = 0.5
_DIRECTIONS = {"push": "receive", "give": "receive", "pull": "send", "take": "send"}
Statuses = Callable[[], Sequence[Mapping[str, Any]]]
log = structlog.get_logger()


class TransferLook:
    """Tells each transfer that runs, when it moved on, and each end."""

    def __init__(self, board: Board, statuses: Statuses, every: float = _EVERY) -> None:
        """Begin, in a thread of its own; `statuses` gives those of all transfers, `every` is in seconds."""
        self._board, self._statuses, self._every = board, statuses, every
        self._told: dict[int, dict[str, Field]] = {}
        self._begun, self._again = False, Again()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor-transfers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(self._every):
            self._try()
        self._try()  # what the daemon's end did to them

    def _try(self) -> None:
        try:
            self.look()
        except Exception:
            log.exception("a look at the transfers broke off; the next one tries again")

    def look(self) -> None:
        """Tell what has changed; what had ended before anybody watched is not told."""
        if not self._board.watched:
            self._begun = False
            return
        again = self._again()
        now = {int(status["number"]): event_of(status) for status in self._statuses()}
        for number, fields in now.items():
            runs = fields["state"] == "running"
            is_old = not self._begun and number not in self._told and not runs
            if (self._told.get(number) != fields and not is_old) or (runs and again):
                self._board.tell("transfer", **fields)
        self._told, self._begun = now, True

    def close(self) -> None:
        """Look once more, and end."""
        self._closing.set()
        self._thread.join(timeout=5.0)


def event_of(status: Mapping[str, Any]) -> dict[str, Field]:
    """Return the fields of a `transfer` event from the status that the daemon's methods give."""
    kind, state = str(status["kind"]), str(status["state"]).lower()
    error = f"{status['message']} [{status['error']}]" if status["error"] else None
    return {
        "number": int(status["number"]), "path": str(status["path"]), "state": state, "bytes": int(status["moved"]),
        "size": int(status["size"]) or None, "direction": _DIRECTIONS.get(kind, kind), "peer": str(status["peer"]),
        "user": str(status["user"]), "streams": int(status["streams"]),
        "rate": None if state == "running" else int(status["rate"]), "error": error,
    }  # fmt: skip
