"""The image builder: nodes, exposures, their frames, header metadata and files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.types import BigId, Moment

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OPEN = "state IN ('Receiving', 'Complete', 'Partial')"


def upgrade() -> None:
    """Make the tables."""
    _builder_numbers()
    _builder_nodes()
    _exposures()
    _exposure_frames()
    _exposure_metadata()
    _exposure_files()


def _builder_numbers() -> None:
    op.create_table(
        "builder_numbers",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_builder_numbers")),
    )


def _builder_nodes() -> None:
    op.create_table(
        "builder_nodes",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("draining", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.Column("heartbeat_at", Moment, nullable=False),
        sa.Column("pages", sa.Integer, nullable=False),
        sa.Column("free", sa.Integer, nullable=False),
        sa.Column("page_bytes", sa.BigInteger, nullable=False),
        sa.Column("exposures", sa.JSON, nullable=False),
        sa.Column("software", sa.Text, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_builder_nodes")),
    )


def _exposures() -> None:
    op.create_table(
        "exposures",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("camera", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("program", sa.Text, server_default="", nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("node", sa.Text, server_default="", nullable=False),
        sa.Column("assignment", sa.Integer, server_default="0", nullable=False),
        sa.Column("labelled_at", Moment, nullable=False),
        sa.Column("begun_at", Moment),
        sa.Column("touched_at", Moment),
        sa.Column("revise", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.CheckConstraint(
            "state IN ('Labelled', 'Receiving', 'Complete', 'Partial', 'Saved')", name=op.f("ck_exposures_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exposures")),
        sa.UniqueConstraint("label", name=op.f("uq_exposures_label")),
    )
    op.create_index(
        "ix_exposures_open", "exposures", ["node"], sqlite_where=sa.text(_OPEN), postgresql_where=sa.text(_OPEN)
    )
    late = sa.text("revise")
    op.create_index("ix_exposures_revise", "exposures", ["node"], sqlite_where=late, postgresql_where=late)


def _exposure_frames() -> None:
    op.create_table(
        "exposure_frames",
        sa.Column("exposure_id", sa.BigInteger, nullable=False),
        sa.Column("detector", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("pan", sa.Text, server_default="", nullable=False),
        sa.Column("type", sa.Text, server_default="", nullable=False),
        sa.Column("blocks", sa.JSON, nullable=False),
        sa.Column("received_at", Moment),
        sa.Column("saved_in", sa.Integer),
        sa.CheckConstraint(
            "state IN ('Expected', 'Receiving', 'Received', 'Saved')", name=op.f("ck_exposure_frames_state")
        ),
        _of_exposure("exposure_frames"),
        sa.PrimaryKeyConstraint("exposure_id", "detector", name=op.f("pk_exposure_frames")),
    )


def _exposure_metadata() -> None:
    op.create_table(
        "exposure_metadata",
        sa.Column("id", BigId, autoincrement=True, nullable=False),
        sa.Column("exposure_id", sa.BigInteger, nullable=False),
        sa.Column("detector", sa.Text, server_default="", nullable=False),
        sa.Column("keyword", sa.Text, nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("comment", sa.Text, server_default="", nullable=False),
        sa.Column("source", sa.Text, server_default="", nullable=False),
        sa.Column("posted_at", Moment, nullable=False),
        _of_exposure("exposure_metadata"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exposure_metadata")),
        sa.UniqueConstraint(
            "exposure_id", "detector", "keyword", name=op.f("uq_exposure_metadata_exposure_id_detector_keyword")
        ),
    )


def _exposure_files() -> None:
    op.create_table(
        "exposure_files",
        sa.Column("exposure_id", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("lfn", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("assignment", sa.Integer, nullable=False),
        sa.Column("request_id", sa.BigInteger),
        sa.Column("detectors", sa.JSON, nullable=False),
        sa.Column("missing", sa.JSON, nullable=False),
        sa.Column("supersedes", sa.Text, server_default="", nullable=False),
        sa.Column("flags", sa.JSON, nullable=False),
        sa.Column("violations", sa.JSON, nullable=False),
        sa.Column("datasums", sa.JSON, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("checksum", sa.Text, server_default="", nullable=False),
        sa.Column("made_at", Moment, nullable=False),
        sa.Column("saved_at", Moment),
        sa.Column("cards_at", Moment),
        sa.CheckConstraint("state IN ('Requested', 'Saved', 'Abandoned')", name=op.f("ck_exposure_files_state")),
        _of_exposure("exposure_files"),
        sa.PrimaryKeyConstraint("exposure_id", "version", name=op.f("pk_exposure_files")),
        sa.UniqueConstraint("lfn", name=op.f("uq_exposure_files_lfn")),
    )


def _of_exposure(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_exposure_id_exposures")
    return sa.ForeignKeyConstraint(["exposure_id"], ["exposures.id"], name=name, ondelete="CASCADE")
