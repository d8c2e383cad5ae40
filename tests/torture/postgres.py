"""The database drill: PostgreSQL is killed with -9, all its processes at once, under load, and started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from dtsd.drills.launcher import Child, Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, wait_until
from tests.services import PostgresServer

_FILES = 100
_LAZY = ("wal_writer_delay=10s", "wal_writer_flush_after=1GB", "wal_buffers=64MB", "autovacuum=off")
"""Nothing but a commit that waits for the disk writes the log: one that does not is lost by the next kill."""


def run(folder: Path, kills: int, *, seed: int, program: Sequence[str] = ()) -> Result:
    """Kill the server so many times while two agents work; after the first failure no more."""
    begun = time.monotonic()
    failures: list[str] = []
    server = PostgresServer(durable=True, settings=_LAZY)
    done = 0
    try:
        site = DrillSite(folder, server.make_database(empty=True), {"agents.lease": "3 s"})
        with Launcher(program) as launcher:
            for _ in range(2):
                launcher.agent(site.config)
            chance = random.Random(seed)
            while done < kills and not failures:
                _kill_under_load(site, server, chance, done)
                failures += [f"kill {done}: {finding}" for finding in site.check(ended=False)]
                done += 1
            if not failures and not wait_until(lambda: site.open_files() == 0, 30, 0.1):
                failures.append(f"lost: {site.open_files()} files were not done 30 s after the last kill")
        failures += site.check()
    finally:
        server.remove()
    facts = {"files": done * _FILES, "acknowledged before a kill": len(site.acknowledged), "seed": seed}
    return Result("PostgreSQL killed", "kills", done, tuple(failures), time.monotonic() - begun, facts)


def _kill_under_load(site: DrillSite, server: PostgresServer, chance: random.Random, number: int) -> None:
    names = [f"k{number:03d}/f{one:04d}" for one in range(_FILES)]
    done = site.acknowledge() + chance.randint(1, _FILES // 2)
    site.submit(site.make(names, chance, (1, 100_000)))
    wait_until(lambda: site.acknowledge() >= done, 10, 0.002)
    kill_all(server)
    if not wait_until(lambda: _started(server), 60, 0.2):
        raise RuntimeError("PostgreSQL did not start again")


def kill_all(server: PostgresServer) -> None:
    """Kill the server and its children at once: stopped first, so that none writes on while the others die."""
    parent = server.process.pid
    server.process.send_signal(signal.SIGSTOP)
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            Child(int(word)).send(signal.SIGKILL)
    server.process.kill()
    server.process.wait()


def _started(server: PostgresServer) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(server.folder / "data" / "postmaster.pid")
    try:
        server.start()
    except RuntimeError:
        return False
    return True
