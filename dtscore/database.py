"""The database session: one class over SQLite (embedded default) and PostgreSQL (many hosts).

Why SQLite is set up by hand here: SQLAlchemy's default sends no BEGIN before a SELECT, and a deferred
transaction that turns to writing fails at once, whatever the busy time-out. So a write transaction begins with
BEGIN IMMEDIATE on an engine of its own, and reading has a second, query-only engine.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.types import TypeDecorator

from dtscore.errors import ConfigurationError, DatabaseUnavailableError, DtsError
from dtscore.turnstile import Turnstile

T = TypeVar("T")

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""All tables of all rooms; every constraint has a name, or a migration on SQLite loses it."""

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A 64-bit identifier: SQLite only counts up a column that is declared INTEGER."""

_BUSY_SECONDS = 30.0
_TRUSTED_SECONDS = 0.5
"""A connection that was used so short a time ago is taken to be alive."""
_RETRIED_STATES = ("40001", "40P01", "55P03")


def one_of(column: str, words: Iterable[str]) -> str:
    """Return the CHECK that a column holds one of these words.

    Not `IN (…)`: SQLite fills a table with the words each time, which costs more than the rest of an update.
    """
    return " OR ".join(f"{column} = '{word}'" for word in words)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC with microseconds: `timestamptz` on PostgreSQL, sortable text on SQLite.

    Takes and gives aware datetimes; a naive one is refused with ValueError.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Turn an aware datetime into UTC for the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment without a time zone was given to the database: {value!r}")
        value = value.astimezone(timezone.utc)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Turn what the database gives into an aware UTC datetime."""
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def now(connection: Connection) -> datetime:
    """Return the database's own clock, aware UTC: the one clock that all agents share."""
    if connection.dialect.name == "sqlite":
        text: str = connection.exec_driver_sql("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").scalar_one()
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    moment: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return moment.astimezone(timezone.utc)


