"""The program `dts-accounting` as users call it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from accounting.cli import main
from accounting.queries import QUERIES
from accounting.store import AttemptRecord
from dtscore.database import Database


class Program:
    """Calls the program with a configuration that names the test's database."""

    def __init__(self, url: str, folder: Path) -> None:
        """Write the configuration."""
        self.config = folder / "dts.ini"
        self.config.write_text(f"[database]\nurl = {url}\n")

    def __call__(self, *words: str) -> Result:
        """Run one command."""
        return CliRunner().invoke(main, [*words, "--config", str(self.config)])


@pytest.fixture
def program(filled: Database, database_url: str, tmp_path: Path) -> Program:
    """The program over three nights of attempts."""
    return Program(database_url, tmp_path)


def test_report_in_a_pipe_is_plain(program: Program) -> None:
    """In a pipe: a header and one line of tab-separated cells for each channel; the period goes to standard error."""
    result = program("report", "--since", "all")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and "UTC" in result.stderr
    assert lines[0][:2] == ["source", "destination"] and len(lines) == 4
    assert {len(line) for line in lines} == {len(lines[0])}


def test_report_as_json_and_csv_agree(program: Program, records: list[AttemptRecord]) -> None:
    """--json and --csv print data alone, with the same numbers."""
    data = json.loads(program("report", "--since", "all", "--by", "owner", "--json").stdout)
    lines = list(csv.DictReader(io.StringIO(program("report", "--since", "all", "--by", "owner", "--csv").stdout)))
    assert data["total"]["attempts"] == len(records)
    assert [int(line["bytes_landed"]) for line in lines] == [row["bytes_landed"] for row in data["rows"]]


def test_report_of_an_empty_period_says_so(program: Program) -> None:
    """No attempts: a message on standard error, nothing on standard output, exit code 0."""
    result = program("report", "--since", "2020-01-01", "--until", "2020-01-02")
    assert (result.exit_code, result.stdout) == (0, "") and "no attempts in this period" in result.stderr


def test_export_gives_every_row(program: Program, records: list[AttemptRecord]) -> None:
    """CSV and JSON lines hold one entry for each attempt, and read back to the same values."""
    lines = list(csv.DictReader(io.StringIO(program("export").stdout)))
    objects = [json.loads(line) for line in program("export", "--json").stdout.splitlines()]
    assert len(lines) == len(objects) == len(records)
    ends = sorted(one.ended_at.isoformat().replace("+00:00", "Z") for one in records)
    assert [line["ended_at"] for line in lines] == ends == [entry["ended_at"] for entry in objects]
    assert sum(int(line["transfer_size"]) for line in lines) == sum(one.transfer_size for one in records)
    assert {line["throughput"] == "" for line in lines} == {True, False}


def test_sql_lists_prints_and_runs(program: Program) -> None:
    """`sql` lists all queries; `sql NAME` prints one that can be pasted; `--run` gives its columns and rows."""
    listed = program("sql").stdout.splitlines()[1:]
    assert [line.split("\t")[0] for line in listed] == list(QUERIES)
    printed = program("sql", "volume-by-day").stdout
    assert QUERIES["volume-by-day"].sql in printed and printed.startswith("-- ")
    rows = json.loads(program("sql", "volume-by-day", "--run", "--since", "all", "--json").stdout)
    assert tuple(rows[0]) == QUERIES["volume-by-day"].columns and len(rows) >= 3
    text = program("sql", "failures-by-error", "--run", "--since", "all", "--csv").stdout
    assert len(list(csv.reader(io.StringIO(text)))) > 3


@pytest.mark.parametrize("kind", ["all", "success"])
def test_plot_writes_the_file(program: Program, tmp_path: Path, kind: str) -> None:
    """`plot -o` writes the picture and says so on standard error."""
    result = program("plot", "-o", str(tmp_path / "a.png"), "--kind", kind, "--since", "all")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and "wrote" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("report", "--since", "soon"), 2, "not a moment"),
        (("report", "--since", "1d", "--until", "2d"), 2, "before it begins"),
        (("report", "--by", "moon"), 2, "moon"),
        (("report", "--json", "--csv"), 2, "both"),
        (("sql", "volume-by-dya"), 4, "volume-by-day"),
        (("sql", "--run"), 2, "name of a query"),
        (("plot", "-o", "a.gif"), 2, ".png"),
        (("plot", "-o", "a.png", "--since", "2020-01-01", "--until", "2020-01-02"), 4, "no attempts"),
    ],
)
def test_mistakes_are_told_in_words(program: Program, words: tuple[str, ...], code: int, message: str) -> None:
    """Every mistake ends with its documented exit code, an error and a hint, and nothing on standard output."""
    result = program(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert "error:" in result.stderr and message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("verb", ["report", "plot", "export", "sql"])
def test_help_has_an_example(verb: str) -> None:
    """Each command's help shows an example."""
    assert "Example: dts-accounting" in CliRunner().invoke(main, [verb, "--help"]).stdout
