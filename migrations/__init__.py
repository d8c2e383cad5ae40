"""The schema's history: one alembic migration after the other, run by `dts db upgrade` and never backwards.

A migration runs in a transaction of its own that takes its DDL back when it fails, on SQLite too. There is no
downgrade: to go back, restore the backup that was made before.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from dtscore.database import Database
from dtscore.errors import ConfigurationError, StateError

VERSION_TABLE = "dts_version"
_FOLDER = Path(__file__).parent
_ADVISORY_LOCK = 0x445453  # any number that all upgrades of one PostgreSQL database share


@dataclass(frozen=True, slots=True)
class Status:
    """Where a database stands: its revision ('' if it has no tables yet), the newest one, and those still to run."""

    current: str
    head: str
    pending: tuple[str, ...]


def _alembic(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def status(database: Database) -> Status:
    """Say where a database stands; ConfigurationError when a newer DTS has upgraded it."""
    with database.read() as connection:
        current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    scripts = ScriptDirectory.from_config(_alembic())
    known = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    if current is not None and current not in known:
        raise ConfigurationError(
            f"the database {database.url.render_as_string(hide_password=True)} is at revision {current}, "
            f"newer than this DTS knows ({known[-1]})",
            "install the newer DTS",
        )
    done = known.index(current) + 1 if current else 0
    return Status(current or "", known[-1], tuple(known[done:]))


def upgrade(database: Database, revision: str = "head") -> tuple[str, ...]:
    """Run the migrations up to `revision`; return those that were run, none if the database was up to date.

    Safe to call from several processes at once. Raises StateError when a migration fails; it is then rolled back.
    """
    if database.is_sqlite:
        _make_folder(database.path.parent)
    status(database)  # is it there, and is it ours? said in our words
    with _alone(database), database.engine().connect() as connection:
        before = status(database).pending
        if database.is_sqlite:
            _foreign_keys(connection, on=False)
        try:
            command.upgrade(_alembic(connection), revision)
        except SQLAlchemyError as error:
            failed = status(database).pending[0]
            raise StateError(
                f"migration {failed} failed and was rolled back: {str(error).splitlines()[0]}",
                "the database is as it was before this migration; run: dts db check",
            ) from error
        finally:
            if database.is_sqlite:
                connection.rollback()
                _foreign_keys(connection, on=True)
    left = status(database).pending
    return before[: len(before) - len(left)]


def _foreign_keys(connection: Connection, *, on: bool) -> None:
    """Switch SQLite's foreign keys on the bare connection: inside a transaction the pragma does nothing.

    Rebuilding a parent table with them on would delete its children.
    """
    raw = connection.connection.dbapi_connection
    if raw is not None:
        raw.cursor().execute(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Hold the right to upgrade: a file lock beside a SQLite database, an advisory lock in PostgreSQL."""
    if not database.is_sqlite:
        with database.engine().connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:number)"), {"number": _ADVISORY_LOCK})
            connection.commit()
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:number)"), {"number": _ADVISORY_LOCK})
                connection.commit()
        return
    with database.path.with_name(f"{database.path.name}-upgrade").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {folder} cannot be made: {error}", "check database.url") from error
