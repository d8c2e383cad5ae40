"""What the request database says of a queue and of requests, read without SQLAlchemy: that alone would take too long.

SQLite is opened read-only by Python's own module. Nothing here waits for a lock for longer than a moment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dtscore.errors import ConfigurationError, DatabaseUnavailableError

_SQLITE = "sqlite:///"
_BUSY_SECONDS = 0.25
_CONNECT_SECONDS = 2

_QUEUE = "SELECT state, reason FROM queues WHERE name = {}"
_REQUESTS = "SELECT name, state FROM requests WHERE name IN ({}, {}, {}, {}, {}, {}, {}, {})"
NAMES = 8
"""Names of requests that are looked for at once."""

_QMARKS, _PERCENT, _NUMBERED = ("?",) * NAMES, ("%s",) * NAMES, tuple(f"${number + 1}" for number in range(NAMES))
_OPTIONS = "-c statement_timeout=2000 -c timezone=UTC"
_NO_TABLE = "42P01"

Ask = Callable[[str, Sequence[str]], list[Any]]


class Found(NamedTuple):
    """The state of a queue (`running`, `paused` or `stopped`), its reason, and the states of requests by name."""

    state: str
    reason: str
    requests: dict[str, str]


def look(url: str, password_file: str, queue: str, names: Sequence[str]) -> Found:
    """Return what the database says of a queue and of `NAMES` names of requests; the password may stand in a file.

    Raises DatabaseUnavailableError, at once or within two seconds, and ConfigurationError where a table is missing.
    """
    if url.startswith(_SQLITE):
        return _sqlite(url, queue, names)
    return _postgresql(url, password_file, queue, names)


def _found(ask: Ask, marks: Sequence[str], queue: str, names: Sequence[str]) -> Found:
    """Ask; `marks` are how the driver writes the first, second, … value."""
    rows = ask(_QUEUE.format(*marks), (queue,))
    state, reason = rows[0] if rows else ("running", "")  # a queue that was never touched has no row, and runs
    requests = ask(_REQUESTS.format(*marks), tuple(names))
    return Found(state, reason, {str(name): str(found) for name, found in requests})


def _sqlite(url: str, queue: str, names: Sequence[str]) -> Found:
    path = url[len(_SQLITE) :].partition("?")[0]
    uri = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        connection = sqlite3.connect(f"file:{uri}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            return _found(lambda query, values: connection.execute(query, values).fetchall(), _QMARKS, queue, names)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _wrong(f"the database {path}: {error}", missing="no such table" in str(error)) from error


def _postgresql(url: str, password_file: str, queue: str, names: Sequence[str]) -> Found:
    from dtsd.dtsq_libpq import RefusedError, Session, open_library

    library = open_library()
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    if library is None:
        return _by_psycopg(plain, password_file, queue, names)
    shown = plain.rpartition("@")[2]
    more = {"password": _password(password_file)} if password_file else {}
    try:
        session = Session(library, dbname=plain, connect_timeout=str(_CONNECT_SECONDS), options=_OPTIONS, **more)
        try:
            return _found(session.rows, _NUMBERED, queue, names)
        finally:
            session.close()
    except RefusedError as error:
        raise _wrong(f"the database {shown}: {error}", missing=error.state == _NO_TABLE) from error


def _by_psycopg(plain: str, password_file: str, queue: str, names: Sequence[str]) -> Found:
    import psycopg

    shown = plain.rpartition("@")[2]
    try:
        password = _password(password_file) if password_file else None
        with psycopg.connect(
            plain, connect_timeout=_CONNECT_SECONDS, options=_OPTIONS, password=password
        ) as connection:
            return _found(lambda query, values: connection.execute(query, values).fetchall(), _PERCENT, queue, names)
    except psycopg.Error as error:
        missing = getattr(error, "sqlstate", None) == _NO_TABLE
        raise _wrong(f"the database {shown}: {str(error).strip().splitlines()[0]}", missing) from error


def _password(file: str) -> str:
    from pathlib import Path

    from dtscore.config import read_secret

    return read_secret(Path(file))


def _wrong(message: str, missing: bool) -> ConfigurationError | DatabaseUnavailableError:
    if missing:
        return ConfigurationError(message, "run: dts db upgrade")
    return DatabaseUnavailableError(message, "is it there, and who holds it? see: dts doctor")
