"""`dts torture`: what it proves, and where it refuses to run."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dtsd.cli import main
from dtsd.drills import checker
from dtsd.drills.report import Result
from dtsd.site import create_site


def test_it_tries_a_disk_out_and_says_what_that_proves(tmp_path: Path) -> None:
    """A few kills, flips and (where there is root and a loop device) cuts pass, are counted, and leave nothing."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["torture", str(place), "--kills", "3", "--flips", "3", "--cuts", "2", "--seed", "7", "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    kill, flip, cut = json.loads(done.stdout)
    assert kill["tried"] == 3
    assert kill["bound"] == 1.0
    assert flip["tried"] >= 9
    assert cut["tried"] == 2 or cut["facts"]["not run"]
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("where", ["full", "site", "in the site", "element", "below the element", "missing"])
def test_it_refuses_where_data_lies(where: str, tmp_path: Path) -> None:
    """Not in a folder with files, nor in a site, nor in or below an element's root; and nothing is made there."""
    site = create_site(tmp_path / "site")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "site" / "new").mkdir()
    (tmp_path / "raw" / "new").mkdir(parents=True)
    site.config.write_text(site.config.read_text() + f"\n[se.raw]\ntype = file\nroot = {tmp_path}/raw/new\n")
    (tmp_path / "raw" / "new" / "deep").mkdir()
    places = {
        "full": "full", "site": "site", "in the site": "site/new", "element": "raw/new",
        "below the element": "raw/new/deep", "missing": "nothing",
    }  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(main, ["torture", str(tmp_path / places[where]), "--config", str(site.config)])
    assert done.exit_code in (4, 6), done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_the_checker_shares_no_code_with_what_it_checks() -> None:
    """It imports the standard library and psycopg, nothing else."""
    tree = ast.parse(Path(checker.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names | {"psycopg"}


@pytest.mark.parametrize(
    ("tried", "failures", "bound"), [(300, (), 0.01), (2, (), 1.0), (300, ("x",), None), (0, (), None)]
)
def test_the_bound(tried: int, failures: tuple[str, ...], bound: float | None) -> None:
    """0 of N failed proves at most 3/N; a failure, or nothing tried, proves nothing."""
    assert Result("kill", "kills", tried, failures, 1.0).bound == bound
