"""Reports: attempts of a period added up by channel, day, owner, error or operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy.engine import Connection

from accounting.models import MEASURES
from accounting.period import Period
from accounting.queries import PERIOD, bound

By = Literal["channel", "day", "owner", "error", "operation"]
GROUPINGS: tuple[By, ...] = get_args(By)

_KEYS: dict[By, tuple[str, ...]] = {
    "channel": ("source", "destination"),
    "day": ("day",),
    "owner": ("owner",),
    "error": ("error_class",),
    "operation": ("operation_type",),
}
_ONLY: dict[By, str] = {"channel": " AND destination <> ''", "error": " AND error_class <> ''"}


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One line of a report: counts, bytes, seconds, and bytes per second while a file moves.

    `success_percent` leaves cancelled attempts out. `bytes_landed` are those of attempts that ended Done,
    `bytes_wasted` of all others. `busy_seconds` adds up the transfer times, so files moving side by side count twice.
    `p50_seconds` and `p95_seconds` are the transfer times that half and 95 % of the files done stayed within.
    What cannot be told (no attempt that counts) is None.
    """

    key: tuple[str, ...]
    attempts: int
    files_done: int
    failed_attempts: int
    cancelled_attempts: int
    success_percent: float | None
    bytes_landed: int
    bytes_wasted: int
    busy_seconds: float
    mean_throughput: float | None
    p50_seconds: float | None
    p95_seconds: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """The lines of one report, the names of its key columns, and the line that adds up all of them."""

    period: Period
    by: By
    keys: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    total: ReportRow | None


def report(connection: Connection, period: Period, by: By = "channel") -> Report:
    """Add up the attempts that ended in the period; without any, `rows` is empty and `total` None.

    By channel, only attempts with a destination count; by error, only those with an error.
    """
    keys = _KEYS[by]
    rows = tuple(sorted(_rows(connection, period, keys, _ONLY.get(by, "")), key=lambda row: row.key))
    total = next(iter(_rows(connection, period, (), _ONLY.get(by, ""))), None)
    return Report(period, by, keys, rows, total)


def _rows(connection: Connection, period: Period, keys: tuple[str, ...], only: str) -> list[ReportRow]:
    values = {"since": period.since, "until": period.until}
    width = max(len(keys), 1)
    ranked = connection.execute(bound(_centiles(keys, only)), values)
    centiles = {_key(row[:width]): tuple(row[width:]) for row in ranked}
    rows = []
    for row in connection.execute(bound(_measures(keys, only)), values):
        key = _key(row[:width])
        rows.append(ReportRow(key if keys else (), *row[width:], *centiles.get(key, (None, None))))
    return rows


def _key(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _measures(keys: tuple[str, ...], only: str) -> str:
    chosen = ", ".join(keys) or "'total'"
    grouped = ", ".join(keys) or "1"
    having = "" if keys else "\nHAVING COUNT(*) > 0"
    return f"SELECT {chosen},\n{MEASURES}\nFROM accounting_attempts\nWHERE {PERIOD}{only}\nGROUP BY {grouped}{having}"


def _centiles(keys: tuple[str, ...], only: str) -> str:
    """Return the text for nearest-rank percentiles, by window functions: SQLite has no percentile_cont."""
    chosen = ", ".join(keys) or "'total' AS total"
    names = ", ".join(keys) or "total"
    inner = ", ".join(keys) or "1"
    return f"""\
SELECT {names},
  MIN(CASE WHEN 2 * place >= places THEN transfer_time END),
  MIN(CASE WHEN 20 * place >= 19 * places THEN transfer_time END)
FROM (
  SELECT {chosen}, transfer_time,
    ROW_NUMBER() OVER (PARTITION BY {inner} ORDER BY transfer_time) AS place,
    COUNT(*) OVER (PARTITION BY {inner}) AS places
  FROM accounting_attempts
  WHERE {PERIOD}{only} AND final_status = 'Done' AND throughput IS NOT NULL
) AS ranked
GROUP BY {names}"""  # noqa: S608 - names from the table above, values bound
