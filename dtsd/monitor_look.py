"""A look at the site while somebody watches: what agents have in their hands, the queues, what waits, the room left.

Agents on other hosts cannot reach this daemon's socket, but all write to the same database.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from sqlalchemy.engine import Connection

from dtscore.config import Config
from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError
from dtscore.monitoring import Field
from dtsd.monitor_board import Again, Board
from reqdb import backlog, fleet, queues
from reqdb.inwork import InWork, in_work

_EVERY = 2.0
Told = tuple[str, dict[str, Field]]
log = structlog.get_logger()


class Look:
    """Looks at a site's database now and then, only while somebody watches, and tells what has changed."""

    def __init__(self, board: Board, database: Callable[[], Database], config: Config, every: float = _EVERY) -> None:
        """Begin, in a thread of its own; `every` in seconds."""
        self._board, self._database, self._config, self._every = board, database, config, every
        self._told: dict[tuple[str, str], dict[str, Field]] = {}
        self._closing = threading.Event()
        self._away, self._again = False, Again()
        self._thread = threading.Thread(target=self._run, name="monitor-look", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(self._every):
            if not self._board.watched:
                continue
            try:
                self._tell(self._look())
                self._away = False
            except DatabaseUnavailableError as error:
                self._could_not_look(error.message)
            except Exception as error:
                if not self._away:
                    log.exception("a look at the site broke off; the next one tries again")
                self._could_not_look(f"{type(error).__name__}: {error}")

    def _could_not_look(self, why: str) -> None:
        """Tell it once, not each time."""
        if not self._away:
            self._board.tell("error", what="database", message=why)
        self._away = True

    def _look(self) -> list[Told]:
        with self._database().read() as connection:
            return list(look(connection, self._config))

    def _tell(self, told: list[Told]) -> None:
        """Tell what differs from the look before, and which transfers are no longer in anybody's hands."""
        now = {(event, str(fields["number" if event == "transfer" else "name"])): fields for event, fields in told}
        again = self._again()
        for (event, key), fields in now.items():
            if again or self._told.get((event, key)) != fields:
                self._board.tell(event, **fields)
        for event, key in self._told.keys() - now.keys():
            if event == "transfer":
                self._board.tell(event, number=key, state="gone")
        self._told = now

    def close(self) -> None:
        """End looking."""
        self._closing.set()
        self._thread.join(timeout=5.0)


def look(connection: Connection, config: Config) -> Iterator[Told]:
    """Give the events that say how a site stands: `site`, each `queue`, and a `transfer` for each file in work."""
    waiting = sum(channel.files for channel in backlog.ready_by_channel(connection))
    agents = fleet.agents(connection)
    yield "site", {
        "name": config.site.name, "free": _room(config.dtsd.root), "waiting": waiting,
        "working": sum(agent.files for agent in agents), "agents": len(agents),
        "queued": sum(backlog.queued_by_reason(connection).values()),
        "hung": sum(agent.condition != "ok" for agent in agents),
    }  # fmt: skip
    for queue in queues.stats(connection, config):
        yield "queue", _queue(queue)
    for one in in_work(connection):
        yield "transfer", _transfer(one)


def _room(root: Path) -> int | None:
    """Return the bytes that are free, to the nearest 16 MiB: a watcher need not hear of each block."""
    try:
        found = os.statvfs(root)
    except OSError:
        return None
    return (found.f_bavail * found.f_frsize) >> 24 << 24


def _queue(one: queues.QueueStat) -> dict[str, Field]:
    reasons = [one.state.reason, *(f"resting: {why}" for why in one.resting)]
    return {
        "name": one.state.name, "state": one.state.state, "reason": "; ".join(reason for reason in reasons if reason),
        "by": one.state.changed_by, "requests": one.requests, "waiting": one.queued + one.todo, "running": one.running,
        "failed": one.requests_failed, "bytes": one.bytes_left, "targets": one.targets,
    }  # fmt: skip


def _transfer(one: InWork) -> dict[str, Field]:
    return {
        "number": f"file-{one.file_id}", "path": one.lfn, "state": "running", "bytes": one.bytes_now, "size": one.size,
        "direction": one.type, "peer": one.target or one.source, "agent": one.agent,
    }  # fmt: skip
