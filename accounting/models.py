"""The table of attempts and the views over it: what users may read with plain SQL.

The texts of the views are the same on SQLite and PostgreSQL; a migration takes them from `VIEWS`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import BigId, UtcDateTime, metadata, one_of

attempts = sa.Table(
    "accounting_attempts",
    metadata,
    sa.Column(
        "file_id", BigId, primary_key=True, autoincrement=False, comment="the file's row in the request database"
    ),
    sa.Column(
        "attempt",
        sa.Integer,
        primary_key=True,
        autoincrement=False,
        comment="number of the attempt at this file, from 1",
    ),
    sa.Column("request_id", sa.BigInteger, nullable=False, comment="the request that asked for it"),
    sa.Column("operation_type", sa.Text, nullable=False, comment="transfer, register, remove, verify, …"),
    # DIRAC's User. Not named so: PostgreSQL answers `SELECT user` with the database's own user.
    sa.Column("owner", sa.Text, nullable=False, comment="owner of the request"),
    sa.Column("execution_site", sa.Text, nullable=False, comment="site whose agent did the work"),
    sa.Column("source", sa.Text, nullable=False, comment="storage element read from; empty if none"),
    sa.Column("destination", sa.Text, nullable=False, comment="storage element written to; empty if none"),
    sa.Column("protocol", sa.Text, nullable=False, comment="file, sftp, s3, …; empty if no byte had to move"),
    sa.Column("final_status", sa.Text, nullable=False, comment="Done, Failed, Cancelled or Retried"),
    sa.Column("transfer_size", sa.BigInteger, nullable=False, comment="bytes that this attempt moved"),
    sa.Column("transfer_time", sa.Double, nullable=False, comment="seconds spent moving them"),
    sa.Column("registration_time", sa.Double, nullable=False, comment="seconds spent registering replicas"),
    sa.Column("transfer_ok", sa.Integer, nullable=False, comment="transfers that succeeded"),
    sa.Column("transfer_total", sa.Integer, nullable=False, comment="transfers that were tried"),
    sa.Column("registration_ok", sa.Integer, nullable=False, comment="registrations that succeeded"),
    sa.Column("registration_total", sa.Integer, nullable=False, comment="registrations that were tried"),
    sa.Column("error_class", sa.Text, nullable=False, comment="stable word for the error; empty if none"),
    sa.Column("throughput", sa.Double, comment="bytes per second while moving; NULL when nothing moved"),
    sa.Column("started_at", UtcDateTime, nullable=False, comment="when the attempt began, UTC"),
    sa.Column("ended_at", UtcDateTime, nullable=False, comment="when the attempt ended, UTC"),
    # Kept, not computed: there is no expression for the day or hour of a moment that both databases understand.
    sa.Column("day", sa.Date, nullable=False, comment="UTC day of ended_at"),
    sa.Column("hour", sa.SmallInteger, nullable=False, comment="UTC hour of ended_at, 0 to 23"),
    sa.CheckConstraint(one_of("final_status", ("Done", "Failed", "Cancelled", "Retried")), name="final_status"),
    sa.Index(None, "ended_at"),
    sqlite_with_rowid=False,
)

MEASURES = """\
  COUNT(*) AS attempts,
  COUNT(CASE WHEN final_status = 'Done' THEN 1 END) AS files_done,
  COUNT(CASE WHEN final_status IN ('Failed', 'Retried') THEN 1 END) AS failed_attempts,
  COUNT(CASE WHEN final_status = 'Cancelled' THEN 1 END) AS cancelled_attempts,
  CAST(ROUND(100.0 * COUNT(CASE WHEN final_status = 'Done' THEN 1 END)
    / NULLIF(COUNT(CASE WHEN final_status <> 'Cancelled' THEN 1 END), 0), 2) AS FLOAT) AS success_percent,
  CAST(SUM(CASE WHEN final_status = 'Done' THEN transfer_size ELSE 0 END) AS BIGINT) AS bytes_landed,
  CAST(SUM(CASE WHEN final_status = 'Done' THEN 0 ELSE transfer_size END) AS BIGINT) AS bytes_wasted,
  SUM(transfer_time) AS busy_seconds,
  SUM(CASE WHEN final_status = 'Done' AND throughput IS NOT NULL THEN transfer_size END)
    / SUM(CASE WHEN final_status = 'Done' AND throughput IS NOT NULL THEN transfer_time END) AS mean_throughput"""
"""The columns that all views and reports share: files and attempts counted, bytes, seconds, bytes per second.

A file is Done at most once, so attempts that ended Done are files done. Success leaves cancelled attempts out.
"""


def _view(keys: str, where: str = "") -> str:
    return f"SELECT\n  {keys},\n{MEASURES}\nFROM accounting_attempts\n{where}GROUP BY {keys}"


VIEWS: dict[str, str] = {
    "accounting_by_day": _view("day"),
    "accounting_by_channel": _view("source, destination", "WHERE destination <> ''\n"),
    "accounting_by_owner": _view("owner"),
    "accounting_by_error": _view("error_class, source, destination", "WHERE error_class <> ''\n"),
}
"""The SELECT of each view, without bound parameters, the same text for both databases."""


def create_view(name: str) -> str:
    """Return the statement that creates one view of `VIEWS`."""
    return f"CREATE VIEW {name} AS\n{VIEWS[name]}"


def drop_view(name: str) -> str:
    """Return the statement that drops one view, if it is there."""
    return f"DROP VIEW IF EXISTS {name}"


@sa.event.listens_for(attempts, "after_create")
def _create_views(_table: sa.Table, connection: Connection, **_options: object) -> None:
    """Make the views with the table, whoever calls create_all."""
    for name in VIEWS:
        connection.exec_driver_sql(create_view(name))


@sa.event.listens_for(attempts, "before_drop")
def _drop_views(_table: sa.Table, connection: Connection, **_options: object) -> None:
    """Drop the views before the table that they read."""
    for name in VIEWS:
        connection.exec_driver_sql(drop_view(name))
