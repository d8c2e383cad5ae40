"""The drills of `make torture` by name, each with its short and its long count."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dtscore.database import Database
from dtsd.drills import flip, kill, powercut
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite
from tests import services
from tests.services import PostgresServer, SshServer, create_tables
from tests.torture import arguments, clock, daemons, exposures, frozen, fuzz, link, moments, outages, postgres, wire
from tests.torture.serversteps import ServerSteps
from tests.torture.steps import Steps

Drill = Callable[[Path, int, bool], Result]


@contextmanager
def _sshd() -> Iterator[SshServer]:
    server = services.start_sshd()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@contextmanager
def _postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.make_template()
        yield server
    finally:
        server.remove()


def sftp_options(server: SshServer) -> dict[str, str]:
    """Return the options of an element on a server."""
    return {
        "type": "sftp", "host": server.host, "port": str(server.port), "user": server.user, "root": str(server.root),
        "key_file": str(server.key), "known_hosts": str(server.known_hosts),
    }  # fmt: skip


def _kill(folder: Path, seed: int, long: bool) -> Result:
    return kill.run(DrillSite(folder), 30_000 if long else 2_000, 3_000 if long else 200, seed=seed)


def _kill_sftp(folder: Path, seed: int, long: bool) -> Result:
    with _sshd() as server:
        site = DrillSite(folder, "", {}, {"archive": sftp_options(server)}, {"archive": server.root})
        return kill.run(site, 30_000 if long else 2_000, 3_000 if long else 200, seed=seed)


def _kill_postgres(folder: Path, seed: int, long: bool) -> Result:
    with _postgres_server() as server:
        site = DrillSite(folder, server.make_database(empty=True))
        return kill.run(site, 30_000 if long else 2_000, 3_000 if long else 200, seed=seed)


def _daemons(folder: Path, seed: int, long: bool) -> Result:
    return daemons.run(folder, 100 if long else 10, seed=seed)


def _moments(folder: Path, seed: int, _long: bool) -> Result:
    return moments.run(folder, seed=seed)


def _frozen(folder: Path, seed: int, long: bool) -> Result:
    return frozen.run(folder, 500 if long else 20, seed=seed, stages=(*frozen.STAGES, "renaming"))


def _frozen_sftp(folder: Path, seed: int, long: bool) -> Result:
    with _sshd() as server:
        target = (sftp_options(server), server.root)
        stages = (*frozen.STAGES, "renaming there")
        return frozen.run(folder, 500 if long else 20, seed=seed, target=target, stages=stages)


def _frozen_postgres(folder: Path, seed: int, long: bool) -> Result:
    with _postgres_server() as server:
        url = server.make_database(empty=True)
        return frozen.run(folder, 500 if long else 20, seed=seed, url=url, stages=(*frozen.STAGES, "renaming"))


def _flip(folder: Path, seed: int, long: bool) -> Result:
    return flip.run(DrillSite(folder), 1_700 if long else 70, seed=seed)


def _wire(folder: Path, seed: int, long: bool) -> Result:
    with _sshd() as server:
        return wire.run(folder, 500 if long else 50, server, seed=seed)


def _steps(folder: Path, seed: int, _long: bool) -> Result:
    folder.mkdir()
    return Steps(folder, seed).run()


def _steps_sftp(folder: Path, seed: int, _long: bool) -> Result:
    folder.mkdir()
    with _sshd() as server:
        target = {"name": "archive", "options": sftp_options(server), "root": str(server.root)}
        return Steps(folder, seed, elements=target).run()


def _steps_server(folder: Path, seed: int, _long: bool) -> Result:
    folder.mkdir()
    return ServerSteps(folder, seed).run()


def _postgres(folder: Path, seed: int, long: bool) -> Result:
    return postgres.run(folder, 100 if long else 3, seed=seed)


def _cut(folder: Path, seed: int, long: bool) -> Result:
    folder.mkdir()
    return powercut.run(folder, 3_000 if long else 100, seed=seed)


def _clock(folder: Path, _seed: int, _long: bool) -> Result:
    folder.mkdir()
    return clock.run(folder)


def _outage(kind: str) -> Drill:
    def drill(folder: Path, seed: int, long: bool) -> Result:
        folder.mkdir()
        return outages.run(kind, folder, seconds=10, seed=seed, times=50 if long else 1)

    return drill


def _xml(_folder: Path, _seed: int, long: bool) -> Result:
    return fuzz.hostile(1_000_000 if long else 2_000)


def _arguments(folder: Path, seed: int, long: bool) -> Result:
    return arguments.run(folder, 100_000 if long else 2_000, seed=seed)


def _states(folder: Path, _seed: int, long: bool) -> Result:
    folder.mkdir()
    url = f"sqlite:///{folder}/dts.db"
    create_tables(url)
    return fuzz.histories(Database(url), *((5_000, 100) if long else (200, 40)))


def _states_postgres(_folder: Path, _seed: int, long: bool) -> Result:
    with _postgres_server() as server:
        return fuzz.histories(Database(server.make_database()), *((5_000, 100) if long else (200, 40)))


def _link(folder: Path, seed: int, long: bool) -> Result:
    return link.run(folder, (2 << 30) if long else (256 << 20), 100, seed=seed)


def _camera(folder: Path, seed: int, long: bool) -> Result:
    return exposures.run(folder, 600 if long else 60, 2_000 if long else 200, seed=seed)


def _frames(_folder: Path, _seed: int, long: bool) -> Result:
    return exposures.frames(1_000_000 if long else 100_000)


DRILLS: dict[str, Drill] = {
    "kill-file": _kill, "kill-sftp": _kill_sftp, "kill-postgres": _kill_postgres,
    "daemons": _daemons, "moments": _moments,
    "frozen-file": _frozen, "frozen-sftp": _frozen_sftp, "frozen-postgres": _frozen_postgres,
    "flip": _flip, "wire": _wire, "link": _link,
    "steps-file": _steps, "steps-sftp": _steps_sftp, "steps-server": _steps_server,
    **{f"outage-{kind}": _outage(kind) for kind in outages.KINDS},
    "postgres": _postgres, "cut": _cut, "clock": _clock, "xml": _xml, "arguments": _arguments,
    "states-sqlite": _states, "states-postgres": _states_postgres,
    "camera": _camera, "frames": _frames,
}  # fmt: skip
