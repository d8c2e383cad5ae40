"""The checker by itself: each kind of harm, made by hand on a finished site, is named."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dtsd.drills import processes
from dtsd.drills.launcher import Launcher
from dtsd.drills.site import DrillSite

Harm = Callable[[DrillSite], object]


def _sql(statement: str) -> Harm:
    def harm(site: DrillSite) -> None:
        with closing(sqlite3.connect(site.folder / "dts.db")) as link, link:
            link.execute(statement)

    return harm


def _cut_short(site: DrillSite) -> None:
    path = site.roots["archive"] / "drill" / "f1"
    path.write_bytes(path.read_bytes()[:-1])


HARMS: dict[str, tuple[Harm, str]] = {
    "a landed file vanishes": (lambda s: (s.roots["archive"] / "drill" / "f1").unlink(), "lost"),
    "a landed file is cut short": (_cut_short, "partial"),
    "a file nobody asked for": (lambda s: (s.roots["archive"] / "drill" / "f9").write_bytes(b"x"), "duplicated"),
    "a source vanishes": (lambda s: (s.roots["local"] / "drill" / "f1").unlink(), "lost"),
    "a source changes": (lambda s: (s.roots["local"] / "drill" / "f1").write_bytes(b"x"), "partial"),
    "a row goes back": (_sql("UPDATE files SET state = 'ToDo' WHERE id = 1"), "lost"),
    "a row vanishes": (_sql("DELETE FROM files WHERE id = 1"), "lost"),
    "a replica vanishes": (_sql("DELETE FROM catalog_replicas WHERE file_id = 1"), "misregistered"),
    "a wrong checksum": (_sql("UPDATE catalog_files SET checksum = 'adler32:00000001' WHERE id = 1"), "misregistered"),
    "a wrong size": (_sql("UPDATE catalog_files SET size = size + 1 WHERE id = 1"), "misregistered"),
    "a wrong place": (_sql("UPDATE catalog_replicas SET pfn = 'x' WHERE file_id = 1"), "misregistered"),
    "no accounting": (_sql("DELETE FROM accounting_attempts WHERE file_id = 1"), "misregistered"),
    "doubled accounting": (
        _sql(
            "INSERT INTO accounting_attempts SELECT file_id, attempt + 1, request_id, operation_type, owner, "
            "execution_site, source, destination, protocol, final_status, transfer_size, transfer_time, "
            "registration_time, transfer_ok, transfer_total, registration_ok, registration_total, error_class, "
            "throughput, started_at, ended_at, day, hour FROM accounting_attempts WHERE file_id = 1"
        ),
        "duplicated",
    ),
    "a wrong count": (_sql("UPDATE requests SET done = done + 1"), "miscounted"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> DrillSite:
    """A site with three files transferred."""
    site = DrillSite(tmp_path_factory.mktemp("finished") / "site")
    site.submit(site.make(["f1", "f2", "f3"], random.Random(1), (1000, 2000)))
    processes.once(str(site.config), "transfer")
    site.acknowledge()
    assert site.check() == []
    return site


@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_named(harm: str, finished: DrillSite, tmp_path: Path) -> None:
    """What was done by hand is found and has the right name."""
    site = _copy(finished, tmp_path / "copy")
    assert site.check() == []
    do, kind = HARMS[harm]
    do(site)
    found = site.check()
    assert any(finding.startswith(f"{kind}: ") for finding in found), found


def _copy(site: DrillSite, folder: Path) -> DrillSite:
    import shutil

    shutil.copytree(site.folder, folder)
    return DrillSite(folder, expected=dict(site.expected), acknowledged=set(site.acknowledged))


def test_the_launcher_starts_freezes_and_kills(tmp_path: Path) -> None:
    """Its processes are ours alone: they stop, they end, and they end with it."""
    with Launcher() as launcher:
        first, second = (launcher.start("time:sleep", log=tmp_path / "log") for _ in range(2))
        assert first.wait(10)  # time.sleep() without seconds is an error
        assert "TypeError" in (tmp_path / "log").read_text()
        assert second.wait(10)
        agent = launcher.agent(DrillSite(tmp_path / "site").config)
        assert agent.freeze()
        assert agent.alive
        agent.kill()
        assert not agent.alive
        last = launcher.agent(DrillSite(tmp_path / "other").config)
    assert not last.alive
