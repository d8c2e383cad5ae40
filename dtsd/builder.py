"""The image builder as part of a site: its programs beside the agents of `dts run`, and what the doctor says of it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import structlog
from sqlalchemy.engine import Connection

from dtscore.config import Config
from dtscore.errors import DtsError, StateError
from dtscore.units import show_size
from dtsd.health import Finding
from imagebuilder import cache, exposures, nodes
from imagebuilder.auth import load_secret
from imagebuilder.serving import KEPT_BY

_PATIENCE = 10.0
"""Seconds that a program has to end by itself."""

_LONGEST_PAUSE = 30.0
log = structlog.get_logger()


def make_secret(path: Path) -> None:
    """Write a new secret of 32 random bytes into a file of mode 0600, unless it is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{secrets.token_urlsafe(32)}\n")


class Programs:
    """The node and the supervisor of this host in processes of their own: none of them shares an agent's death."""

    def __init__(self, config: Config) -> None:
        """Choose what the configuration asks for; nothing is started yet."""
        settings = config.imagebuilder
        chosen = {"node": settings.node, "supervisor": settings.supervisor}
        self._watches = [_Watch(name, config.path) for name, wanted in chosen.items() if wanted]

    def start(self) -> None:
        """Start them, each in a thread that starts it again whenever it ends."""
        for watch in self._watches:
            watch.start()

    def stop(self) -> None:
        """End them: SIGTERM, and SIGKILL for what has not ended after ten seconds."""
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            watch.join(2 * _PATIENCE)


class _Watch(threading.Thread):
    """Keeps one program running."""

    def __init__(self, name: str, config: Path) -> None:
        super().__init__(name=f"watch-{name}", daemon=True)
        self._command = [sys.executable, "-m", "dtsd.ib", "--config", str(config), name]
        self._program = name
        self._stopping = threading.Event()

    def run(self) -> None:
        """Start the program again, after a longer and longer pause, until `stop`."""
        pause = 0.5
        while not self._stopping.is_set():
            begun = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            pause = 0.5 if time.monotonic() - begun > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)
            log.error("a program of the image builder ended; it is started again", name=self._program, code=code,
                      pause=pause)  # fmt: skip
            self._stopping.wait(pause)

    def _run_once(self) -> int:
        """Run the program to its end, which is brought about when we are to stop; return its exit code."""
        # Its signals are ours to send: Ctrl-C in a terminal would reach the whole group.
        environment = {**os.environ, KEPT_BY: str(os.getpid())}
        with subprocess.Popen(self._command, process_group=0, env=environment) as process:
            while process.poll() is None and not self._stopping.wait(0.2):
                pass
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
        return process.returncode

    def stop(self) -> None:
        """Have the program end."""
        self._stopping.set()


def findings(connection: Connection, config: Config) -> Iterator[Finding]:
    """Say how the nodes, the exposures and this host's shared memory are; orphan pages that nobody wants are freed."""
    settings = config.imagebuilder
    listed = nodes.listing(connection)
    yield from _pages(connection, settings.cache_folder)
    if not (listed or settings.node or settings.supervisor):
        yield "ok", "no image builder here", ""
        return
    if settings.node or settings.supervisor:
        yield from _secret(settings.secret_file)
    if settings.node and config.site.node not in [line.node for line in listed]:
        yield "fail", f"this host's node {config.site.node} has never reported", "start it: dts run, or dts-ib node"
    for line in listed:
        yield _node(line, settings.stale)
    yield from _exposures(connection)


def _secret(path: Path) -> Iterator[Finding]:
    try:
        load_secret(path)
    except DtsError as error:
        yield "fail", error.message, error.hint


def _node(line: nodes.NodeLine, stale: float) -> Finding:
    if line.age > stale:
        sentence = f"the builder node {line.node} is dead: its last heartbeat was {line.age:.0f} s ago"
        return "warn", sentence, f"start it again (dts-ib node), or: dts-ib drain {line.node} --forget"
    drains = ", it drains and takes no new exposure" if line.draining else ""
    held = f", {len(line.exposures)} exposures in hand" if line.exposures else ""
    return "ok", f"the builder node {line.node} has {line.free} of {line.pages} pages free{held}{drains}", ""


def _exposures(connection: Connection) -> Iterator[Finding]:
    counts = exposures.count_states(connection)
    partial = counts.get(exposures.ExposureState.PARTIAL, 0)
    if partial:
        are = "exposures lack" if partial != 1 else "exposure lacks"
        yield "warn", f"{partial} {are} detectors", "see: dts-ib exposures --state Partial"
    waiting = exposures.waiting(connection)
    if waiting:
        numbers = ", ".join(str(number) for number in waiting[:5]) + (", …" if len(waiting) > 5 else "")
        yield "warn", f"exposures wait for their files to be built: {numbers}", "see: dts-ib show EXPOSURE"


def _pages(connection: Connection, folder: Path) -> Iterator[Finding]:
    """Free the shared memory that a dead node left, unless there are pixels in it that are in no file yet."""
    if not folder.is_dir():
        return
    try:
        orphans = cache.orphans(folder)
        wanted = exposures.wanted_pages(connection, [(one.exposure, one.assignment, one.detector) for one in orphans])
        if wanted:
            numbers = ", ".join(str(number) for number in sorted({page[0] for page in wanted}))
            sentence = f"{len(wanted)} pages in {folder} belong to no node that is alive, and hold exposures {numbers}"
            yield "warn", sentence, "start the node, which takes them over: dts run, or dts-ib node"
            return
        size = sum(path.stat().st_size for path in folder.iterdir())
        cache.remove_orphans(folder)
    except StateError:
        return  # a node is alive there, and they are its own
    except OSError as error:
        yield "warn", f"the frame cache {folder} cannot be looked at: {error}", "check its owner"
        return
    if size:
        yield "ok", f"{show_size(size)} of shared memory that a dead node had left in {folder} were freed", ""
