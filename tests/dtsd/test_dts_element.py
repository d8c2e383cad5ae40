"""Daemons as storage elements of a site: checked, filled by agents, filled from each other, verified, emptied."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from agents import runner
from dtscore.config import load
from dtsd.cli import main
from dtsd.drills.site import DrillSite
from reqdb.spec import OperationSpec
from tests.daemons import Daemon


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DrillSite]:
    """A site whose `archive` and `vault` are two daemons, and whose configuration names them as remotes."""
    one, two = Daemon(tmp_path / "one", name="one"), Daemon(tmp_path / "two", name="two")
    one.remotes = {"two": two.as_remote()}
    one.write()
    elements = {
        "archive": {"type": "dts", "remote": "one", "folder": "archive"},
        "vault": {"type": "dts", "remote": "two", "folder": "a/vault"},
    }
    roots = {"archive": one.root / "archive", "vault": two.root / "a/vault"}
    made = DrillSite(tmp_path / "site", "", {}, elements, roots)
    sections = [f"[remote.{d.name}]\n" + "".join(f"{k} = {v}\n" for k, v in d.as_remote().items()) for d in (one, two)]
    made.config.write_text(made.config.read_text() + "\n" + "\n".join(sections))
    yield_from = (one.start(), two.start())
    yield made
    for daemon in yield_from:
        daemon.stop()


def work(site: DrillSite, *agents: str) -> None:
    """Let agents do all that there is to be done."""
    runner.once(load(site.config), agents)


def ask(site: DrillSite, kind: str, lfns: list[str], source: str, target: str) -> None:
    """Submit a request of one operation and have it done."""
    from reqdb.spec import FileSpec

    site.request(OperationSpec(kind, tuple(FileSpec(lfn) for lfn in lfns), source, (target,)), poked=False)
    work(site, kind)


def states(site: DrillSite) -> list[tuple[str, str]]:
    """Return state and reason of all files."""
    return [tuple(row) for row in site.rows("SELECT state, error_class FROM files ORDER BY id")]


def test_it_is_checked_like_any_element(site: DrillSite) -> None:
    """`dts se check` writes, reads back, publishes and removes a file over there."""
    result = CliRunner().invoke(main, ["--config", str(site.config), "se", "check", "archive", "vault"])
    assert result.exit_code == 0, result.output
    assert [path for path in site.roots["archive"].rglob("*") if path.is_file()] == []


def test_files_go_from_here_to_one_and_on_to_the_other(site: DrillSite) -> None:
    """Transfer here → archive → vault, verify both, remove from the archive into its trash: catalog and disks agree."""
    chance = random.Random(5)
    sent = site.make(["large"], chance, (5_000_000, 5_000_001)) + site.make(["a", "b", "c"], chance, (1, 400_000))
    lfns = [one.lfn for one in sent]
    site.submit(sent, "archive", poked=False)
    work(site, "transfer")
    ask(site, "transfer", lfns, "archive", "vault")
    ask(site, "verify", lfns, "", "vault")
    ask(site, "remove", lfns, "", "archive")
    assert {state for state, _ in states(site)} == {"Done"}, states(site)
    for one in sent:
        assert (site.roots["vault"] / one.lfn.lstrip("/")).read_bytes() == (site.roots["local"] / one.pfn).read_bytes()
        assert not (site.roots["archive"] / one.lfn.lstrip("/")).exists()
    trashed = [path.name for path in (site.roots["archive"] / ".trash").rglob("*") if path.is_file()]
    assert sorted(trashed) == sorted(lfn.rpartition("/")[2] for lfn in lfns)
    protocols = {row[0] for row in site.rows("SELECT protocol FROM accounting_attempts WHERE protocol != ''")}
    assert "dts" in protocols
