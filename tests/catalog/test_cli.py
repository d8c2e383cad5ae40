"""The program dts-catalog: what it prints, how it ends, and that it stays out of the way in a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from catalog import store
from catalog.cli import main
from catalog.store import Metadata
from dtscore.database import Database
from tests.catalog.samples import copy_of

LFN = "/des/raw/2026-11-20/DECam_00000001.fits"
Run = Callable[..., Result]


@pytest.fixture
def config(database: Database, tmp_path: Path) -> Path:
    """The configuration of a site with two elements and one catalogued file on one of them."""
    header = Metadata(instrument="DECam", exposure=1, filter="r", night=date(2026, 11, 20), object="hex 1")
    files = [copy_of(LFN, "ctio", metadata=header), copy_of("/des/readme", "ctio", size=7)]
    database.run(lambda connection: store.register(connection, files))
    path = tmp_path / "etc" / "dts.ini"
    path.parent.mkdir()
    url = database.url.render_as_string(hide_password=False)
    elements = "".join(f"[se.{name}]\ntype = file\nroot = {tmp_path / name}\n" for name in ("ctio", "fnal"))
    path.write_text(f"[site]\nname = test\n[database]\nurl = {url}\n{elements}", encoding="utf-8")
    return path


@pytest.fixture
def run(config: Path) -> Run:
    """Call dts-catalog in this process with the site's configuration."""

    def call(*words: str, given: str | None = None) -> Result:
        return CliRunner().invoke(main, [words[0], "--config", str(config), *words[1:]], input=given)

    return call


def test_ls_prints_folders_and_files(run: Run) -> None:
    """A folder ends with a slash; columns are separated by tabs."""
    done = run("ls", "/des")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "size\tchecksum\treplicas\tlfn",
        "\t\t\t/des/raw/",
        "7\tadler32:03da0195\tctio\t/des/readme",
    ]
    assert json.loads(run("ls", "/des", "--json").stdout)["folders"] == ["/des/raw"]
    assert LFN in run("ls", LFN).stdout


def test_replicas_reads_names_from_standard_input(run: Run) -> None:
    """Thousands of names go through a pipe; unknown ones are told on standard error, with their own exit code."""
    done = run("replicas", "-", given=f"{LFN}\n\n/no/such\n{LFN}\n")
    assert done.exit_code == 3
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].split("\t")[:3] == ["ctio", "Good", "full"]
    assert "/no/such" in done.stderr
    assert run("replicas", "/no").exit_code == 4
    many = "\n".join(f"/many/{number}" for number in range(3000))
    assert "and 2995 more" in run("replicas", "-", given=many).stderr


def test_show_and_find(run: Run) -> None:
    """Show gives the header too; find searches by it."""
    shown = run("show", LFN)
    assert shown.exit_code == 0, shown.output
    assert "filter\tr" in shown.stdout and "night\t2026-11-20" in shown.stdout
    assert json.loads(run("show", LFN, "--json").stdout)["metadata"]["exposure"] == 1
    found = run("find", "filter='r' and night='2026-11-20'")
    assert found.exit_code == 0 and found.stdout.splitlines()[1].endswith(LFN)
    assert json.loads(run("find", "size >= 0", "--limit", "1", "--json").stdout)[0]["lfn"] == "/des/readme"
    assert "more than 1" in run("find", "size >= 0", "--limit", "1").stderr


def test_register_writes_a_claim_that_is_suspect(run: Run) -> None:
    """By hand nothing becomes Good; other bytes, another path and an unknown element are refused."""
    words = ("--size", "2880", "--checksum", "ADLER32:3DA0195")
    done = run("register", LFN, "--element", "fnal", *words)
    assert done.exit_code == 0, done.output
    assert "Suspect until it is verified" in done.stderr
    assert run("register", LFN, "--element", "fnal", *words).exit_code == 0
    assert run("register", LFN, "--element", "fnal", "--pfn", "x", *words).exit_code == 6
    assert run("register", LFN, "--element", "fnal", "--size", "1", *words[2:]).exit_code == 6
    assert run("register", LFN, "--element", "fnla", *words).exit_code == 2
    assert run("register", LFN, "--element", "fnal", "--size", "1", "--checksum", "x").exit_code == 2
    assert run("register", LFN, "--element", "fnal", "--size", "1").exit_code == 2


def test_unregister_keeps_the_last_good_copy(run: Run) -> None:
    """The last copy goes only with --last-copy, and its entry with it; again is not found."""
    refused = run("unregister", LFN, "--element", "ctio")
    assert refused.exit_code == 6
    assert "--last-copy" in refused.stderr
    done = run("unregister", LFN, "--element", "ctio", "--last-copy", "--json")
    assert json.loads(done.stdout) == {"removed": True, "forgotten": True}
    assert run("show", LFN).exit_code == 4


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ls", "/none"), 4),
        (("ls", "relative"), 2),
        (("show", "/none"), 4),
        (("find", "filtr='r'"), 2),
        (("find", "filter='r'", "--limit", "0"), 2),
        (("replicas",), 2),
        (("replicas", "a\nb"), 2),
        (("unregister", "/none", "--element", "ctio"), 4),
    ],
)
def test_errors_have_a_hint_and_no_traceback(run: Run, words: tuple[str, ...], code: int) -> None:
    """Each error says what and what next, on standard error alone, with the documented exit code."""
    done = run(*words)
    assert done.exit_code == code
    assert done.stdout == ""
    assert "error:" in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["ls", "replicas", "show", "find", "register", "unregister"])
def test_every_command_has_an_example(verb: str) -> None:
    """The help shows how a command is called."""
    done = CliRunner().invoke(main, [verb, "--help"])
    assert done.exit_code == 0
    assert f"Example: dts-catalog {verb}" in done.stdout


def test_as_a_program(config: Path) -> None:
    """A real process prints tabs into a pipe and reads names from another."""
    program = [sys.executable, "-c", "from catalog.cli import main; main()"]
    done = subprocess.run(
        [*program, "replicas", "-", "--config", str(config)],
        input=f"{LFN}\n",
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    assert done.stdout.splitlines()[1].endswith(LFN)
    assert done.stderr == ""
