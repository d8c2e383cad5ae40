"""Exposure numbers outlive the database: the highest is also kept in a file, which no restored backup takes back."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dtscore.database import Database
from dtscore.errors import ConfigurationError
from imagebuilder.intake import hand_out
from imagebuilder.records import Label


class Mark:
    """The highest exposure number that this host has handed out or received, in one small file."""

    def __init__(self, path: Path) -> None:
        """Keep the path; the file is made at the first number."""
        self._path = path

    def read(self) -> int:
        """Return the highest number, 0 where there is none; raises ConfigurationError for a damaged file."""
        try:
            text = self._path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return 0
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from error
        if not text.isdigit():
            raise self._damaged(f"it holds {text[:40]!r}")
        return int(text)

    def raise_to(self, number: int) -> None:
        """Make the mark at least `number`, durably, also when several processes do so at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(f"{self._path.name}-lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read() < number:
                self._write(number)

    def _write(self, number: int) -> None:
        fresh = self._path.with_name(f".{self._path.name}.tmp")
        with fresh.open("w", encoding="ascii") as stream:
            stream.write(f"{number}\n")
            stream.flush()
            os.fsync(stream.fileno())
        fresh.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _damaged(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"the mark of exposure numbers {self._path} cannot be read: {what}",
            "write into it, in digits alone, the highest exposure number that was ever used here",
        )


def take(
    database: Database, mark: Mark, camera: str, count: int = 1, program: str = "", *, prefix: str = ""
) -> list[Label]:
    """Hand out exposure numbers: committed, and above all that this host's mark knows of, which is raised to them."""
    above = mark.read()
    labels = database.run(lambda connection: hand_out(connection, camera, count, program, above=above, prefix=prefix))
    mark.raise_to(labels[-1].exposure)
    return labels
