"""The builder's node and supervisor as programs: made of the site's configuration, ended by SIGTERM and SIGINT."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from dtscore.command import installed_version
from dtscore.config import Config
from dtscore.database import Database

KEPT_BY = "DTSRUN_PID"
"""Environment: the process that keeps this one running. When it is gone, so that nobody would stop us, we end."""


def run_node(config: Config) -> None:
    """Serve as this host's builder node until a signal; raises ConfigurationError and StateError when it cannot."""
    from imagebuilder.node import Node

    database = Database(config.database.url)
    try:
        node = Node(database, config.imagebuilder, config.site.node, software=_software(), run_folder=config.run.folder)
        _end_by_signals(node.stop)
        node.run()
    finally:
        database.close()


def run_supervisor(config: Config) -> None:
    """Serve as a supervisor until a signal; raises ConfigurationError when it cannot."""
    from imagebuilder.supervisor import Supervisor

    database = Database(config.database.url)
    try:
        supervisor = Supervisor(database, config.imagebuilder, config.site.node, software=_software())
        _end_by_signals(supervisor.stop)
        supervisor.run()
    finally:
        database.close()


def _software() -> str:
    return f"dts {installed_version()}"


def _end_by_signals(stop: Callable[[], None]) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if keeper := os.environ.get(KEPT_BY, ""):
        threading.Thread(target=_end_with, args=(int(keeper), stop), name="keeper", daemon=True).start()


def _end_with(keeper: int, stop: Callable[[], None]) -> None:
    while os.getppid() == keeper:
        time.sleep(0.5)
    stop()
