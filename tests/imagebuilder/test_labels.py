"""Exposure numbers stay unique when the database is restored from a backup, and when many processes take them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dtscore.database import Database
from dtscore.errors import ConfigurationError
from dtsd import database_tools
from imagebuilder.labels import Mark, take


def test_a_mark_only_rises(tmp_path: Path) -> None:
    """It begins at 0, is made with its folder, and a lower number leaves it as it is."""
    mark = Mark(tmp_path / "var" / "numbers")
    assert mark.read() == 0
    mark.raise_to(7)
    mark.raise_to(3)
    assert Mark(tmp_path / "var" / "numbers").read() == 7


@pytest.mark.parametrize("content", [b"", b"seven", b"-1", b"7 8", b"\xff"])
def test_a_damaged_mark_is_refused(write_file: Callable[[str, bytes], Path], content: bytes) -> None:
    """To begin again at 1 would use numbers twice."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Mark(write_file("numbers", content)).read()


def test_numbers_taken_after_a_backup_are_not_taken_again_when_it_is_restored(tmp_path: Path, sqlite_url: str) -> None:
    """The backup knows number 1 alone; after it is put back, the next number is above all that were told to anybody."""
    mark, backup = Mark(tmp_path / "numbers"), tmp_path / "backup.db"
    database = Database(sqlite_url)
    assert [one.exposure for one in take(database, mark, "duo")] == [1]
    database_tools.backup(database, backup)
    assert [one.exposure for one in take(database, mark, "duo", 5)] == [2, 3, 4, 5, 6]
    database.close()
    restored = Database(f"sqlite:///{backup}")
    assert [one.exposure for one in take(restored, mark, "duo", 2)] == [7, 8]
    restored.close()


_RAISER = """
import sys
from pathlib import Path
from imagebuilder.labels import Mark
for number in range(int(sys.argv[2]), 400, 8):
    Mark(Path(sys.argv[1])).raise_to(number)
"""


def test_processes_that_raise_the_mark_at_once_never_lower_it(tmp_path: Path) -> None:
    """Eight processes raise it in turns of their own: at the end it is the highest number of all."""
    path = tmp_path / "numbers"
    raisers = [subprocess.Popen([sys.executable, "-c", _RAISER, str(path), str(first)]) for first in range(1, 9)]
    assert [raiser.wait(timeout=100) for raiser in raisers] == [0] * 8
    assert Mark(path).read() == 399
