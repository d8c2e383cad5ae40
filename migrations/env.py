"""Alembic's environment: it runs only on the connection that `migrations.upgrade` hands over."""

from __future__ import annotations

from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext

from dtscore.database import metadata
from dtscore.errors import StateError
from migrations import VERSION_TABLE


def check_references(ctx: MigrationContext, *_others: Any, **_more: Any) -> None:
    """Refuse a migration on SQLite that leaves rows without their parents: foreign keys were off while it ran."""
    connection = ctx.connection
    if connection is None or connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise StateError(
            f"the migration would leave {len(broken)} rows without their parents, first: {broken[0]}",
            "it was rolled back; check the database: dts db check",
        )


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transaction_per_migration=True,
    transactional_ddl=True,  # alembic thinks that SQLite cannot; with BEGIN sent by us it can
    on_version_apply=check_references,
)
with context.begin_transaction():
    context.run_migrations()
