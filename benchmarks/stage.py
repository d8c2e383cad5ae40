"""What the rows on the request database share: requests to work on, and rows of long-finished work."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from agents.services import Services
from dtscore.database import Database
from reqdb import store
from reqdb.retry import RetryPolicy
from reqdb.spec import FileSpec, OperationSpec, RequestSpec

KIND = "transfer"
NODE = "bench"


def services() -> Services:
    """Return as much of an agent's services as `agents.commit` asks for."""
    return cast(Services, SimpleNamespace(node=NODE, policy=RetryPolicy()))


def queue(url: str, files: int, name: str) -> None:
    """Submit one request for so many files, in folders of a thousand."""
    specs = tuple(
        FileSpec(f"/{name}/{number // 1000:04d}/{number:08d}.fits", None, 10, "adler32:00000001")
        for number in range(files)
    )
    spec = RequestSpec((OperationSpec(KIND, specs, "local", ("archive",)),), name=name)
    database = Database(url)
    try:
        database.run(lambda connection: store.submit(connection, spec, owner="bench"))
        if not database.is_sqlite:
            _settle(database)
    finally:
        database.close()


def _settle(database: Database) -> None:
    """Do what autovacuum would have done by and by, so that it does not begin within a measurement."""
    raw: Any = database.engine().raw_connection().driver_connection
    raw.autocommit = True
    raw.execute("VACUUM ANALYZE")
    raw.execute("CHECKPOINT")
    raw.autocommit = False


def fill_finished(url: str, files: int) -> None:
    """Add rows of finished work by bulk SQL: a Done request with attempts, accounting, catalog files and replicas."""
    _fill(url, files, _FINISHED)


def _fill(url: str, files: int, statements: Sequence[str]) -> None:
    """Run the statements and bring the sequences and statistics up to date."""
    database = Database(url)
    try:
        with database.write() as connection:
            if not database.is_sqlite:  # no look-up of foreign keys for each row
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for statement in statements:
                connection.exec_driver_sql(_spelled(statement, files, sqlite=database.is_sqlite))
            if not database.is_sqlite:
                for table in ("requests", "operations", "channels", "files", "catalog_folders", "catalog_files"):
                    connection.exec_driver_sql(
                        f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
                        " HAVING count(*) > 0"
                    )
        if database.is_sqlite:
            with database.engine().connect() as connection:
                connection.exec_driver_sql("ROLLBACK")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            _settle(database)
    finally:
        database.close()


def _spelled(statement: str, files: int, *, sqlite: bool) -> str:
    casts = {"cast": "", "day": ""} if sqlite else {"cast": "::timestamptz", "day": "::date"}
    casts["four"] = "printf('%04d', i - 1)" if sqlite else "lpad((i - 1)::text, 4, '0')"
    casts["eight"] = "printf('%08d', i - 1)" if sqlite else "lpad((i - 1)::text, 8, '0')"
    days = "((i / 5) % 1000)"
    casts["night"] = f"date('2026-01-01', {days} || ' days')" if sqlite else f"date '2026-01-01' + ({days})::int"
    text = statement.format(numbers=_numbers(files, sqlite=sqlite), files=files, **casts)
    return text if sqlite else text.replace("%", "%%")  # as psycopg wants it


def _numbers(count: int, *, sqlite: bool) -> str:
    """Return a table expression `n(i)` with the numbers from 1."""
    if sqlite:
        each = f"SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}"
        return f"(WITH RECURSIVE n(i) AS ({each}) SELECT i FROM n) AS n"
    return f"generate_series(1, {count}) AS n(i)"


