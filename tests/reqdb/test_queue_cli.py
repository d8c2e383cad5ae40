"""The program dts-queue and `dts-request history`: every verb, its JSON, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dtscore.config import load
from dtscore.database import Database
from reqdb import cli, queues
from reqdb.queue_cli import main
from tests.reqdb.driving import FakeAgent


@pytest.fixture
def site(database: Database, database_url: str, tmp_path: Path) -> Path:
    """A site with a queue, a route and one file in it."""
    (tmp_path / "etc").mkdir()
    for name in ("local", "archive"):
        (tmp_path / name).mkdir()
    elements = "".join(f"[se {name}]\ntype = file\nroot = {name}\n" for name in ("local", "archive"))
    queue = "[queue des]\ntarget = archive\n[route all]\nqueue = des\n"
    (tmp_path / "etc/dts.ini").write_text(f"[database]\nurl = {database_url}\n{elements}{queue}")
    (tmp_path / "local/a.fits").write_bytes(b"pixels")
    config = load(tmp_path / "etc/dts.ini")
    file = queues.look_at(config, tmp_path / "local/a.fits")
    database.run(lambda connection: queues.submit_file(connection, config, config.queues["des"], [file], owner="me"))
    return tmp_path


def run(site: Path, verb: str, *arguments: str) -> Result:
    """Call dts-queue."""
    return CliRunner().invoke(main, [verb, "--config", str(site), *arguments])


def test_list_and_show(site: Path) -> None:
    """What stands in a queue, for people and as JSON."""
    result = run(site, "list")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split("\t")[:6] == ["des", "normal", "running", "1", "1", "0"]
    (one,) = json.loads(run(site, "list", "--json").stdout)
    assert (one["name"], one["state"], one["requests"], one["bytes_left"]) == ("des", "running", 1, 6)
    shown = run(site, "show", "des").stdout
    assert "1 open requests: 0 files queued, 1 ready" in shown


def test_pause_stop_start(site: Path) -> None:
    """Who did it and why is kept and shown."""
    assert run(site, "pause", "des", "--reason", "disk swap").stdout == "queue des is paused\n"
    shown = run(site, "show", "des").stdout
    assert "paused by " in shown
    assert "disk swap" in shown
    assert json.loads(run(site, "stop", "des", "--json").stdout)["state"] == "stopped"
    assert run(site, "start", "des").stdout == "queue des starts: 0 files\n"
    assert json.loads(run(site, "show", "des", "--json").stdout)["state"] == "running"


def test_poke_flush_restart(site: Path) -> None:
    """Each says how many files it moved."""
    assert run(site, "poke", "des").exit_code == 0
    assert run(site, "flush", "des").stdout == "queue des is empty: 1 files\n"
    assert run(site, "restart", "des").stdout == "queue des starts anew: 0 files\n"


@pytest.mark.parametrize("verb", ["show", "start", "stop", "pause", "poke", "flush", "restart"])
def test_an_unknown_queue(site: Path, verb: str) -> None:
    """It suggests the nearest; nothing is written."""
    result = run(site, verb, "dse")
    assert result.exit_code == 4 or getattr(result.exception, "exit_code", 0) == 4
    assert getattr(result.exception, "hint", "did you mean 'des'?") == "did you mean 'des'?"


def test_route(site: Path) -> None:
    """Which queue a file would get, under which name."""
    assert run(site, "route", str(site / "local/a.fits")).stdout == "des\n"
    found = json.loads(run(site, "route", "--json", str(site / "local/a.fits")).stdout)
    assert found == {"queue": "des", "lfn": "/a.fits"}


def test_history(site: Path, database: Database) -> None:
    """A request and its steps."""
    FakeAgent(database).work()
    result = CliRunner().invoke(cli.main, ["history", "--config", str(site), "1"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("dts queue des: request 1 (des:/a.fits:")
    assert lines[1].strip().startswith("Done, 1 of 1 done, 0 failed; submitted ")
    assert lines[2].strip() == "transfer → archive: Done 1/1"
    (node,) = json.loads(CliRunner().invoke(cli.main, ["history", "--config", str(site), "--json", "1"]).stdout)
    assert (node["parent"], node["state"], node["queue"]) == (-1, "Done", "des")
