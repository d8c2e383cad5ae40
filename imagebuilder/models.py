"""The tables of the image builder. Only the modules behind imagebuilder.exposures, headers and nodes write them."""

from __future__ import annotations

import sqlalchemy as sa

from dtscore.database import BigId, UtcDateTime, metadata

numbers = sa.Table(
    "builder_numbers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
)
"""The last number handed out. One row that only grows: a sequence would leave gaps, which look like lost exposures."""

nodes = sa.Table(
    "builder_nodes",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("heartbeat_at", UtcDateTime, nullable=False),
    sa.Column("pages", sa.Integer, nullable=False),
    sa.Column("free", sa.Integer, nullable=False),
    sa.Column("page_bytes", sa.BigInteger, nullable=False),
    sa.Column("exposures", sa.JSON, nullable=False),
    sa.Column("software", sa.Text, nullable=False, server_default=""),
)

exposures = sa.Table(
    "exposures",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("camera", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False, unique=True),
    sa.Column("program", sa.Text, nullable=False, server_default=""),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False, server_default=""),
    sa.Column("assignment", sa.Integer, nullable=False, server_default="0"),
    sa.Column("labelled_at", UtcDateTime, nullable=False),
    sa.Column("begun_at", UtcDateTime),
    sa.Column("touched_at", UtcDateTime),
    sa.Column("revise", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.CheckConstraint("state IN ('Labelled', 'Receiving', 'Complete', 'Partial', 'Saved')", name="state"),
    sa.Index(
        "ix_exposures_open",
        "node",
        sqlite_where=sa.text("state IN ('Receiving', 'Complete', 'Partial')"),
        postgresql_where=sa.text("state IN ('Receiving', 'Complete', 'Partial')"),
    ),
    sa.Index("ix_exposures_revise", "node", sqlite_where=sa.text("revise"), postgresql_where=sa.text("revise")),
)
"""`touched_at` is when anything last came for it: silence makes an exposure partial.

`revise` says that metadata were posted which its newest file may not have."""

frames = sa.Table(
    "exposure_frames",
    metadata,
    sa.Column("exposure_id", sa.BigInteger, sa.ForeignKey("exposures.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("detector", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("pan", sa.Text, nullable=False, server_default=""),
    sa.Column("type", sa.Text, nullable=False, server_default=""),
    sa.Column("blocks", sa.JSON, nullable=False),
    sa.Column("received_at", UtcDateTime),
    sa.Column("saved_in", sa.Integer),
    sa.CheckConstraint("state IN ('Expected', 'Receiving', 'Received', 'Saved')", name="state"),
)
"""One row for each expected detector; `blocks` is {amplifier: [[row, rows, crc32c], …]} as received."""

headers = sa.Table(
    "exposure_metadata",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("exposure_id", sa.BigInteger, sa.ForeignKey("exposures.id", ondelete="CASCADE"), nullable=False),
    sa.Column("detector", sa.Text, nullable=False, server_default=""),
    sa.Column("keyword", sa.Text, nullable=False),
    sa.Column("value", sa.JSON, nullable=False),
    sa.Column("comment", sa.Text, nullable=False, server_default=""),
    sa.Column("source", sa.Text, nullable=False, server_default=""),
    sa.Column("posted_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("exposure_id", "detector", "keyword"),
)

files = sa.Table(
    "exposure_files",
    metadata,
    sa.Column("exposure_id", sa.BigInteger, sa.ForeignKey("exposures.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("lfn", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("assignment", sa.Integer, nullable=False),
    sa.Column("request_id", sa.BigInteger),
    sa.Column("detectors", sa.JSON, nullable=False),
    sa.Column("missing", sa.JSON, nullable=False),
    sa.Column("supersedes", sa.Text, nullable=False, server_default=""),
    sa.Column("flags", sa.JSON, nullable=False),
    sa.Column("violations", sa.JSON, nullable=False),
    sa.Column("datasums", sa.JSON, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("checksum", sa.Text, nullable=False, server_default=""),
    sa.Column("made_at", UtcDateTime, nullable=False),
    sa.Column("saved_at", UtcDateTime),
    sa.Column("cards_at", UtcDateTime),
    sa.CheckConstraint("state IN ('Requested', 'Saved', 'Abandoned')", name="state"),
)
"""One row for each version of an exposure's file, reserved before it is built and filled in when it is registered.

`cards_at` is when the latest of the metadata was posted that its header has."""