_AT = "'2026-01-01 00:00:00.000000'"
_FINISHED = (
    "INSERT INTO requests (id, name, digest, owner, priority, state, submitted_at, percent, done, bytes_total,"
    f" bytes_done) VALUES (1, 'finished', 'x', 'bench', 5, 'Done', {_AT}, 100, {{files}}, 0, 0)",
    "INSERT INTO operations (id, request_id, sequence, type, source, targets, options, state, done)"
    " VALUES (1, 1, 1, 'transfer', 'local', 'archive', '{{}}', 'Done', {files})",
    "INSERT INTO channels (id, type, source, target) VALUES (1, 'transfer', 'local', 'archive')",
    "INSERT INTO files (id, request_id, operation_id, channel_id, lfn, size, checksum, state, priority, attempts,"
    " bytes, found_size, found_checksum, ended_at)"
    " SELECT i, 1, 1, 1, '/finished/' || (i / 1000) || '/' || i, 10, 'adler32:00000001', 'Done', 5, 1, 10, 10,"
    f" 'adler32:00000001', {_AT}{{cast}} FROM {{numbers}}",
    "INSERT INTO attempts (file_id, attempt, agent, source, target, started_at, seconds, bytes, outcome)"
    f" SELECT i, 1, 'transfer@bench:1#1', 'local', 'archive', {_AT}{{cast}}, 0.001, 10, 'Done' FROM {{numbers}}",
    "INSERT INTO accounting_attempts (file_id, attempt, request_id, operation_type, owner, execution_site, source,"
    " destination, protocol, final_status, transfer_size, transfer_time, registration_time, transfer_ok,"
    " transfer_total, registration_ok, registration_total, error_class, throughput, started_at, ended_at, day, hour)"
    " SELECT i, 1, 1, 'transfer', 'bench', 'bench', 'local', 'archive', 'file', 'Done', 10, 0.001, 0.001, 1, 1, 1, 1,"
    f" '', 10000, {_AT}{{cast}}, {_AT}{{cast}}, '2026-01-01'{{day}}, 0 FROM {{numbers}}",
    "INSERT INTO catalog_folders (id, path, parent_id) VALUES (1, '/', NULL), (2, '/finished', 1)",
    "INSERT INTO catalog_folders (id, path, parent_id)"
    " SELECT i + 2, '/finished/' || (i - 1), 2 FROM {numbers} WHERE i <= {files} / 1000 + 1",
    "INSERT INTO catalog_files (id, folder_id, name, size, checksum, registered_at)"
    f" SELECT i, i / 1000 + 3, CAST(i AS TEXT), 10, 'adler32:00000001', {_AT}{{cast}} FROM {{numbers}}",
    "INSERT INTO catalog_replicas (file_id, element, pfn, state, registered_at, verified_at, depth)"
    f" SELECT i, 'archive', 'finished/' || i, 'Good', {_AT}{{cast}}, {_AT}{{cast}}, 'readback' FROM {{numbers}}",
)

_SKY = (
    "INSERT INTO catalog_folders (id, path, parent_id) VALUES (1, '/', NULL), (2, '/sky', 1)",
    "INSERT INTO catalog_folders (id, path, parent_id)"
    " SELECT i + 2, '/sky/' || {four}, 2 FROM {numbers} WHERE i <= {files} / 1000 + 1",
    "INSERT INTO catalog_files (id, folder_id, name, size, checksum, registered_at)"
    " SELECT i, (i - 1) / 1000 + 3, {eight} || '.fits', 10, 'adler32:00000001',"
    f" {_AT}{{cast}} FROM {{numbers}}",
    "INSERT INTO catalog_replicas (file_id, element, pfn, state, registered_at, verified_at, depth)"
    f" SELECT i, 'archive', 'sky/' || i, 'Good', {_AT}{{cast}}, {_AT}{{cast}}, 'readback' FROM {{numbers}}",
    "INSERT INTO catalog_metadata (file_id, instrument, exposure, filter, object, type, exposure_time, date, night, ra,"
    " dec) SELECT i, 'DECam', i, substr('grizY', i % 5 + 1, 1), 'field ' || (i % 1000), 'science', 90.0,"
    f" {_AT}{{cast}}, {{night}}, (i % 360) * 1.0, (i % 120) - 90.0 FROM {{numbers}}",
)
"""Folders of a thousand; five filters over a thousand nights: each filter has a 5000th of the files in each night."""


def fill_catalog(url: str, files: int) -> None:
    """Fill the catalog by bulk SQL: /sky/NNNN/NNNNNNNN.fits, each with one replica and a header."""
    _fill(url, files, _SKY)
