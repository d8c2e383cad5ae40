"""`make torture`: all drills with the counts of the short column, or with `--long` those of the long one.

`--only WORD` runs the drills whose names hold the word; `--report FILE` appends each result as a line of JSON, so that
a long run that is cut off has told what it did.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from dtscore.database import Database
from dtsd.drills import flip, kill, powercut
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite
from tests import services
from tests.services import PostgresServer, SshServer, create_tables
from tests.torture import clock, frozen, fuzz, outages, postgres, wire
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


def _frozen(folder: Path, seed: int, long: bool) -> Result:
    return frozen.run(folder, 500 if long else 20, seed=seed)


def _flip(folder: Path, seed: int, long: bool) -> Result:
    return flip.run(DrillSite(folder), 1_700 if long else 70, seed=seed)


def _wire(folder: Path, seed: int, long: bool) -> Result:
    with _sshd() as server:
        return wire.run(folder, 500 if long else 50, server, seed=seed)


def _steps(folder: Path, seed: int, long: bool) -> Result:
    folder.mkdir()
    return Steps(folder, seed).run()


def _steps_sftp(folder: Path, seed: int, long: bool) -> Result:
    folder.mkdir()
    with _sshd() as server:
        target = {"name": "archive", "options": sftp_options(server), "root": str(server.root)}
        return Steps(folder, seed, elements=target).run(("signal=SIGKILL", "error=EIO"))


def _postgres(folder: Path, seed: int, long: bool) -> Result:
    return postgres.run(folder, 100 if long else 3, seed=seed)


def _cut(folder: Path, seed: int, long: bool) -> Result:
    folder.mkdir()
    return powercut.run(folder, 3_000 if long else 100, seed=seed)


def _clock(folder: Path, seed: int, long: bool) -> Result:
    folder.mkdir()
    return clock.run(folder)


def _outage(kind: str) -> Drill:
    def drill(folder: Path, seed: int, long: bool) -> Result:
        folder.mkdir()
        return outages.run(kind, folder, seconds=10, seed=seed, times=50 if long else 1)

    return drill


def _xml(_folder: Path, _seed: int, long: bool) -> Result:
    return fuzz.hostile(1_000_000 if long else 2_000)


def _states(folder: Path, _seed: int, long: bool) -> Result:
    folder.mkdir()
    url = f"sqlite:///{folder}/dts.db"
    create_tables(url)
    return fuzz.histories(Database(url), *((5_000, 100) if long else (200, 40)))


def _states_postgres(_folder: Path, _seed: int, long: bool) -> Result:
    server = PostgresServer()
    try:
        server.make_template()
        return fuzz.histories(Database(server.make_database()), *((5_000, 100) if long else (200, 40)))
    finally:
        server.remove()


DRILLS: dict[str, Drill] = {
    "kill-file": _kill, "kill-sftp": _kill_sftp, "frozen": _frozen, "flip": _flip, "wire": _wire,
    "steps-file": _steps, "steps-sftp": _steps_sftp, **{f"outage-{kind}": _outage(kind) for kind in outages.KINDS},
    "postgres": _postgres, "cut": _cut, "clock": _clock, "xml": _xml, "states-sqlite": _states,
    "states-postgres": _states_postgres,
}  # fmt: skip


def main() -> int:
    """Run the drills and print a line for each; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--report", type=Path)
    chosen = parser.parse_args()
    sys.stdout.write(f"{platform.platform()}, {os.cpu_count()} cores, seed {chosen.seed}\n")
    failed = False
    for name, drill in DRILLS.items():
        if chosen.only in name:
            result = _run(name, drill, chosen.seed, chosen.long)
            failed = failed or bool(result.failures)
            _tell(name, result, chosen.report)
    return 1 if failed else 0


def _run(name: str, drill: Drill, seed: int, long: bool) -> Result:
    folder = Path(tempfile.mkdtemp(prefix=f"dts-torture-{name}-"))
    try:
        result = drill(folder / "drill", seed, long)
    except Exception as error:  # the other drills still run
        return Result(name, "drills", 0, (f"the drill broke off: {type(error).__name__}: {error}", str(folder)), 0.0)
    if result.failures:
        return result
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _tell(name: str, result: Result, report: Path | None) -> None:
    facts = ", ".join(f"{key}: {value}" for key, value in result.facts.items())
    sys.stdout.write(f"{name}: {result.proves} [{result.seconds:.0f} s; {facts}]\n")
    sys.stdout.writelines(f"  {failure}\n" for failure in result.failures[:20])
    sys.stdout.flush()
    if report is not None:
        line = {"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "name": name, **result.as_dict()}
        with report.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
