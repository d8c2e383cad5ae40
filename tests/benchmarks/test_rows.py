"""Each row of the benchmarks runs, at its smallest, without the peers' virtual environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import ROWS, main
from benchmarks.bench import Bench
from benchmarks.rows import claiming
from tests.services import PostgresServer, SshServer


@pytest.fixture
def bench(
    tmp_path: Path, postgres_server: PostgresServer, sshd: SshServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """A tiny run that borrows the tests' own servers and may not touch the peers."""
    monkeypatch.setattr(Bench, "postgres", postgres_server)
    monkeypatch.setattr(Bench, "sshd", sshd)
    monkeypatch.setattr(Bench, "peers", property(_refuse))
    with Bench("tiny", tmp_path) as made:
        yield made


def _refuse(_bench: Bench) -> Path:
    raise AssertionError("a tiny run needs no peer")


@pytest.mark.parametrize("row", [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
def test_a_row_measures_something(bench: Bench, row: int) -> None:
    """Every line of the row has a positive figure and ratio, and leaves nothing behind in the run's folder."""
    lines = ROWS[row](bench)
    assert lines
    assert all(line.row == row and line.ratio.least > 0 for line in lines)
    assert not [path for path in bench.folder.iterdir() if path.name.startswith(("site", "peer", "sqlite"))]


@pytest.mark.parametrize("backend", ["SQLite", "PostgreSQL"])
def test_workers_end_every_file_beside_finished_rows(bench: Bench, backend: str) -> None:
    """Two workers end all files of a queue, each once, in empty tables and beside finished rows."""
    lines = claiming._finished(bench, backend, (2,))
    assert [line.peer for line in lines] == ["empty tables"]


def test_an_unknown_row_is_refused() -> None:
    """A row that does not exist is a mistake in the command line, told before anything starts."""
    done = CliRunner().invoke(main, ["--rows", "1,99"])
    assert done.exit_code == 2
    assert "there is no row 99" in done.output
