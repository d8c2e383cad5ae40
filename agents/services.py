"""What every agent is given: the configuration, the database, the storage elements and the replica manager."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog
from sqlalchemy.engine import Connection

from agents.replica_manager import ReplicaManager
from dtscore.config import Config
from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError
from dtscore.poke import poke
from reqdb.retry import RetryPolicy
from reqdb.store import Limits
from storage.registry import Elements

T = TypeVar("T")
log = structlog.get_logger()


class Services:
    """One site as its agents see it; made once in a process and closed at its end."""

    def __init__(self, config: Config) -> None:
        """Open nothing yet: the database and the storage elements connect when they are first used."""
        self.config = config
        self.node = config.site.node
        self.pid = os.getpid()
        self.database = Database(config.database.url)
        self.elements = Elements(config.elements)
        self.manager = ReplicaManager(self.elements, config)
        retry = config.retry
        self.policy = RetryPolicy(retry.attempts, retry.base, retry.longest, retry.outage_longest)

    def limits(self, source: str, target: str) -> Limits:
        """Return the limits that hold for a channel and its storage elements."""
        known = {name: self.config.elements[name].limit for name in (source, target) if name in self.config.elements}
        return Limits(self.config.channel(source, target).limit, known)

    def reachable(self, element: str) -> bool:
        """Return whether this node may work with a storage element: one pinned to another node it leaves alone."""
        settings = self.config.elements.get(element)
        return settings is None or settings.options.get("node", "") in ("", self.node)

    def poke(self, kinds: Iterable[str]) -> None:
        """Tell the agents on this host that there is work."""
        poke(self.config.run.folder, kinds)

    def persistently(self, work: Callable[[Connection], T], give_up: Callable[[], bool]) -> T:
        """Run `work` in a write transaction, again and again while the database is away, until `give_up()` is true."""
        return self._persistently(lambda: self.database.run(work), give_up)

    def persistently_reading(self, work: Callable[[Connection], T], give_up: Callable[[], bool]) -> T:
        """Run `work` on a reading connection, again and again while the database is away, until `give_up()` is true."""

        def read() -> T:
            with self.database.read() as connection:
                return work(connection)

        return self._persistently(read, give_up)

    def _persistently(self, work: Callable[[], T], give_up: Callable[[], bool]) -> T:
        pause = 0.2
        while True:
            try:
                return work()
            except DatabaseUnavailableError as error:
                if give_up():
                    raise
                log.warning("the database is away; trying again", error=error.message, pause=round(pause, 1))
                time.sleep(pause)
                pause = min(pause * 1.5, 2.0)

    def close(self) -> None:
        """Close connections to storage elements and the database."""
        self.elements.close()
        self.database.close()
