"""The camera drill in its short form, against an image builder without one of its promises, and its checker alone."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.torture import exposures
from tests.torture.broken_exposures import VARIANTS, program
from tests.torture.exposurecheck import Exposures

Harm = Callable[[Exposures], object]
NOTICED = {
    "saved-before-the-commit": r"lost: .* was told SAVED, but is",
    "no-check-of-sums": r"partial: .* not those that were sent|lost: exposure \d+ is not saved",
    "pages-freed-early": r"lost: exposure \d+ is not saved",
}


def test_killed_builders_lose_no_exposure(tmp_path: Path) -> None:
    """20 SIGKILLs of collectors, builders and agents over 10 exposures: each is saved once, pixel by pixel."""
    result = exposures.run(tmp_path / "site", 10, 20, seed=5)
    assert result.failures == ()
    assert int(result.facts["while one was in work"]) > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_drill_notices(variant: str, tmp_path: Path) -> None:
    """An image builder that breaks a promise is caught, by what the checker must find."""
    result = exposures.run(tmp_path / "site", 4, 3, seed=5, program=program(variant), wait=10)
    assert any(re.search(NOTICED[variant], failure) for failure in result.failures), result.failures
    assert result.bound is None


def _sql(statement: str) -> Harm:
    def harm(known: Exposures) -> None:
        with closing(sqlite3.connect(known.database)) as link, link:
            link.execute(statement)

    return harm


def _path(known: Exposures) -> Path:
    return sorted(known.root.rglob("*.fits"))[0]


def _flip(known: Exposures) -> None:
    content = bytearray(_path(known).read_bytes())
    content[-5000] ^= 1
    _path(known).write_bytes(content)


HARMS: dict[str, tuple[Harm, str]] = {
    "a file vanishes": (lambda known: _path(known).unlink(), "lost"),
    "a pixel changes": (_flip, "partial"),
    "a file nobody asked for": (lambda known: _path(known).with_name("x.fits").write_bytes(b"x"), "duplicated"),
    "a file's row goes back": (_sql("UPDATE exposure_files SET state = 'Requested'"), "lost"),
    "a wrong checksum": (_sql("UPDATE exposure_files SET checksum = 'adler32:00000001'"), "misregistered"),
    "a replica vanishes": (_sql("DELETE FROM catalog_replicas"), "misregistered"),
    "a replica is bad": (_sql("UPDATE catalog_replicas SET state = 'Bad'"), "misregistered"),
    "a frame is not saved": (_sql("UPDATE exposure_frames SET state = 'Received'"), "miscounted"),
    "no accounting": (_sql("DELETE FROM accounting_attempts"), "miscounted"),
    "a PAN was told another file": (lambda known: known.told.update({1: {"/x"}}), "lost"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Exposures:
    """Two exposures of an undisturbed builder."""
    folder = tmp_path_factory.mktemp("camera") / "site"
    assert exposures.run(folder, 2, 0, seed=5).failures == ()
    known = Exposures(folder / "dts.db", folder / "archive", folder / "manifest.jsonl")
    with closing(sqlite3.connect(known.database)) as link:
        for number, lfn in link.execute("SELECT exposure_id, lfn FROM exposure_files"):
            assert known.at_once(number, (lfn,)) == []
    return known


@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_named(harm: str, finished: Exposures, tmp_path: Path) -> None:
    """What was done by hand is found and has the right name."""
    import shutil

    shutil.copytree(finished.database.parent, tmp_path / "site", ignore=shutil.ignore_patterns("run"))
    folder = tmp_path / "site"
    told = {number: set(lfns) for number, lfns in finished.told.items()}
    known = Exposures(folder / "dts.db", folder / "archive", folder / "manifest.jsonl", told)
    assert known.check() == []
    do, kind = HARMS[harm]
    do(known)
    assert any(finding.startswith(f"{kind}: ") for finding in known.check()), known.check()


def test_told_too_early_is_named(finished: Exposures, tmp_path: Path) -> None:
    """SAVED without a file, or with one that is not there yet."""
    known = Exposures(finished.database, finished.root, finished.manifest)
    assert known.at_once(1, ()) == ["lost: exposure 1 was told SAVED without a file"]
    assert "told SAVED" in known.at_once(2, ("/duo/raw/none.fits",))[0]
