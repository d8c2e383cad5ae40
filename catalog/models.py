"""The catalog's tables: folders, files, replicas, header metadata and the trash.

A file's folder is a column of its own, so that listing a folder is an index look-up and never `LIKE 'prefix%'`.
"""

from __future__ import annotations

import sqlalchemy as sa

from dtscore.database import BigId, UtcDateTime, metadata, one_of

Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that sorts by code point on both databases, so that pages of a listing come in one order everywhere."""

STATES = ("Good", "Suspect", "Bad", "Deleting")
"""Good: checked and readable. Suspect: to be verified. Bad: known to be wrong. Deleting: being removed, no source."""

catalog_folders = sa.Table(
    "catalog_folders",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("path", Name, nullable=False, unique=True),
    sa.Column("parent_id", BigId, sa.ForeignKey("catalog_folders.id"), index=True),
    sa.CheckConstraint("substr(path, 1, 1) = '/'", name="path_absolute"),
)

catalog_files = sa.Table(
    "catalog_files",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("folder_id", BigId, nullable=False),
    sa.Column("name", Name, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
    sa.Column("registered_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("folder_id", "name", name="uq_catalog_files_folder_id_name"),
    sa.CheckConstraint("size >= 0", name="size_not_negative"),
    sa.CheckConstraint("checksum <> ''", name="checksum_not_empty"),
    sa.CheckConstraint("name <> ''", name="name_not_empty"),
)

catalog_replicas = sa.Table(
    "catalog_replicas",
    metadata,
    sa.Column("file_id", BigId, primary_key=True, autoincrement=False),
    sa.Column("element", sa.Text, primary_key=True),
    sa.Column("pfn", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("state_before", sa.Text, nullable=False, server_default=""),
    sa.Column("registered_at", UtcDateTime, nullable=False),
    sa.Column("verified_at", UtcDateTime),
    sa.Column("depth", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False, server_default=""),
    sa.CheckConstraint(one_of("state", STATES), name="state_known"),
    sa.CheckConstraint("state <> 'Good' OR verified_at IS NOT NULL", name="good_is_verified"),
    sa.Index("ix_catalog_replicas_element_state", "element", "state"),
    sqlite_with_rowid=False,
)

"""No foreign keys from file to folder and from replica to file: checking them costs as much as the insert itself.
Folders are never deleted, and the one place that deletes an entry does it only where no replica is left."""

catalog_metadata = sa.Table(
    "catalog_metadata",
    metadata,
    sa.Column("file_id", BigId, sa.ForeignKey("catalog_files.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("instrument", sa.Text),
    sa.Column("exposure", sa.BigInteger),
    sa.Column("observation", sa.Text),
    sa.Column("detector", sa.BigInteger),
    sa.Column("filter", sa.Text),
    sa.Column("physical_filter", sa.Text),
    sa.Column("object", sa.Text),
    sa.Column("type", sa.Text),
    sa.Column("exposure_time", sa.Double),
    sa.Column("date", UtcDateTime),
    sa.Column("night", sa.Date),
    sa.Column("ra", sa.Double),
    sa.Column("dec", sa.Double),
    sa.Column("proposal", sa.Text),
    sa.Column("flags", sa.Text),
    sa.Column("supersedes", sa.Text),
    sa.Index("ix_catalog_metadata_night_filter", "night", "filter"),
    sa.Index("ix_catalog_metadata_exposure", "exposure"),
    sa.Index("ix_catalog_metadata_object", "object"),
    sa.Index("ix_catalog_metadata_date", "date"),
    sa.Index("ix_catalog_metadata_dec", "dec"),
)

catalog_trash = sa.Table(
    "catalog_trash",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("lfn", sa.Text, nullable=False),
    sa.Column("element", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("trashed_at", UtcDateTime, nullable=False),
    sa.Column("purge_after", UtcDateTime, nullable=False, index=True),
    sa.Column("error", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("element", "path", name="uq_catalog_trash_element_path"),
    sa.CheckConstraint("size >= 0", name="size_not_negative"),
)
