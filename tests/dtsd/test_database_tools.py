"""`dts db`: upgrade, check and backup, on both databases."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import Result

from dtscore.config import load
from dtscore.database import Database
from dtscore.errors import ConfigurationError, DtsError, StateError
from dtsd import database_tools
from tests import services

Dts = Callable[..., Result]


def test_upgrade_and_check(either_site: Path, dts: Dts, backend: str) -> None:
    """`check` ends with 1 while an upgrade is needed, names it, and with 0 afterwards."""
    if backend == "sqlite":
        (either_site / "var/dts.db").unlink()
    before = dts(either_site, "db", "check", "--json")
    assert before.exit_code == 1
    assert json.loads(before.stdout)["pending"] == ["0001", "0002", "0003", "0004", "0005"]
    assert "dts db upgrade" in dts(either_site, "db", "check").stdout
    assert "0001, 0002, 0003, 0004, 0005" in dts(either_site, "db", "upgrade").stderr
    assert "up to date" in dts(either_site, "db", "upgrade").stderr
    after = dts(either_site, "db", "check", "--json")
    assert (after.exit_code, json.loads(after.stdout)["integrity"]) == (0, "ok")


def test_a_backup_holds_every_committed_row(either_site: Path, dts: Dts, tmp_path: Path, backend: str) -> None:
    """Rows that are still in the write-ahead log are in it; a second backup to the same name is refused."""
    dts(either_site, "db", "upgrade")
    database = Database(load(either_site).database.url)
    with database.write() as connection:
        connection.execute(
            sa.text("INSERT INTO channels (type, source, target, node) VALUES ('transfer', 'a', 'b', '')")
        )
    result = dts(either_site, "db", "backup", tmp_path / "copy", "--json")
    database.close()
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["size"] == (tmp_path / "copy").stat().st_size
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0
    if backend == "sqlite":
        with sqlite3.connect(tmp_path / "copy") as copy:
            assert copy.execute("SELECT source, target FROM channels").fetchall() == [("a", "b")]
    else:
        shown = subprocess.run(["pg_restore", "-f", "-", tmp_path / "copy"], check=True, capture_output=True).stdout
        assert b"transfer\ta\tb" in shown
    again = dts(either_site, "db", "backup", tmp_path / "copy")
    assert again.exit_code == 6
    assert "never overwrites" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".copy", "copy"))) == ["copy"]


def test_a_backup_while_others_write_is_whole(site: Path, tmp_path: Path) -> None:
    """Each transaction writes two rows; a copy that saw half of one would hold an odd number."""
    database = Database(load(site).database.url)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with database.write() as connection:
                for node in ("x", "y"):
                    connection.execute(
                        sa.text("INSERT INTO channels (type, source, target, node) VALUES ('t', :s, 'b', :n)"),
                        {"s": str(number), "n": node},
                    )
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            database_tools.backup(database, tmp_path / f"copy{number}")
    finally:
        stop.set()
        writer.join()
        database.close()
    for number in range(5):
        with sqlite3.connect(tmp_path / f"copy{number}") as copy:
            assert copy.execute("SELECT COUNT(*) % 2 FROM channels").fetchone() == (0,)


def test_without_a_name_the_backup_goes_into_the_site(site: Path, dts: Dts) -> None:
    """var/backup/dts-DATE.db."""
    assert dts(site, "db", "backup").exit_code == 0
    (backup,) = (site / "var/backup").iterdir()
    assert backup.name.startswith("dts-2")


def test_a_damaged_database_gives_no_backup(site: Path, tmp_path: Path, dts: Dts) -> None:
    """What the integrity check refuses does not appear under the backup's name."""
    path = site / "var/dts.db"
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start : start + 64] = b"\xff" * 64
    path.write_bytes(content)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(DtsError):
        database_tools.backup(database, tmp_path / "copy")
    database.close()
    assert [entry.name for entry in tmp_path.iterdir() if "copy" in entry.name] == []
    assert dts(site, "db", "check").exit_code != 0


def test_a_backup_that_cannot_be_written(site: Path, tmp_path: Path) -> None:
    """No folder, no database: one clear error each."""
    database = Database(load(site).database.url)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        database_tools.backup(database, tmp_path / "absent" / "copy")
    (site / "var/dts.db").unlink()
    with pytest.raises(ConfigurationError, match="no database"):
        database_tools.backup(database, tmp_path / "copy")
    database.close()


def test_pg_dump_missing_or_failing(
    postgres_server: services.PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are errors of ours, with a hint; an empty database is refused, since its backup would hold nothing."""
    url = postgres_server.make_database(empty=True)
    database = Database(url)
    with pytest.raises(StateError, match="no table"):
        database_tools.backup(database, tmp_path / "copy")
    gone = Database(url.replace("/test_", "/absent_"))
    with pytest.raises(DtsError, match="pg_dump failed"):
        database_tools.backup(gone, tmp_path / "copy")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="not installed"):
        database_tools.backup(database, tmp_path / "copy")
    database.close()
    postgres_server.drop_database(url)


def test_a_database_that_is_away(site: Path, dts: Dts) -> None:
    """Exit code 5: try again."""
    ini = site / "etc/dts.ini"
    ini.write_text(ini.read_text().replace("sqlite:///var/dts.db", "postgresql+psycopg://u@127.0.0.1:1/x"))
    for verb in ("check", "upgrade"):
        result = dts(site, "db", verb)
        assert result.exit_code == 5, result.stderr
        assert "cannot be reached" in result.stderr


def test_the_status_of_the_example() -> None:
    """`is_good` needs both: no pending migration and a sound file."""
    good = database_tools.DatabaseState("u", "1", "1", (), "ok")
    assert good.is_good
    assert not database_tools.DatabaseState("u", "1", "2", ("2",), "ok").is_good
    assert not database_tools.DatabaseState("u", "1", "1", (), "broken").is_good
