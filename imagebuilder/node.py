"""A builder node: takes pixels from PANs into shared memory and keeps the database informed.

`Node.run` is the clerk's thread, the only one that talks to the database: it does what the sessions ask and, at each
tick, sends the heartbeat, tells which frames are whole, frees what is saved and gives up what another node has now.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy.engine import Connection

from dtscore.config import ImageBuilderSettings
from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError, NotFoundError, StateError
from dtscore.poke import Listener, poke
from imagebuilder import auth, exposures, nodes
from imagebuilder.cache import FrameCache
from imagebuilder.clerk import Clerk
from imagebuilder.collector import Collector
from imagebuilder.desk import Desk
from imagebuilder.intake import forget_frames, settle
from imagebuilder.labels import Mark
from imagebuilder.office import Office
from imagebuilder.records import NodeStatus, ReceivedFrame, SavedFile
from imagebuilder.session import Welcome

PATIENCE = 15.0
"""Seconds that a PAN's question waits for the database before it is told to try again."""
GRACE = 10.0
"""Seconds in which connections may end the frame they are at when the node stops."""
POKED = "exposure"
"""The kind of the poke that tells the exposure agent that frames are whole."""
_FORGET = 600.0
"""Seconds without a sender or a block after which broken off frames are given up: the PAN sends them again."""
_FEWEST_SECONDS = 0.02
"""Between two ticks: pokes come with every file of the site."""
log = structlog.get_logger()


class Node:
    """One builder node; `run` serves until `stop`. `port` is where it listens."""

    def __init__(
        self, database: Database, settings: ImageBuilderSettings, name: str, *, software: str = "dts",
        run_folder: Path | None = None, forget: float = _FORGET,
    ) -> None:  # fmt: skip
        """Take the cache, adopt what it holds, and listen; nothing is answered before `run`.

        In `run_folder` pokes are heard and sent. Raises ConfigurationError (secret, peers, port, room for the cache)
        and StateError (another node uses the cache).
        """
        self._settings, self._name, self._software = settings, name, software
        self._run_folder, self._forget = run_folder, forget
        secret, peers = auth.load_secret(settings.secret_file), auth.parse_networks(settings.peers)
        self._clerk = Clerk(database, PATIENCE)
        self._mark = Mark(settings.numbers_file)
        self._office = Office(self._clerk, name, settings.cameras, self._mark, settings.stale)
        self._office.on_whole, self._office.run_folder = self._poke, run_folder
        self._stopping = False
        self._beaten_at = float("-inf")
        self._database_away = False
        self._desk = Desk(FrameCache(settings.cache_folder, settings.page, settings.pages))
        welcome = Welcome(name, secret, software, settings.block, settings.idle)
        try:
            self._collector = Collector(settings.host, settings.port, peers, welcome, self._office, self._desk)
        except BaseException:
            self._desk.close()
            raise
        self.port = self._collector.port

    def run(self) -> None:
        """Serve until `stop`, then end in good order: frames half received stay in the cache for the next node."""
        log.info("a builder node serves", node=self._name, port=self.port, pages=self._settings.pages)
        listener = self._listen()
        self._collector.start()
        try:
            while not self._stopping:
                self._try_tick()
                self._clerk.work(min(1.0, self._settings.heartbeat))
                time.sleep(_FEWEST_SECONDS)
        finally:
            self._end()
            if listener is not None:
                listener.close()
            log.info("a builder node has ended", node=self._name)

    def stop(self) -> None:
        """Have `run` return; from any thread or a signal handler."""
        self._stopping = True
        self._clerk.wake()

    def _listen(self) -> Listener | None:
        if self._run_folder is None:
            return None
        try:
            return Listener(self._run_folder, lambda _kinds: self._clerk.wake())
        except OSError as error:
            log.warning("pokes are not heard", folder=str(self._run_folder), error=str(error))
            return None

    def _poke(self) -> None:
        if self._run_folder is not None:
            poke(self._run_folder, [POKED])

    def _end(self) -> None:
        """Let the sessions end; those that wait for the database are still served."""
        closing = threading.Thread(target=self._collector.close, args=(GRACE,), name="closing")
        closing.start()
        while closing.is_alive():
            self._clerk.work(0.02)
        self._try_tick()
        self._desk.close()

    def _try_tick(self) -> None:
        try:
            self._tick()
            if self._database_away:
                log.info("the database is back", node=self._name)
            self._database_away = False
        except DatabaseUnavailableError as error:
            if not self._database_away:
                log.warning("the database is away; pixels are received all the same", error=error.message)
            self._database_away = True
        except Exception:
            log.exception("a tick of the node broke off; the next one tries again", node=self._name)

    def _tick(self) -> None:
        self._desk.sweep()
        if time.monotonic() - self._beaten_at >= self._settings.heartbeat:
            self._beat()
        self._report()
        self._look()
        self._give_up_forgotten()
        self._collector.tell_changed()

    def _beat(self) -> None:
        """Write the heartbeat, and learn whether to take new exposures."""
        begun = time.monotonic()
        held = tuple(sorted(self._desk.exposures))
        highest = max((self._mark.read(), *held))
        self._mark.raise_to(highest)
        settings = self._settings
        status = NodeStatus(
            self._name, settings.address, self.port, settings.pages, self._desk.free, settings.page, held,
            self._desk.active(2 * settings.heartbeat), highest, self._software,
        )  # fmt: skip
        drains = self._clerk.run(lambda connection: nodes.beat(connection, status))
        if drains != self._office.draining:
            log.info("the node drains" if drains else "the node takes exposures again", node=self._name)
        self._office.draining = drains
        self._beaten_at = begun

    def _report(self) -> None:
        """Tell the database which frames are whole, where no END of a PAN has done so."""
        for exposure, frames in self._desk.unreported().items():
            assignment = self._desk.exposures.get(exposure, 0)
            try:
                self._clerk.run(partial(_received, exposure=exposure, assignment=assignment, frames=frames))
            except (StateError, NotFoundError) as error:
                self._desk.give_up(exposure, "not-here", error.message)
                continue
            self._desk.reported(exposure, frames)
            self._poke()

    def _look(self) -> None:
        """Free what is saved, and give up what is no longer this node's."""
        held = self._desk.exposures
        if not held:
            return

        def look(connection: Connection) -> tuple[list[SavedFile], dict[int, tuple[str, int]]]:
            numbers = list(held)
            return exposures.saved_files(connection, numbers), exposures.current(connection, numbers)

        saved, current = self._clerk.read(look)
        for one in saved:
            self._desk.saved(one)
        for exposure, assignment in held.items():
            if current.get(exposure) != (self._name, assignment):
                holder, number = current.get(exposure, ("nobody", 0))
                self._desk.give_up(exposure, "not-here", f"{holder} has it now, under assignment {number}")

    def _give_up_forgotten(self) -> None:
        for exposure, assignment in self._desk.forgotten(self._forget):

            def forget(connection: Connection, number: int = exposure, ours: int = assignment) -> None:
                if exposures.current(connection, [number]).get(number) == (self._name, ours):
                    forget_frames(connection, number)
                    settle(connection, number)

            self._clerk.run(forget)
            self._desk.give_up(exposure, "not-here", f"nothing came for {self._forget:g} s")
            log.warning("frames that broke off are given up; the PAN sends them again", exposure=exposure)


def _received(connection: Connection, exposure: int, assignment: int, frames: Sequence[ReceivedFrame]) -> None:
    exposures.received(connection, exposure, assignment, frames)
