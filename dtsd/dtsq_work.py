"""The work behind dtsq: the agents that its requests need, run in this process until the requests have ended.

It needs nothing else to run on the host; where agents of the site run as well, whoever claims a file first moves it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from agents import runner
from dtscore import logging
from dtscore.config import Config, load
from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError, DtsError
from dtsd.dtsq_records import Records
from dtsd.dtsq_settle import Settler
from dtsd.dtsq_slots import WORKER, Slots, start_child

KINDS = ("import", "transfer", "register", "verify", "remove", "deliver", "forward")
"""The agents that the request of a queue may need."""

_LOOK_SECONDS = 0.2
_LINGER_SECONDS = 2.0
"""How long the child stays when all is done: the next file often comes soon."""

log = structlog.get_logger()


def work_for_all(place: str) -> int:
    """Work, under the lock of the one that works, until nothing has been left for a moment; return the exit code."""
    config = load(Path(place))
    logging.set_up(config.log.level, config.log.format, config.log.file)
    try:
        _run_agents(config, lambda: False, _LINGER_SECONDS)
    except DtsError as error:
        log.error("dtsq cannot work; the requests stay", error=error.message, hint=error.hint)
        return error.exit_code
    return 0


def work_for_one(config: Config, name: str) -> None:
    """Work until one request has ended, or wait for those that do; what else is left goes to a child."""
    records, slots = Records(config.dtsq.folder), Slots(config.dtsq.folder)
    while records.is_pending(name):
        if not slots.take(WORKER):
            time.sleep(_LOOK_SECONDS / 2)
            continue
        try:
            _run_agents(config, lambda: not records.is_pending(name), 0.0)
        finally:
            slots.leave(WORKER)
    slots.close()
    if records.has_pending():
        start_child(config.path, config.dtsq.folder)


def _run_agents(config: Config, is_over: Callable[[], bool], linger: float) -> None:
    """Run agents until it is over, or nothing has been left for `linger` seconds, or a signal says to drain."""
    agents = runner.Runner(config, [kind for kind in KINDS if kind in runner.AGENTS])
    agents.handle_signals()
    watcher = _Watcher(config, is_over, linger, agents.stop)
    watcher.start()
    try:
        agents.run()
    finally:
        watcher.close()
    _sweep_spool(config)


class _Watcher(threading.Thread):
    """Settles requests that have ended, and stops the agents when none is left."""

    def __init__(self, config: Config, is_over: Callable[[], bool], linger: float, stop: Callable[[], None]) -> None:
        super().__init__(name="dtsq", daemon=True)
        self._config, self._is_over, self._linger, self._stop = config, is_over, linger, stop
        self._closing = threading.Event()

    def run(self) -> None:
        database = Database(self._config.database.url)
        settler = Settler(self._config, database)
        quiet_since = time.monotonic()
        while not self._closing.wait(_LOOK_SECONDS):
            if _settled(settler):
                quiet_since = time.monotonic()
            if self._is_over() or time.monotonic() - quiet_since > self._linger + _LOOK_SECONDS:
                break
        self._stop()
        database.close()

    def close(self) -> None:
        self._closing.set()
        self.join(timeout=10.0)


def _settled(settler: Settler) -> int:
    """Settle what has ended; return how many requests are left, 1 while nobody can tell."""
    try:
        return settler.settle()
    except (DtsError, OSError) as error:
        log.warning("the next look settles what has ended", error=str(error))
        return 1


def _sweep_spool(config: Config) -> None:
    """Let request files whose requests have ended leave the spool's Running/."""
    try:
        runner.once(config, ("import",))
    except DatabaseUnavailableError as error:
        log.warning("request files stay in the spool for now", error=error.message)
