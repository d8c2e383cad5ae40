"""The migrations: they make what the models say, lose no row, and take their DDL back when they fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection

import migrations
from dtscore.database import Database, metadata
from dtscore.errors import ConfigurationError, StateError
from tests import services

ROOT = Path(__file__).parents[2]
REVISIONS = ("0001", "0002", "0003", "0004", "0005")


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    """An open database without any table."""
    database = Database(empty_database_url)
    yield database
    database.close()


@pytest.fixture
def with_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Add one more migration, with the given body of its upgrade, to a copy of ours and use that."""

    def add(body: str) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("__pycache__"))
        head = (
            f"import sqlalchemy as sa\nfrom alembic import op\nrevision = '9999'\ndown_revision = {REVISIONS[-1]!r}\n"
        )
        (folder / "versions" / "v9999_test.py").write_text(f"{head}\ndef upgrade():\n{body}\n")
        monkeypatch.setattr(migrations, "_FOLDER", folder)

    return add


def test_models_and_migrations_agree(empty: Database) -> None:
    """Alembic finds no difference between the upgraded database and the models."""
    assert migrations.upgrade(empty) == REVISIONS
    with empty.read() as connection:
        options = {"compare_type": True, "version_table": migrations.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        found = compare_metadata(context, metadata)
    assert [one for one in found if not (empty.is_sqlite and _is_descending_index(one))] == []


def _is_descending_index(difference: Any) -> bool:
    """Tell a difference that is none: alembic reads SQLite's `priority DESC` back without DESC. See the next test."""
    return difference[0] in ("add_index", "remove_index") and difference[1].name == "ix_files_todo"


_POSTGRES_OBJECTS = """
SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint ' || conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'view ' || viewname, definition FROM pg_views WHERE schemaname = 'public'
UNION ALL SELECT 'trigger ' || tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'column ' || table_name || '.' || column_name,
  concat_ws(' ', data_type, collation_name, is_nullable, column_default, is_identity)
  FROM information_schema.columns WHERE table_schema = 'public'
"""


def _objects(database: Database) -> dict[str, str]:
    """Return everything that the database itself says it holds: alembic compares neither checks nor views."""
    with database.read() as connection:
        if database.is_sqlite:
            rows = connection.exec_driver_sql(
                "SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL"
            )
        else:
            rows = connection.execute(sa.text(_POSTGRES_OBJECTS))
        found = {name: _normal(sql) for name, sql in rows}
    return {name: sql for name, sql in found.items() if migrations.VERSION_TABLE not in name}


def _normal(sql: str) -> str:
    """Return the statement with blanks and the order of a table's parts made equal: order means nothing."""
    flat = re.sub(r"\s+", " ", sql).strip()
    if not flat.startswith("CREATE TABLE"):
        return flat
    head, _, rest = flat.partition("(")
    body, _, tail = rest.rpartition(")")
    return f"{head}({' | '.join(sorted(part.strip() for part in re.split(r', (?![^(]*[)])', body)))}){tail}"


def test_the_database_itself_says_the_same(empty: Database, database_url: str) -> None:
    """Tables, columns, indexes with their conditions, checks and views are equal, as the database prints them."""
    migrations.upgrade(empty)
    made = Database(database_url)
    expected, found = _objects(made), _objects(empty)
    made.close()
    assert set(found) == set(expected)
    assert found == expected


_OVERRIDES: dict[tuple[str, str], Any] = {
    ("agents", "state"): "Running",
    ("queues", "state"): "paused",
    ("hops", "direction"): "in",
    ("exposures", "state"): "Labelled",
    ("exposure_frames", "state"): "Expected",
    ("exposure_files", "state"): "Requested",
    ("requests", "state"): "ToDo",
    ("operations", "state"): "ToDo",
    ("files", "state"): "ToDo",
    ("files", "waits_on"): None,
    ("files", "token"): None,
    ("catalog_folders", "path"): "/a",
    ("catalog_files", "checksum"): "adler32:00000001",
    ("catalog_replicas", "state"): "Good",
    ("accounting_attempts", "final_status"): "Done",
}


def _value(table: str, column: sa.Column[Any]) -> Any:
    if (table, column.name) in _OVERRIDES:
        return _OVERRIDES[table, column.name]
    kind = column.type
    if isinstance(kind, sa.DateTime):
        return "2026-11-20 01:02:03.000000" if kind.timezone is False else datetime(2026, 11, 20, tzinfo=timezone.utc)
    if isinstance(kind, sa.Date):
        return date(2026, 11, 20)
    if isinstance(kind, sa.JSON):
        return {"a": 1}
    if isinstance(kind, sa.Boolean):
        return True
    return "x" if isinstance(kind, sa.Text) else 1


def _fill(connection: Connection) -> set[str]:
    """Put one row into each table that has none, as the database describes it, and return the tables."""
    reflected = sa.MetaData()
    reflected.reflect(connection)
    tables = [table for table in reflected.sorted_tables if table.name != migrations.VERSION_TABLE]
    for table in tables:
        if connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0:
            names = [column.name for column in table.columns]
            raw = {column.name: _value(table.name, column) for column in table.columns}
            marks = ", ".join(f":{name}" for name in names)
            quoted = ", ".join(f'"{name}"' for name in names)
            kinds = [sa.bindparam(name, type_=sa.JSON() if isinstance(raw[name], dict) else None) for name in names]
            text = sa.text(f'INSERT INTO "{table.name}" ({quoted}) VALUES ({marks})').bindparams(*kinds)
            connection.execute(text, raw)
    return {table.name for table in tables}


def _content(connection: Connection, tables: set[str]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [dict(row) for row in connection.execute(sa.text(f'SELECT * FROM "{name}"')).mappings()]
        for name in sorted(tables)
    }


def test_upgrading_step_by_step_loses_no_row(empty: Database) -> None:
    """With a row in every table there is, each further migration leaves all of them as they were."""
    tables: set[str] = set()
    for revision in REVISIONS:
        with empty.read() as connection:
            before = _content(connection, tables)
        assert migrations.upgrade(empty, revision) == (revision,)
        with empty.write() as connection:
            assert _content(connection, set(before)) == before
            tables = _fill(connection)
    assert tables == set(metadata.tables)
    with empty.read() as connection:
        assert all(len(rows) == 1 for rows in _content(connection, tables).values())


def test_upgrading_twice_changes_nothing(empty: Database) -> None:
    """The second run has nothing to do, and `status` says so before and after."""
    before = migrations.status(empty)
    assert (before.current, before.pending) == ("", REVISIONS)
    migrations.upgrade(empty)
    assert migrations.upgrade(empty) == ()
    after = migrations.status(empty)
    assert (after.current, after.head, after.pending) == (REVISIONS[-1], REVISIONS[-1], ())


def test_rebuilding_a_parent_keeps_its_children(empty: Database, with_migration: Callable[[str], None]) -> None:
    """Batch mode on SQLite drops and renames the parent table; with foreign keys on, its children would go too."""
    migrations.upgrade(empty)
    with empty.write() as connection:
        tables = _fill(connection)
    with_migration(
        "    kind = 'always' if op.get_bind().dialect.name == 'sqlite' else 'auto'\n"
        "    with op.batch_alter_table('requests', recreate=kind) as batch:\n"
        "        batch.add_column(sa.Column('colour', sa.Text))"
    )
    assert migrations.upgrade(empty) == ("9999",)
    with empty.write() as connection:
        assert all(len(rows) == 1 for rows in _content(connection, tables).values())
        if empty.is_sqlite:
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1, "they are on again"


def test_a_failed_migration_is_taken_back_whole(empty: Database, with_migration: Callable[[str], None]) -> None:
    """DDL that ran before the failure is gone, the earlier migrations stay, and the next try may succeed."""
    with_migration("    op.create_table('half', sa.Column('a', sa.Integer))\n    op.execute('SELECT * FROM nowhere')")
    with pytest.raises(StateError) as caught:
        migrations.upgrade(empty)
    assert "9999" in caught.value.message
    assert "rolled back" in caught.value.message
    assert migrations.status(empty).current == REVISIONS[-1]
    with empty.read() as connection:
        assert "half" not in sa.inspect(connection).get_table_names()


def test_a_migration_that_orphans_rows_is_refused(tmp_path: Path, with_migration: Callable[[str], None]) -> None:
    """Foreign keys are off on SQLite while it runs, so they are checked before it commits."""
    database = Database(f"sqlite:///{tmp_path}/dts.db")
    migrations.upgrade(database)
    with database.write() as connection:
        _fill(connection)
    with_migration("    op.execute('DELETE FROM requests')")
    with pytest.raises(StateError, match="without their parents"):
        migrations.upgrade(database)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM requests").scalar_one() == 1
    database.close()


def test_a_newer_database_is_refused(empty: Database) -> None:
    """An old DTS must not work on tables that it does not know."""
    migrations.upgrade(empty)
    with empty.write() as connection:
        connection.execute(sa.text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9998'"))
    for work in (migrations.status, migrations.upgrade):
        with pytest.raises(ConfigurationError, match="newer than this DTS"):
            work(empty)


def test_upgrades_at_the_same_moment(empty_database_url: str) -> None:
    """Several processes that start together do not stumble over each other; the work is done once."""
    script = "import sys, migrations as m; from dtscore.database import Database as D; print(m.upgrade(D(sys.argv[1])))"
    running = [
        subprocess.Popen([sys.executable, "-c", script, empty_database_url], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    said = sorted(process.communicate(timeout=120)[0].decode().strip() for process in running)
    assert said == [str(REVISIONS), "()", "()"]


def test_there_is_no_way_back() -> None:
    """A downgrade would lose rows: no migration offers one."""
    assert not [
        path.name for path in (ROOT / "migrations" / "versions").glob("*.py") if "def downgrade" in path.read_text()
    ]


def test_the_template_database_is_what_the_models_make(sqlite_url: str) -> None:
    """The fixtures of all other tests stand on the same tables."""
    assert {module.__name__ for module in services.ROOMS_WITH_TABLES} == {
        "reqdb.models",
        "catalog.models",
        "accounting.models",
        "imagebuilder.models",
    }
    database = Database(sqlite_url)
    with database.read() as connection:
        assert set(sa.inspect(connection).get_table_names()) == set(metadata.tables)
    database.close()
