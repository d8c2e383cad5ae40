"""The site of a drill: source files with known content, a database, storage elements, and a manifest of all of it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtscore.config import load
from dtscore.database import Database
from dtscore.poke import poke
from dtsd.drills import checker
from reqdb import store
from reqdb.spec import FileSpec, OperationSpec, RequestSpec

QUICK: Mapping[str, str] = {
    "agents.poll_interval": "0.2 s",
    "agents.heartbeat": "0.3 s",
    "agents.lease": "2 s",
    "agents.grace": "5 s",
    "agents.batch": "10",
    "retry.base": "0.1 s",
    "retry.longest": "0.5 s",
    "retry.outage_longest": "0.5 s",
    "retry.attempts": "30",
    "timeout.base": "60 s",
}
"""Settings that make the clocks of a drill run fast; what they promise is the same."""

ENDED = ("Done", "Failed", "Cancelled")


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that was made and asked for: where it lies and what it holds."""

    lfn: str
    pfn: str
    size: int
    sha256: str
    adler32: str

    @property
    def spec(self) -> FileSpec:
        """The file as a request names it, with its size and checksum declared."""
        return FileSpec(self.lfn, self.pfn, self.size, f"adler32:{self.adler32}")


@dataclass
class DrillSite:
    """A site in a folder of its own: `local` is the source, `archive` and `vault` are targets."""

    folder: Path
    url: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    elements: dict[str, dict[str, str]] = field(default_factory=dict)
    roots: dict[str, Path] = field(default_factory=dict)
    expected: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    acknowledged: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make the folders, the configuration and the database."""
        self.url = self.url or f"sqlite:///{self.folder / 'dts.db'}"
        self.settings = {**QUICK, **self.settings}
        for name in ("local", "archive", "vault"):
            self.roots.setdefault(name, self.folder / name).mkdir(parents=True, exist_ok=True)
            self.elements.setdefault(name, {"type": "file", "root": str(self.roots[name])})
        (self.folder / "var" / "run").mkdir(parents=True, exist_ok=True)
        self.write()
        self._make_database()

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "etc" / "dts.ini"

    @property
    def lease(self) -> float:
        """Seconds that a claim outlives its agent."""
        return load(self.config).agents.lease

    def write(self) -> None:
        """Write the configuration."""
        sections: dict[str, dict[str, str]] = {"database": {"url": self.url}}
        for name, value in self.settings.items():
            section, _, key = name.rpartition(".")
            sections.setdefault(section, {})[key] = value
        sections.update({f"se.{name}": options for name, options in self.elements.items()})
        lines = [f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()) for name, keys in sections.items()]
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text("\n".join(lines), encoding="utf-8")

    def _make_database(self) -> None:
        import migrations

        database = Database(self.url)
        try:
            migrations.upgrade(database)
        finally:
            database.close()

    def make(self, names: Sequence[str], chance: random.Random, sizes: tuple[int, int]) -> list[Sent]:
        """Make source files of random content and length (bytes, from and to) on `local`."""
        return [self.make_one(name, chance.randbytes(chance.randint(*sizes))) for name in names]

    def make_one(self, name: str, content: bytes, *, pfn: str = "") -> Sent:
        """Make one source file; its LFN is /drill/NAME."""
        pfn = pfn or f"drill/{name}"
        path = self.roots["local"] / pfn
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        digest = hashlib.sha256(content).hexdigest()
        return Sent(f"/drill/{name}", pfn, len(content), digest, f"{zlib.adler32(content):08x}")

    def submit(
        self, sent: Sequence[Sent], target: str = "archive", *, refused: bool = False, poked: bool = True,
        **options: str,
    ) -> int:  # fmt: skip
        """Ask for the transfer of files to a target, note what must come of it, and poke the agents."""
        for one in sent:
            self._expect(one, target, refused)
        pairs = tuple(sorted(options.items()))
        operation = OperationSpec("transfer", tuple(one.spec for one in sent), "local", (target,), None, pairs)
        return self.request(operation, poked=poked)

    def request(self, operation: OperationSpec, *, poked: bool = True) -> int:
        """Submit a request of one operation and poke the agents; return its number."""
        database = Database(self.url)
        try:
            number = database.run(lambda link: store.submit(link, RequestSpec((operation,)), owner="drill")).id
        finally:
            database.close()
        if poked:
            poke(self.folder / "var" / "run", [operation.type])
        return number

    def _expect(self, one: Sent, target: str, refused: bool) -> None:
        before = self.expected.get((one.lfn, target), {"asked": 0})
        self.expected[one.lfn, target] = {
            "lfn": one.lfn, "target": target, "pfn": one.lfn.lstrip("/"), "size": one.size, "sha256": one.sha256,
            "adler32": one.adler32, "source": "local", "source_pfn": one.pfn, "source_sha256": one.sha256,
            "refused": refused, "asked": before["asked"] + 1,
        }  # fmt: skip

    def rows(self, query: str) -> list[Any]:
        """Return the rows of a plain SQL query."""
        database = Database(self.url)
        try:
            with database.read() as connection:
                return list(connection.exec_driver_sql(query).all())
        finally:
            database.close()

    def open_files(self) -> int:
        """Return how many files have not ended."""
        return int(self.rows("SELECT count(*) FROM files WHERE state NOT IN ('Done', 'Failed', 'Cancelled')")[0][0])

    def acknowledge(self) -> int:
        """Note, from outside, which transfers are Done now: they must be so for ever. Return how many are."""
        query = "SELECT f.lfn, c.target FROM files f JOIN channels c ON c.id = f.channel_id WHERE f.state = 'Done'"
        self.acknowledged |= {(lfn, target) for lfn, target in self.rows(query)}
        return len(self.acknowledged)

    def check(self, *, ended: bool = True) -> list[str]:
        """Write the manifest and let the checker judge; return what it found."""
        path = self.folder / "manifest.json"
        manifest = {
            "database": self.url, "roots": {name: str(root) for name, root in self.roots.items()},
            "files": list(self.expected.values()), "acknowledged": sorted(self.acknowledged),
        }  # fmt: skip
        path.write_text(json.dumps(manifest), encoding="utf-8")
        return [str(finding) for finding in checker.check(path, ended=ended)]

    def log(self) -> str:
        """Return what the agents logged."""
        path = self.folder / "agent.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.02) -> bool:
    """Wait until a condition holds; False if it did not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
