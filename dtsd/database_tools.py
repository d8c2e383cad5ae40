"""Keeping the request database: a verified backup while agents go on working, and a check of its state."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import migrations
from dtscore.database import Database
from dtscore.errors import ConfigurationError, DtsError, StateError


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup: its file, its bytes, and how it was verified."""

    path: Path
    size: int
    verified: str


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What `dts db check` says: the revisions, those to run, and what SQLite's own check found ('ok' if nothing)."""

    url: str
    current: str
    head: str
    pending: tuple[str, ...]
    integrity: str

    @property
    def is_good(self) -> bool:
        """Tell whether nothing needs to be done."""
        return not self.pending and self.integrity == "ok"


def check(database: Database) -> DatabaseState:
    """Compare the database with the migrations; on SQLite also run its integrity check, which reads it all."""
    found = migrations.status(database)
    integrity = "ok"
    if database.is_sqlite:
        with database.read() as connection:
            integrity = "; ".join(connection.exec_driver_sql("PRAGMA integrity_check(10)").scalars())
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            integrity = f"{len(broken)} rows without their parents" if broken else integrity
    return DatabaseState(database.url.render_as_string(), found.current, found.head, found.pending, integrity)


def backup(database: Database, target: Path) -> Backup:
    """Write a backup of the running database to a new file and verify it; StateError if the file exists.

    SQLite: a copy by its online backup, checked by `integrity_check`. PostgreSQL: a `pg_dump` archive, whose table of
    contents is read back by `pg_restore`. The file appears under its name only when it is whole and verified.
    """
    target = target.expanduser().absolute()
    if target.exists():
        raise StateError(f"{target} exists", "choose another name; a backup never overwrites")
    with _part(target) as part:
        verified = _backup_sqlite(database, part) if database.is_sqlite else _backup_postgres(database, part)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.link(part, target)  # refuses to overwrite, unlike a rename
        _sync_folder(target.parent)
    return Backup(target, target.stat().st_size, verified)


@contextmanager
def _part(target: Path) -> Iterator[Path]:
    """Give a name for the unfinished backup, private to this process, and remove it at the end."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield part
    except OSError as error:
        raise ConfigurationError(
            f"the backup {target} cannot be written: {error}", "choose a folder that you may write"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _backup_sqlite(database: Database, part: Path) -> str:
    if not database.path.is_file():
        raise ConfigurationError(f"there is no database {database.path}", "make it with: dts db upgrade")
    try:
        with closing(sqlite3.connect(f"{database.path.as_uri()}?mode=ro", uri=True)) as source:
            found = _copy_and_check(source, part)
    except sqlite3.Error as error:
        raise StateError(
            f"the backup of {database.path} failed: {error}", "check the disk and run: dts db check"
        ) from error
    if found != ["ok"]:
        raise StateError(f"the backup of {database.path} is damaged: {found[0]}", "check the database: dts db check")
    return "integrity_check"


def _copy_and_check(source: sqlite3.Connection, part: Path) -> list[str]:
    with closing(sqlite3.connect(part)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        return [row[0] for row in copy.execute("PRAGMA integrity_check")]


def _backup_postgres(database: Database, part: Path) -> str:
    url = database.url
    query = {key: str(value) for key, value in url.query.items()}
    variables = {
        "PGHOST": query.pop("host", None) or url.host,
        "PGPORT": query.pop("port", None) or (str(url.port) if url.port else None),
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
        "PGPASSFILE": query.pop("passfile", None),
        "PGSSLMODE": query.pop("sslmode", None),
    }
    environment = {**os.environ, **{key: value for key, value in variables.items() if value}}
    _run_tool(["pg_dump", "--format=custom", f"--file={part}"], environment)
    if "TABLE DATA" not in _run_tool(["pg_restore", "--list", str(part)], environment):
        raise StateError("the backup holds no table", "was the database ever upgraded? dts db check")
    return "pg_restore --list"


def _run_tool(command: list[str], environment: dict[str, str]) -> str:
    if shutil.which(command[0]) is None:
        raise ConfigurationError(f"{command[0]} is not installed", "install PostgreSQL's client programs")
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DtsError(f"{command[0]} failed: {said[0]}", "is the server up, and no newer than the client programs?")
    return done.stdout
