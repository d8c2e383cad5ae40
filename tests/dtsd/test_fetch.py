"""`dts get`: a file of the catalog comes back verified, or not at all."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from catalog import store as catalog
from dtscore.config import load
from dtscore.database import Database

CONTENT = b"pixels" * 1000
LFN = "/night/a.fits"


@pytest.fixture
def stocked(site: Path) -> Path:
    """A site whose catalog knows one file on `local` and on `archive`."""
    database = Database(load(site).database.url)
    checksum = f"adler32:{zlib.adler32(CONTENT):08x}"
    for element in ("local", "archive"):
        (site / element / "night").mkdir()
        (site / element / "night" / "a.fits").write_bytes(CONTENT)
        one = catalog.Registration(LFN, len(CONTENT), checksum, element, "night/a.fits", "full")
        database.run(lambda connection, one=one: catalog.register(connection, [one]))  # type: ignore[misc]
    database.close()
    return site


Dts = Callable[..., Result]


def test_a_file_is_fetched_from_any_good_replica(stocked: Path, dts: Dts, tmp_path: Path) -> None:
    """One damaged replica does not matter while there is a good one, and fetching twice is safe."""
    (stocked / "archive/night/a.fits").write_bytes(CONTENT[:-1] + b"!")
    for _ in range(2):
        assert dts(stocked, "get", LFN, "--to", tmp_path / "here").exit_code == 0
    assert (tmp_path / "here/a.fits").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["a.fits"]


def test_nothing_is_fetched_when_all_replicas_are_bad(stocked: Path, dts: Dts, tmp_path: Path) -> None:
    """With wrong bytes everywhere the command fails and leaves no file."""
    for element in ("local", "archive"):
        (stocked / element / "night/a.fits").write_bytes(CONTENT[:-1] + b"!")
    assert dts(stocked, "get", LFN, "--to", tmp_path / "here").exit_code != 0
    assert list((tmp_path / "here").iterdir()) == []


def test_an_unknown_name_is_not_found(stocked: Path, dts: Dts, tmp_path: Path) -> None:
    """An unknown name ends the command before anything is fetched."""
    result = dts(stocked, "get", LFN, "/night/none.fits", "--to", tmp_path / "here")
    assert result.exit_code != 0
    assert not (tmp_path / "here").exists()
