"""The documented queries: plain SQL that users may copy, the same text on SQLite and PostgreSQL.

Each takes :since and :until and reads the attempts that ended in [since, until).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeEngine

from accounting.period import Period
from dtscore.database import UtcDateTime
from dtscore.errors import NotFoundError

PERIOD = "ended_at >= :since AND ended_at < :until"


@dataclass(frozen=True, slots=True)
class Query:
    """One documented query: its name, title, the question that it answers, its columns and its text."""

    name: str
    title: str
    answers: str
    columns: tuple[str, ...]
    sql: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a query gave: the names of the columns, and the rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def bound(sql: str, columns: tuple[str, ...] = ()) -> sa.TextualSelect:
    """Return a statement that takes :since and :until and gives moments and days as Python values on both databases."""
    types: dict[str, TypeEngine[Any]] = {}
    for name in columns:
        if name.endswith("_at"):
            types[name] = UtcDateTime()
        elif name == "day":
            types[name] = sa.Date()
    moments = (sa.bindparam("since", type_=UtcDateTime()), sa.bindparam("until", type_=UtcDateTime()))
    return sa.text(sql).bindparams(*moments).columns(**types)


def run(connection: Connection, query: Query, period: Period) -> Result:
    """Run one documented query over a period."""
    values = {"since": period.since, "until": period.until}
    rows = connection.execute(bound(query.sql, query.columns), values).all()
    return Result(query.columns, tuple(tuple(row) for row in rows))


def find(name: str) -> Query:
    """Return the query of that name; NotFoundError names the nearest one."""
    if name in QUERIES:
        return QUERIES[name]
    near = difflib.get_close_matches(name, QUERIES, n=1)
    hint = f"did you mean {near[0]}?" if near else "list them with: dts-accounting sql"
    raise NotFoundError(f"there is no documented query named {name!r}", hint)


_ALL = (
    Query(
        "volume-by-day",
        "Volume by day",
        "How many files and bytes landed on each UTC day, and how many attempts failed?",
        ("day", "files_done", "bytes_landed", "failed_attempts"),
        """\
SELECT day,
  COUNT(CASE WHEN final_status = 'Done' THEN 1 END) AS files_done,
  CAST(SUM(CASE WHEN final_status = 'Done' THEN transfer_size ELSE 0 END) AS BIGINT) AS bytes_landed,
  COUNT(CASE WHEN final_status IN ('Failed', 'Retried') THEN 1 END) AS failed_attempts
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
GROUP BY day
ORDER BY day""",
    ),
    Query(
        "success-by-channel",
        "Success rate by channel",
        "Which channels fail most? Percent of attempts that ended Done, cancelled ones left out, worst first.",
        ("source", "destination", "attempts", "done", "success_percent"),
        """\
SELECT source, destination,
  COUNT(*) AS attempts,
  COUNT(CASE WHEN final_status = 'Done' THEN 1 END) AS done,
  CAST(ROUND(100.0 * COUNT(CASE WHEN final_status = 'Done' THEN 1 END) / COUNT(*), 2) AS FLOAT) AS success_percent
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND destination <> '' AND final_status <> 'Cancelled'
GROUP BY source, destination
ORDER BY success_percent, source, destination""",
    ),
    Query(
        "slowest-channels",
        "Slowest channels",
        "How fast does one file travel on each channel? Bytes per second while moving, slowest first.",
        ("source", "destination", "files_moved", "bytes_landed", "mean_throughput"),
        """\
SELECT source, destination,
  COUNT(*) AS files_moved,
  CAST(SUM(transfer_size) AS BIGINT) AS bytes_landed,
  SUM(transfer_size) / SUM(transfer_time) AS mean_throughput
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND final_status = 'Done' AND throughput IS NOT NULL
GROUP BY source, destination
ORDER BY mean_throughput, source, destination""",
    ),
    Query(
        "failures-by-error",
        "Failures by error class",
        "What goes wrong, where, how often, and is it still going on?",
        ("error_class", "source", "destination", "failed_attempts", "files", "first_at", "last_at"),
        """\
SELECT error_class, source, destination,
  COUNT(*) AS failed_attempts,
  COUNT(DISTINCT file_id) AS files,
  MIN(ended_at) AS first_at,
  MAX(ended_at) AS last_at
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND final_status IN ('Failed', 'Retried')
GROUP BY error_class, source, destination
ORDER BY failed_attempts DESC, error_class, source, destination""",
    ),
    Query(
        "attempts-per-file",
        "Attempts per file",
        "How many files were tried once, twice, three times, and how many of them were done?",
        ("attempts", "files", "files_done"),
        """\
SELECT attempts, COUNT(*) AS files, CAST(SUM(done) AS BIGINT) AS files_done
FROM (
  SELECT file_id, COUNT(*) AS attempts, MAX(CASE WHEN final_status = 'Done' THEN 1 ELSE 0 END) AS done
  FROM accounting_attempts
  WHERE ended_at >= :since AND ended_at < :until
  GROUP BY file_id
) AS tried
GROUP BY attempts
ORDER BY attempts""",
    ),
    Query(
        "retried-files",
        "Files that needed more than one attempt",
        "Which files cost the most attempts, and did they get there in the end? The first 100.",
        ("request_id", "file_id", "attempts", "done", "last_at"),
        """\