class Database:
    """One database of a site: `read()` and `write()` give connections, `run()` repeats what met a passing conflict."""

    def __init__(self, url: str) -> None:
        """Connect lazily to a SQLAlchemy URL, `sqlite:///path` or `postgresql+psycopg://…`."""
        self.url = sa.make_url(url)
        backend = self.url.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"database.url names the database {backend!r}",
                "use sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME",
            )
        self.is_sqlite = backend == "sqlite"
        self._turnstile: Turnstile | None = None
        self._local = threading.local()
        if self.is_sqlite:
            if not self.url.database or self.url.database == ":memory:":
                raise ConfigurationError("database.url names no file", "use sqlite:///PATH: agents share a file")
            self.path = Path(self.url.database)
            self._turnstile = Turnstile(self.path.with_name(self.path.name + "-turn"))
            self._writer = _sqlite_engine(self.url, write=True)
            self._reader = _sqlite_engine(self.url, write=False)
        else:
            self._writer = self._reader = _postgres_engine(self.url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the database and must not write."""
        with _named_errors(self), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection in a write transaction: committed at the end, rolled back on any error.

        Keep it short: no transfer, no network and no file inside it. Must not be nested in one thread.
        """
        if getattr(self._local, "writing", False):
            raise RuntimeError("a write transaction was opened inside another one")
        self._local.writing = True
        try:
            with _named_errors(self), self._turn(), self._writer.begin() as connection:
                yield connection
        finally:
            self._local.writing = False

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._turnstile is None:
            yield
            return
        with self._turnstile.turn(_BUSY_SECONDS):
            yield

    def run(self, work: Callable[[Connection], T], *, tries: int = 8) -> T:
        """Run `work` in a write transaction, again on a deadlock or serialization conflict; return its result.

        Raises DatabaseUnavailableError when the database cannot be reached or stays busy.
        """
        for attempt in range(1, tries + 1):
            try:
                with self.write() as connection:
                    return work(connection)
            except DatabaseConflictError:
                if attempt == tries:
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise AssertionError("unreachable")

    def engine(self) -> Engine:
        """Return the writing engine, for migrations alone."""
        return self._writer

    def close(self) -> None:
        """Close all pooled connections and lock files: a disk that the database lies on can then be unmounted."""
        self._writer.dispose()
        self._reader.dispose()
        if self._turnstile is not None:
            self._turnstile.close()


class DatabaseConflictError(DatabaseUnavailableError):
    """Two transactions met (deadlock, serialization, lock time-out); the loser may simply try again."""


@contextmanager
def _named_errors(database: Database) -> Iterator[None]:
    """Turn the driver's errors of connection and conflict into ours; programming errors pass unchanged.

    The driver's own classes come bare where rows are written past SQLAlchemy (COPY).
    """
    driver: Any = database.engine().dialect.loaded_dbapi
    try:
        yield
    except (DBAPIError, driver.Error) as error:
        translated = _translate(error, database)
        if translated is None:
            raise
        raise translated from error


def _translate(error: Exception, database: Database) -> DtsError | None:
    shown = database.url.render_as_string(hide_password=True)
    bare = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    state = getattr(bare, "sqlstate", None)
    text = str(bare)
    if state in _RETRIED_STATES:
        return DatabaseConflictError(f"the database {shown} refused a conflicting transaction: {text}", "try again")
    if database.is_sqlite and ("locked" in text or "busy" in text):
        return DatabaseConflictError(f"the database {shown} is locked", "try again; see which process holds it")
    if "no such table" in text or state == "42P01":
        what = f"the database {shown} lacks a table of DTS: {text.splitlines()[0]}"
        return ConfigurationError(what, "run: dts db upgrade")
    if database.is_sqlite and any(word in text for word in ("unable to open", "disk I/O", "readonly", "is full")):
        what = f"the database {shown} cannot be used: {text}"
        return DatabaseUnavailableError(what, "check the path, its rights and the disk")
    driver: Any = database.engine().dialect.loaded_dbapi
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(bare, driver.OperationalError) or (state or "").startswith(("08", "57P")):
        return DatabaseUnavailableError(f"the database {shown} cannot be reached: {text.strip()}", "is the server up?")
    return None


def _sqlite_engine(url: sa.URL, *, write: bool) -> Engine:
    engine = sa.create_engine(
        url,
        connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None, "check_same_thread": False},
        poolclass=sa.pool.QueuePool,
        pool_size=4,
        max_overflow=32,
    )

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        cursor.execute("PRAGMA synchronous=FULL")
        level = cursor.execute("PRAGMA synchronous").fetchone()[0]
        if mode != "wal" or level != 2:
            raise ConfigurationError(
                f"the database {url.database} runs journal_mode={mode}, synchronous={level}, not wal and 2 (FULL)",
                "put it on a local disk: without both, a power cut loses acknowledged commits",
            )
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA cache_size=-65536")
        if not write:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgres_engine(url: sa.URL) -> Engine:
    """Make the engine; plans are made anew for each execution.

    A generic plan that was made while a table was empty scans it whole when it has grown: 110 ms instead of 1.
    """
    engine = sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=4,
        max_overflow=32,
        connect_args={
            "connect_timeout": 5,
            "options": "-c timezone=UTC -c lock_timeout=30s -c plan_cache_mode=force_custom_plan",
            "application_name": "dts",
        },
    )

    @sa.event.listens_for(engine, "before_cursor_execute")
    def send_what_comes_before(connection: Connection, *_statement: Any) -> None:
        if (wire := connection.info.get("wire")) is not None:
            wire.flush()

    @sa.event.listens_for(engine, "rollback")
    def doubt(connection: Connection) -> None:
        if (wire := connection.info.get("wire")) is not None:
            wire.doubt()

    @sa.event.listens_for(engine, "reset")
    def doubt_too(connection: Any, record: Any, _state: Any) -> None:
        if (wire := record.info.get("wire")) is not None and connection.info.transaction_status != 0:
            wire.doubt()

    @sa.event.listens_for(engine, "checkin")
    def keep_moment(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def ask_whether_alive(connection: Any, record: Any, _proxy: Any) -> None:
        """Ask only after a pause: within a series of transactions it would cost as much as one of them."""
        used_at = record.info.get("used_at")
        if used_at is None or time.monotonic() - used_at < _TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError("the server has closed the connection") from error

    return engine
