"""The program dts-ib: labels, metadata, exposures and nodes as people see them, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dtscore.database import Database
from imagebuilder import exposures, nodes
from imagebuilder.cli import main
from imagebuilder.records import Built, NodeStatus, ReceivedFrame

Run = Callable[..., Result]


@pytest.fixture
def run(database: Database, tmp_path: Path) -> Run:
    """Call dts-ib in this process with the configuration of a site."""
    path = tmp_path / "etc" / "dts.ini"
    path.parent.mkdir()
    path.write_text(f"[database]\nurl = {database.url.render_as_string(hide_password=False)}\n", encoding="utf-8")

    def call(*words: Any) -> Result:
        return CliRunner().invoke(main, [str(words[0]), "--config", str(path), *map(str, words[1:])])

    return call


def _save(database: Database) -> int:
    """Take an exposure all the way to a saved version; return its number."""

    def work(connection: Any) -> int:
        number = exposures.hand_out(connection, "Duo")[0].exposure
        exposures.begin(connection, number, "Duo", node="a", pan="p", type="uint16", detectors=["S1"], expected=["S1"])
        exposures.received(connection, number, 1, [ReceivedFrame("S1", "p", "uint16", {})])
        (due,) = exposures.due(connection, "a", partial_after=1000)
        reserved = exposures.reserve_file(connection, due, "/duo/1.fits", "a")
        assert reserved is not None
        exposures.saved(connection, reserved, Built(9, "adler32:00000001", {}, ("EXPTIME: odd",), ("header",)))
        return number

    return database.run(work)


def test_labels_are_handed_out_by_the_camera(run: Run) -> None:
    """The camera's own name stands in the label; the next call goes on; an unknown camera is refused."""
    first = run("label", "--camera", "decam", "--count", 2, "--json")
    assert [one["label"] for one in json.loads(first.stdout)] == ["DECam_00000001", "DECam_00000002"]
    assert run("label", "--camera", "duo").stdout.split() == ["exposure", "label", "3", "Duo_00000003"]
    refused = run("label", "--camera", "decma")
    assert refused.exit_code == 78 and "decam" in refused.stderr


def test_metadata_is_posted_and_shown(run: Run) -> None:
    """Before any frame: the cards are kept, typed, and listed in the order of their coming."""
    run("label", "--camera", "duo")
    posted = run("metadata", 1, "EXPTIME=90", "OBJECT=M 31 / the target")
    assert posted.exit_code == 0 and "2 cards were kept for exposure 1" in posted.stderr
    run("metadata", 1, "CCDTEMP=173.2", "--detector", "S1")
    shown = json.loads(run("metadata", 1, "--json").stdout)
    assert [(one["detector"], one["keyword"], one["value"]) for one in shown] == [
        ("", "EXPTIME", 90), ("", "OBJECT", "M 31"), ("S1", "CCDTEMP", 173.2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code"), [(("7", "A=1"), 4), (("7",), 4), (("1", "EXPTIME"), 2), (("1", "TOOLONGNAME=1"), 2)]
)
def test_bad_metadata_is_refused(run: Run, words: tuple[str, ...], code: int) -> None:
    """An exposure that is not there, or what is no card: one error and a hint, and nothing is written."""
    run("label", "--camera", "duo")
    refused = run("metadata", *words)
    assert refused.exit_code == code and "hint:" in refused.stderr


def test_metadata_that_comes_too_late_is_told(run: Run, database: Database) -> None:
    """The file does not change any more: the cards are kept for a new version, and that is said."""
    number = _save(database)
    told = run("metadata", number, "A=1").stderr
    assert "/duo/1.fits stays, and a new version with them is built soon" in told


def test_exposures_are_listed_and_shown(run: Run, database: Database) -> None:
    """State, counts and file; `show` adds detectors, versions, flags and violations."""
    number = _save(database)
    run("label", "--camera", "duo")
    listed = json.loads(run("exposures", "--json").stdout)
    assert [(one["exposure"], one["state"]) for one in listed] == [(2, "Labelled"), (number, "Saved")]
    assert "/duo/1.fits" in run("exposures", "--state", "Saved").stdout
    shown = run("show", number)
    assert "header" in shown.stdout and "version 1: EXPTIME: odd" in shown.stderr
    assert json.loads(run("show", number, "--json").stdout)["files"][0]["checksum"] == "adler32:00000001"
    assert run("show", 99).exit_code == 4


def test_nodes_are_listed_drained_and_forgotten(run: Run, database: Database) -> None:
    """A living node gives exit code 0; a drained one says so; a forgotten one is gone."""
    assert run("nodes").exit_code == 0
    status = NodeStatus("builder1", "host", 7731, 10, 7, 1000, exposures=(4,))
    database.run(lambda connection: nodes.beat(connection, status))
    assert "active" in run("nodes").stdout
    assert run("drain", "builder1").exit_code == 0
    assert "draining" in run("nodes").stdout
    assert run("drain", "builder1", "--undo").exit_code == 0
    assert "active" in run("nodes").stdout
    assert run("drain", "nobody").exit_code == 4
    assert run("drain", "builder1", "--undo", "--forget").exit_code == 2
    assert run("drain", "builder1", "--forget").exit_code == 0
    assert "builder1" not in run("nodes").stdout
