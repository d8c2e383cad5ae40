"""Accounting: one row for each attempt, and the views over them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.types import BigId, Moment

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MEASURES = """\
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

_VIEWS = {
    "accounting_by_day": "SELECT\n  day,\n" + _MEASURES + "\nFROM accounting_attempts\nGROUP BY day",
    "accounting_by_channel": "SELECT\n  source, destination,\n"
    + _MEASURES
    + "\nFROM accounting_attempts\nWHERE destination <> ''\nGROUP BY source, destination",
    "accounting_by_owner": "SELECT\n  owner,\n" + _MEASURES + "\nFROM accounting_attempts\nGROUP BY owner",
    "accounting_by_error": "SELECT\n  error_class, source, destination,\n"
    + _MEASURES
    + "\nFROM accounting_attempts\nWHERE error_class <> ''\nGROUP BY error_class, source, destination",
}


def upgrade() -> None:
    """Make the tables and views."""
    _accounting_attempts()
    for name, select in _VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS\n{select}")


def _accounting_attempts() -> None:
    op.create_table(
        "accounting_attempts",
        sa.Column(
            "file_id", BigId, autoincrement=False, nullable=False, comment="the file's row in the request database"
        ),
        sa.Column(
            "attempt",
            sa.Integer,
            autoincrement=False,
            nullable=False,
            comment="number of the attempt at this file, from 1",
        ),
        sa.Column("request_id", sa.BigInteger, nullable=False, comment="the request that asked for it"),
        sa.Column("operation_type", sa.Text, nullable=False, comment="transfer, register, remove, verify, …"),
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
        sa.Column("started_at", Moment, nullable=False, comment="when the attempt began, UTC"),
        sa.Column("ended_at", Moment, nullable=False, comment="when the attempt ended, UTC"),
        sa.Column("day", sa.Date, nullable=False, comment="UTC day of ended_at"),
        sa.Column("hour", sa.SmallInteger, nullable=False, comment="UTC hour of ended_at, 0 to 23"),
        sa.CheckConstraint(
            "final_status = 'Done' OR final_status = 'Failed' OR final_status = 'Cancelled'"
            " OR final_status = 'Retried'",
            name=op.f("ck_accounting_attempts_final_status"),
        ),
        sa.PrimaryKeyConstraint("file_id", "attempt", name=op.f("pk_accounting_attempts")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_accounting_attempts_ended_at"), "accounting_attempts", ["ended_at"])
