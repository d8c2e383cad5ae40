"""The request database: requests, operations, files, claims, agents, attempts, events."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from migrations.types import BigId, Moment

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATES = (
    "state = 'Queued' OR state = 'ToDo' OR state = 'Running' OR state = 'Done' OR state = 'Failed'"
    " OR state = 'Cancelled'"
)


def upgrade() -> None:
    """Make the tables."""
    _agents()
    _channels()
    _requests()
    _claims()
    _events()
    _operations()
    _files()
    _attempts()


def _agents() -> None:
    op.create_table(
        "agents",
        sa.Column("id", BigId, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("started_at", Moment, nullable=False),
        sa.Column("heartbeat_at", Moment, nullable=False),
        sa.Column("ticked_at", Moment, nullable=False),
        sa.Column("lease_until", Moment, nullable=False),
        sa.Column("poll_interval", sa.Float, nullable=False),
        sa.Column("message", sa.Text, server_default="", nullable=False),
        sa.CheckConstraint("state IN ('Running', 'Draining', 'Ended', 'Lost')", name=op.f("ck_agents_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
        sqlite_autoincrement=True,
    )


def _channels() -> None:
    op.create_table(
        "channels",
        sa.Column("id", BigId, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("source", sa.Text, server_default="", nullable=False),
        sa.Column("target", sa.Text, server_default="", nullable=False),
        sa.Column("node", sa.Text, server_default="", nullable=False),
        sa.Column("queue", sa.Text, server_default="", nullable=False),
        sa.Column("paused", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.Column("failures", sa.Integer, server_default="0", nullable=False),
        sa.Column("rests_until", Moment),
        sa.Column("error", sa.Text, server_default="", nullable=False),
        sa.Column("served_at", Moment),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channels")),
        sa.UniqueConstraint(
            "type", "source", "target", "node", "queue", name=op.f("uq_channels_type_source_target_node_queue")
        ),
    )


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", BigId, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("percent", sa.Float, server_default="0", nullable=False),
        sa.Column("queued", sa.Integer, server_default="0", nullable=False),
        sa.Column("todo", sa.Integer, server_default="0", nullable=False),
        sa.Column("running", sa.Integer, server_default="0", nullable=False),
        sa.Column("done", sa.Integer, server_default="0", nullable=False),
        sa.Column("failed", sa.Integer, server_default="0", nullable=False),
        sa.Column("cancelled", sa.Integer, server_default="0", nullable=False),
        sa.Column("bytes_total", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("bytes_done", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("not_before", Moment),
        sa.Column("deadline", Moment),
        sa.Column("deadline_lifted", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.Column("cancelled_at", Moment),
        sa.Column("cancelled_by", sa.Text),
        sa.Column("submitted_at", Moment, nullable=False),
        sa.Column("started_at", Moment),
        sa.Column("finished_at", Moment),
        sa.Column("origin", sa.Text, server_default="", nullable=False),
        sa.Column("queue", sa.Text, server_default="", nullable=False),
        sa.CheckConstraint(_STATES, name=op.f("ck_requests_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
        sa.UniqueConstraint("name", name=op.f("uq_requests_name")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_requests_state_id", "requests", ["state", "id"])
    in_queue = sa.text("queue <> ''")
    op.create_index(
        "ix_requests_queue", "requests", ["queue", "state"], sqlite_where=in_queue, postgresql_where=in_queue
    )


def _claims() -> None:
    op.create_table(
        "claims",
        sa.Column("id", BigId, nullable=False),
        sa.Column("agent_id", BigId, nullable=False),
        sa.Column("channel_id", BigId, nullable=False),
        sa.Column("claimed_at", Moment, nullable=False),
        sa.Column("file_id", BigId),
        sa.Column("bytes_now", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("progressed_at", Moment),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_claims_agent_id_agents")),
        sa.ForeignKeyConstraint(["channel_id"], ["channels.id"], name=op.f("fk_claims_channel_id_channels")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claims")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_claims_agent_id", "claims", ["agent_id"])
    op.create_index("ix_claims_channel_id", "claims", ["channel_id"])


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", BigId, nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("request_id", BigId),
        sa.Column("operation_id", BigId),
        sa.Column("file_id", BigId),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_events_request_id_requests"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_request_id", "events", ["request_id", "id"])


def _operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", BigId, nullable=False),
        sa.Column("request_id", BigId, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("targets", sa.Text, server_default="", nullable=False),
        sa.Column("node", sa.Text),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("queued", sa.Integer, server_default="0", nullable=False),
        sa.Column("todo", sa.Integer, server_default="0", nullable=False),
        sa.Column("running", sa.Integer, server_default="0", nullable=False),
        sa.Column("done", sa.Integer, server_default="0", nullable=False),
        sa.Column("failed", sa.Integer, server_default="0", nullable=False),
        sa.Column("cancelled", sa.Integer, server_default="0", nullable=False),
        sa.Column("bytes_total", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("bytes_done", sa.BigInteger, server_default="0", nullable=False),
        sa.CheckConstraint(_STATES, name=op.f("ck_operations_state")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_operations_request_id_requests"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        sa.UniqueConstraint("request_id", "sequence", name=op.f("uq_operations_request_id_sequence")),
        sqlite_autoincrement=True,
    )


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("id", BigId, nullable=False),
        sa.Column("request_id", BigId, nullable=False),
        sa.Column("operation_id", BigId, nullable=False),
        sa.Column("channel_id", BigId, nullable=False),
        sa.Column("lfn", sa.Text, nullable=False),
        sa.Column("pfn", sa.Text),
        sa.Column("size", sa.BigInteger),
        sa.Column("checksum", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("waits_on", sa.Text),
        sa.Column("not_before", Moment),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("leader_id", BigId),
        sa.Column("follows_id", BigId),
        sa.Column("token", sa.BigInteger),
        sa.Column("attempts", sa.Integer, server_default="0", nullable=False),
        sa.Column("failures", sa.Integer, server_default="0", nullable=False),
        sa.Column("error_class", sa.Text, server_default="", nullable=False),
        sa.Column("error", sa.Text, server_default="", nullable=False),
        sa.Column("bytes", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("found_size", sa.BigInteger),
        sa.Column("found_checksum", sa.Text),
        sa.Column("ended_at", Moment),
        sa.CheckConstraint("(state = 'Queued') = (waits_on IS NOT NULL)", name=op.f("ck_files_waits_on")),
        sa.CheckConstraint("(state = 'Running') = (token IS NOT NULL)", name=op.f("ck_files_token")),
        sa.CheckConstraint(_STATES, name=op.f("ck_files_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
        sqlite_autoincrement=True,
    )
    _partial_index("ix_files_due", "files", ["not_before"], "state = 'Queued' AND waits_on = 'time'")
    _partial_index("ix_files_follows_id", "files", ["follows_id"], "follows_id IS NOT NULL")
    _partial_index("ix_files_leader_id", "files", ["leader_id"], "leader_id IS NOT NULL")
    op.create_index("ix_files_operation_id", "files", ["operation_id"])
    _partial_index("ix_files_running", "files", ["token"], "state = 'Running'")
    _partial_index("ix_files_todo", "files", ["channel_id", sa.literal_column("priority DESC"), "id"], "state = 'ToDo'")


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("file_id", BigId, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("started_at", Moment, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error_class", sa.Text, server_default="", nullable=False),
        sa.Column("error", sa.Text, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("file_id", "attempt", name=op.f("pk_attempts")),
        sqlite_with_rowid=False,
    )


def _partial_index(name: str, table: str, columns: list[Any], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