SELECT request_id, file_id,
  COUNT(*) AS attempts,
  MAX(CASE WHEN final_status = 'Done' THEN 1 ELSE 0 END) AS done,
  MAX(ended_at) AS last_at
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
GROUP BY request_id, file_id
HAVING COUNT(*) > 1
ORDER BY attempts DESC, file_id
LIMIT 100""",
    ),
    Query(
        "volume-by-owner",
        "Volume by owner",
        "Who moves how much, and how long do their transfers keep the agents busy?",
        ("owner", "files_done", "bytes_landed", "busy_seconds"),
        """\
SELECT owner,
  COUNT(CASE WHEN final_status = 'Done' THEN 1 END) AS files_done,
  CAST(SUM(CASE WHEN final_status = 'Done' THEN transfer_size ELSE 0 END) AS BIGINT) AS bytes_landed,
  SUM(transfer_time) AS busy_seconds
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
GROUP BY owner
ORDER BY bytes_landed DESC, owner""",
    ),
    Query(
        "volume-by-protocol",
        "Volume by protocol",
        "How much goes over each protocol, and how fast is one file? Operations that moved no byte are left out.",
        ("protocol", "files_moved", "bytes_landed", "mean_throughput"),
        """\
SELECT protocol,
  COUNT(*) AS files_moved,
  CAST(SUM(transfer_size) AS BIGINT) AS bytes_landed,
  SUM(transfer_size) / SUM(transfer_time) AS mean_throughput
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND final_status = 'Done' AND throughput IS NOT NULL
GROUP BY protocol
ORDER BY bytes_landed DESC, protocol""",
    ),
    Query(
        "throughput-by-hour",
        "Throughput per hour",
        "How did last night go, hour by hour? Bytes landed, and bytes per second over the whole hour (UTC).",
        ("day", "hour", "files_done", "bytes_landed", "bytes_per_second"),
        """\
SELECT day, hour,
  COUNT(*) AS files_done,
  CAST(SUM(transfer_size) AS BIGINT) AS bytes_landed,
  CAST(SUM(transfer_size) AS FLOAT) / 3600 AS bytes_per_second
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND final_status = 'Done'
GROUP BY day, hour
ORDER BY day, hour""",
    ),
    Query(
        "busiest-hours",
        "Busiest hours",
        "Which ten hours landed the most bytes, and how many attempts ended in them?",
        ("day", "hour", "attempts", "bytes_landed"),
        """\
SELECT day, hour,
  COUNT(*) AS attempts,
  CAST(SUM(CASE WHEN final_status = 'Done' THEN transfer_size ELSE 0 END) AS BIGINT) AS bytes_landed
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
GROUP BY day, hour
ORDER BY bytes_landed DESC, day, hour
LIMIT 10""",
    ),
    Query(
        "slowest-transfers",
        "Slowest transfers",
        "Which 20 single transfers took the longest?",
        ("request_id", "file_id", "attempt", "source", "destination", "transfer_size", "transfer_time", "ended_at"),
        """\
SELECT request_id, file_id, attempt, source, destination, transfer_size, transfer_time, ended_at
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND transfer_time > 0
ORDER BY transfer_time DESC, file_id, attempt
LIMIT 20""",
    ),
    Query(
        "last-failures",
        "Last failures",
        "What failed most recently? The last 20 failed attempts, newest first.",
        ("ended_at", "request_id", "file_id", "attempt", "source", "destination", "final_status", "error_class"),
        """\
SELECT ended_at, request_id, file_id, attempt, source, destination, final_status, error_class
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND final_status IN ('Failed', 'Retried')
ORDER BY ended_at DESC, file_id, attempt
LIMIT 20""",
    ),
    Query(
        "wasted-bytes",
        "Wasted bytes",
        "How many bytes travelled in attempts that did not end Done, by channel and error?",
        ("source", "destination", "error_class", "attempts", "bytes_wasted"),
        """\
SELECT source, destination, error_class,
  COUNT(*) AS attempts,
  CAST(SUM(transfer_size) AS BIGINT) AS bytes_wasted
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND final_status <> 'Done' AND transfer_size > 0
GROUP BY source, destination, error_class
ORDER BY bytes_wasted DESC, source, destination, error_class""",
    ),
    Query(
        "registration-time",
        "Time spent registering",
        "Does the catalog hold up the transfers? Mean and longest registration per operation, in seconds.",
        ("operation_type", "registrations", "failed_registrations", "mean_seconds", "longest_seconds"),
        """\
SELECT operation_type,
  CAST(SUM(registration_total) AS BIGINT) AS registrations,
  CAST(SUM(registration_total - registration_ok) AS BIGINT) AS failed_registrations,
  AVG(registration_time) AS mean_seconds,
  MAX(registration_time) AS longest_seconds
FROM accounting_attempts
WHERE ended_at >= :since AND ended_at < :until
  AND registration_total > 0
GROUP BY operation_type
ORDER BY operation_type""",
    ),
)

QUERIES: dict[str, Query] = {query.name: query for query in _ALL}
"""All documented queries by name, in the order of the documentation."""
