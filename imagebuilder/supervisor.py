"""The supervisor: hands out exposure numbers and tells PANs which node takes an exposure. It keeps nothing by itself.

Everything it knows stands in the database: any number of supervisors may run, and each builder node answers the same
questions. A node is active while its heartbeat is fresh and it is not draining; an exposure stays with its node until
that node's heartbeat is stale, and then goes to the one with most free memory under the next assignment number.
"""

from __future__ import annotations

import threading

import structlog

from dtscore.config import ImageBuilderSettings
from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError
from imagebuilder import auth, nodes
from imagebuilder.clerk import Clerk
from imagebuilder.collector import Collector
from imagebuilder.labels import Mark
from imagebuilder.node import GRACE, PATIENCE
from imagebuilder.office import Office
from imagebuilder.session import Welcome

log = structlog.get_logger()


class Supervisor:
    """One supervisor; `run` serves until `stop`. `port` is where it listens."""

    def __init__(self, database: Database, settings: ImageBuilderSettings, name: str, *, software: str = "dts") -> None:
        """Listen; nothing is answered before `run`. Raises ConfigurationError (secret, peers, port)."""
        self._settings = settings
        secret, peers = auth.load_secret(settings.secret_file), auth.parse_networks(settings.peers)
        self._clerk = Clerk(database, PATIENCE)
        office = Office(self._clerk, name, settings.cameras, Mark(settings.numbers_file), settings.stale)
        welcome = Welcome(name, secret, software, settings.block, settings.idle)
        self._collector = Collector(settings.host, settings.supervisor_port, peers, welcome, office)
        self.port = self._collector.port
        self._stopping = False
        self._states: dict[str, str] = {}

    def run(self) -> None:
        """Serve until `stop`."""
        log.info("a supervisor serves", port=self.port)
        self._collector.start()
        try:
            while not self._stopping:
                self._watch()
                self._clerk.work(min(1.0, self._settings.heartbeat))
        finally:
            closing = threading.Thread(target=self._collector.close, args=(GRACE,), name="closing")
            closing.start()
            while closing.is_alive():
                self._clerk.work(0.02)
            log.info("a supervisor has ended", port=self.port)

    def stop(self) -> None:
        """Have `run` return; from any thread or a signal handler."""
        self._stopping = True
        self._clerk.wake()

    def _watch(self) -> None:
        """Log which node came, drains or died: the exposures of a dead one go to others when their PANs ask."""
        try:
            lines = self._clerk.read(nodes.listing)
        except DatabaseUnavailableError as error:
            log.warning("the supervisor cannot see the nodes", error=error.message)
            return
        for line in lines:
            state = line.state if line.age <= self._settings.stale else "dead"
            if self._states.get(line.node) not in (None, state) or (state == "dead" and line.node not in self._states):
                say = log.warning if state == "dead" else log.info
                say("a node's state has changed", node=line.node, state=state, exposures=list(line.exposures))
            self._states[line.node] = state
