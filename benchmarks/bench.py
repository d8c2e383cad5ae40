"""One run of the benchmarks: how large it is, its folder, its databases and servers."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

from tests.services import PostgresServer, SshServer, create_tables, start_sshd

T = TypeVar("T")
Level = Literal["full", "quick", "tiny"]
BACKENDS = ("SQLite", "PostgreSQL")
HERE = Path(__file__).resolve().parent
PEERS = HERE / ".peers"
"""The peers' virtual environment: none of them is ever installed beside DTS."""


class Bench:
    """The means of one run; servers start when a row first asks for them. `tiny` is for the tests of the benchmarks."""

    def __init__(self, level: Level, folder: Path | None = None) -> None:
        """Make a folder of this run's own, on a disk and not in memory: below /var/tmp unless told."""
        self.level = level
        self.folder = Path(tempfile.mkdtemp(prefix="dts-bench-", dir=folder or "/var/tmp"))
        self._numbers = itertools.count(1)
        self._postgres: PostgresServer | None = None
        self._sshd: SshServer | None = None

    def size(self, full: T, quick: T, tiny: T) -> T:
        """Return what fits the level of this run."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.level]

    @property
    def repeats(self) -> int:
        """Turns of each comparison: at least five in a full run."""
        return self.size(5, 3, 1)

    @property
    def backends(self) -> tuple[str, ...]:
        """The databases to measure on."""
        return BACKENDS

    @property
    def postgres(self) -> PostgresServer:
        """A PostgreSQL server that waits for the disk, as an operator's does."""
        if self._postgres is None:
            self._postgres = PostgresServer(durable=True)
            self._postgres.make_template()
        return self._postgres

    @property
    def sshd(self) -> SshServer:
        """An OpenSSH server on loopback."""
        if self._sshd is None:
            self._sshd = start_sshd()
        return self._sshd

    @cached_property
    def peers(self) -> Path:
        """The Python of the peers' virtual environment, made or brought up to date when first asked for."""
        wanted = HERE / "peers-requirements.txt"
        stamp = PEERS / "installed.txt"
        python = PEERS / "bin" / "python"
        if not stamp.exists() or stamp.read_text() != wanted.read_text():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEERS)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(wanted)], check=True)
            stamp.write_text(wanted.read_text())
        return python

    def peer(self, program: str, *arguments: str) -> list[str]:
        """Return the command of a peer's program, run by the peers' own Python."""
        return [str(self.peers), str(HERE / "programs" / f"peer_{program}.py"), *arguments]

    def new_folder(self, name: str) -> Path:
        """Make an empty folder of this run."""
        folder = self.folder / f"{name}-{next(self._numbers)}"
        folder.mkdir()
        return folder

    @contextmanager
    def database(self, backend: str, *, empty: bool = False) -> Iterator[str]:
        """Give the URL of a new database, with all tables unless `empty`, and drop it at the end."""
        if backend == "SQLite":
            folder = self.new_folder("sqlite")
            url = f"sqlite:///{folder / 'dts.db'}"
            if not empty:
                create_tables(url)
            yield url
            shutil.rmtree(folder)
            return
        url = self.postgres.make_database(empty=empty)
        with self.postgres.connect() as connection:
            connection.execute("CHECKPOINT")
        yield url
        self.postgres.drop_database(url)

    def __enter__(self) -> Bench:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the servers and delete the folder."""
        if self._postgres is not None:
            self._postgres.remove()
        if self._sshd is not None:
            self._sshd.stop()
            shutil.rmtree(self._sshd.folder, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def plain_url(url: str) -> str:
    """Return a SQLAlchemy URL as the peers and psycopg take it."""
    return url.replace("postgresql+psycopg://", "postgresql://")
