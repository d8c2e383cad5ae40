"""Making a site: what lies in its folder, and which folders are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import migrations
from dtscore.config import load
from dtscore.database import Database
from dtscore.errors import ConfigurationError, StateError
from dtsd.cli import main
from dtsd.site import create_site


def test_a_new_site_is_complete(tmp_path: Path) -> None:
    """Configuration, an upgraded database, spool folders and two storage elements; all paths inside the folder."""
    site = create_site(tmp_path / "night one")
    config = load(site.config)
    assert config.site.name == "night-one"
    assert set(config.elements) == {"local", "archive"}
    for element in config.elements.values():
        assert Path(element.options["root"]).is_dir()
    assert sorted(path.name for path in config.spool.folder.iterdir()) == ["Done", "Failed", "Running", "ToDo"]
    assert config.cache.folder.is_dir()
    assert config.run.folder.is_dir()
    database = Database(config.database.url)
    assert migrations.status(database).pending == ()
    database.close()


def test_the_site_may_be_moved(tmp_path: Path) -> None:
    """Nothing in it names its own place."""
    create_site(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    config = load(tmp_path / "b")
    assert config.database.url == f"sqlite:///{tmp_path}/b/var/dts.db"
    assert str(tmp_path / "a") not in (tmp_path / "b/etc/dts.ini").read_text()


def test_a_second_init_changes_nothing(tmp_path: Path) -> None:
    """It says so and ends well, for scripts that run it each time."""
    site = create_site(tmp_path / "a")
    site.config.write_text("[site]\nname = mine\n")
    again = create_site(tmp_path / "a")
    assert not again.is_new
    assert site.config.read_text() == "[site]\nname = mine\n"
    result = CliRunner().invoke(main, ["init", str(tmp_path / "a")])
    assert result.exit_code == 0
    assert "is a site already" in result.stderr


def test_others_files_are_left_alone(tmp_path: Path) -> None:
    """A folder with anything else in it is refused, and nothing is written there."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StateError, match=r"thesis\.tex"):
        create_site(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StateError, match="not a folder"):
        create_site(tmp_path / "thesis.tex")


def test_an_init_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    """The configuration is written last, so what a killed init left is no site yet and may be completed."""
    create_site(tmp_path / "a")
    (tmp_path / "a/etc/dts.ini").unlink()
    assert create_site(tmp_path / "a").is_new


def test_an_empty_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dts init .` works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["init", ".", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "folder": str(tmp_path),
        "config": str(tmp_path / "etc/dts.ini"),
        "is_new": True,
    }


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A path below a file is one clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        create_site(tmp_path / "file" / "site")
    assert os.listdir(tmp_path) == ["file"]
