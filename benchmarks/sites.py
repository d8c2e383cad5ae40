"""Small sites with the default settings of an operator: a configuration, a database and storage elements."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from benchmarks.bench import Bench
from tests.services import SshServer

_PIECE = 1 << 20


@dataclass
class Site:
    """A site in a folder of its own; its `file` elements are folders beside the configuration."""

    folder: Path
    url: str
    sections: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The configuration file."""
        return self.folder / "etc" / "dts.ini"

    def add_file(self, name: str, root: Path | None = None) -> Path:
        """Add a `file` element; return its root."""
        place = root or self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        self.sections[f"se.{name}"] = {"type": "file", "root": str(place)}
        self._write()
        return place

    def add_sftp(self, name: str, server: SshServer, root: Path) -> None:
        """Add an element on an SSH server."""
        self.sections[f"se.{name}"] = {
            "type": "sftp", "host": server.host, "port": str(server.port), "user": server.user,
            "key_file": str(server.key), "known_hosts": str(server.known_hosts), "root": str(root),
        }  # fmt: skip
        self._write()

    def _write(self) -> None:
        sections = {"database": {"url": self.url}, **self.sections}
        lines = [f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()) for name, keys in sections.items()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(lines))


class NewSite:
    """A site on a new SQLite database that is gone at the end: `with NewSite(bench) as site`."""

    def __init__(self, bench: Bench, backend: str = "SQLite") -> None:
        """Choose the database."""
        self._bench, self._backend = bench, backend
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        """Make the folder, the database and the configuration."""
        folder = self._bench.new_folder("site")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return Site(folder, self._stack.enter_context(self._bench.database(self._backend)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete everything."""
        self._stack.close()


def make_files(folder: Path, count: int, size: int) -> list[str]:
    """Make files of random bytes in subfolders of 1,000; return their paths below `folder`. Synced to the disk."""
    names = []
    for number in range(count):
        name = f"{number // 1000:04d}/{number:08d}.dat" if count > 1 else "large.dat"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for begin in range(0, size, _PIECE):
                stream.write(os.urandom(min(_PIECE, size - begin)))
        names.append(name)
    settle()
    return names


def settle() -> None:
    """Let the disk finish what earlier turns have left to it, so that no turn pays for another."""
    os.sync()


def total_size(folder: Path, names: Sequence[str]) -> int:
    """Return the bytes of the files below a folder; OSError when one is missing."""
    return sum((folder / name).stat().st_size for name in names)
