"""Queues: their states, and the hops of files between requests and sites."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.types import BigId, Moment

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "queues",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, server_default="", nullable=False),
        sa.Column("changed_by", sa.Text, server_default="", nullable=False),
        sa.Column("since", Moment, nullable=False),
        sa.CheckConstraint("state IN ('running', 'paused', 'stopped')", name=op.f("ck_queues_state")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_queues")),
    )
    op.create_table(
        "hops",
        sa.Column("id", BigId, nullable=False),
        sa.Column("request_id", BigId, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("lfn", sa.Text, nullable=False),
        sa.Column("site", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("other_id", sa.BigInteger, nullable=False),
        sa.Column("other_name", sa.Text, nullable=False),
        sa.Column("chain", sa.JSON, nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.CheckConstraint("direction IN ('in', 'out')", name=op.f("ck_hops_direction")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_hops_request_id_requests"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hops")),
        sa.UniqueConstraint(
            "request_id", "direction", "lfn", "site", "queue",
            name=op.f("uq_hops_request_id_direction_lfn_site_queue"),
        ),
        sqlite_autoincrement=True,
    )  # fmt: skip
