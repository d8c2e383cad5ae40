"""The catalog: folders, files, replicas, header metadata and the trash."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.types import BigId, Moment, Name

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _catalog_folders()
    _catalog_trash()
    _catalog_files()
    _catalog_metadata()
    _catalog_replicas()


def _catalog_folders() -> None:
    op.create_table(
        "catalog_folders",
        sa.Column("id", BigId, autoincrement=True, nullable=False),
        sa.Column("path", Name, nullable=False),
        sa.Column("parent_id", BigId),
        sa.CheckConstraint("substr(path, 1, 1) = '/'", name=op.f("ck_catalog_folders_path_absolute")),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["catalog_folders.id"], name=op.f("fk_catalog_folders_parent_id_catalog_folders")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_folders")),
        sa.UniqueConstraint("path", name=op.f("uq_catalog_folders_path")),
    )
    op.create_index(op.f("ix_catalog_folders_parent_id"), "catalog_folders", ["parent_id"])


def _catalog_trash() -> None:
    op.create_table(
        "catalog_trash",
        sa.Column("id", BigId, autoincrement=True, nullable=False),
        sa.Column("lfn", sa.Text, nullable=False),
        sa.Column("element", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("trashed_at", Moment, nullable=False),
        sa.Column("purge_after", Moment, nullable=False),
        sa.Column("error", sa.Text, server_default="", nullable=False),
        sa.CheckConstraint("size >= 0", name=op.f("ck_catalog_trash_size_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_trash")),
        sa.UniqueConstraint("element", "path", name="uq_catalog_trash_element_path"),
    )
    op.create_index(op.f("ix_catalog_trash_purge_after"), "catalog_trash", ["purge_after"])


def _catalog_files() -> None:
    op.create_table(
        "catalog_files",
        sa.Column("id", BigId, autoincrement=True, nullable=False),
        sa.Column("folder_id", BigId, nullable=False),
        sa.Column("name", Name, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("registered_at", Moment, nullable=False),
        sa.CheckConstraint("checksum <> ''", name=op.f("ck_catalog_files_checksum_not_empty")),
        sa.CheckConstraint("name <> ''", name=op.f("ck_catalog_files_name_not_empty")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_catalog_files_size_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_files")),
        sa.UniqueConstraint("folder_id", "name", name="uq_catalog_files_folder_id_name"),
    )


def _catalog_metadata() -> None:
    op.create_table(
        "catalog_metadata",
        sa.Column("file_id", BigId, nullable=False),
        sa.Column("instrument", sa.Text),
        sa.Column("exposure", sa.BigInteger),
        sa.Column("observation", sa.Text),
        sa.Column("detector", sa.BigInteger),
        sa.Column("filter", sa.Text),
        sa.Column("physical_filter", sa.Text),
        sa.Column("object", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("exposure_time", sa.Double),
        sa.Column("date", Moment),
        sa.Column("night", sa.Date),
        sa.Column("ra", sa.Double),
        sa.Column("dec", sa.Double),
        sa.Column("proposal", sa.Text),
        sa.Column("flags", sa.Text),
        sa.Column("supersedes", sa.Text),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["catalog_files.id"],
            name=op.f("fk_catalog_metadata_file_id_catalog_files"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_catalog_metadata")),
    )
    op.create_index("ix_catalog_metadata_date", "catalog_metadata", ["date"])
    op.create_index("ix_catalog_metadata_dec", "catalog_metadata", ["dec"])
    op.create_index("ix_catalog_metadata_exposure", "catalog_metadata", ["exposure"])
    op.create_index("ix_catalog_metadata_night_filter", "catalog_metadata", ["night", "filter"])
    op.create_index("ix_catalog_metadata_object", "catalog_metadata", ["object"])


def _catalog_replicas() -> None:
    op.create_table(
        "catalog_replicas",
        sa.Column("file_id", BigId, autoincrement=False, nullable=False),
        sa.Column("element", sa.Text, nullable=False),
        sa.Column("pfn", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_before", sa.Text, server_default="", nullable=False),
        sa.Column("registered_at", Moment, nullable=False),
        sa.Column("verified_at", Moment),
        sa.Column("depth", sa.Text, nullable=False),
        sa.Column("error", sa.Text, server_default="", nullable=False),
        sa.CheckConstraint(
            "state <> 'Good' OR verified_at IS NOT NULL", name=op.f("ck_catalog_replicas_good_is_verified")
        ),
        sa.CheckConstraint(
            "state = 'Good' OR state = 'Suspect' OR state = 'Bad' OR state = 'Deleting'",
            name=op.f("ck_catalog_replicas_state_known"),
        ),
        sa.PrimaryKeyConstraint("file_id", "element", name=op.f("pk_catalog_replicas")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_catalog_replicas_element_state", "catalog_replicas", ["element", "state"])
