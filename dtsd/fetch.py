"""Fetching files of the catalog into a local folder, verified, through the replica manager like everything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.replica_manager import ReplicaManager
from catalog import store as catalog
from dtscore.config import Config
from dtscore.database import Database
from dtscore.errors import NotFoundError, UsageError
from dtscore.names import split_lfn
from storage.registry import Elements


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched: its logical name, where it lies now, and its size in bytes."""

    lfn: str
    path: Path
    size: int


def fetch(config: Config, database: Database, lfns: Sequence[str], folder: Path) -> Iterator[Fetched]:
    """Fetch files into a folder under their base names, each from any good replica, best first.

    A file that is there already with the same bytes is left alone. Raises NotFoundError for a name that the catalog
    does not know, UsageError when two names would meet in one file, and WorkError.
    """
    with database.read() as connection:
        entries = catalog.lookup(connection, lfns)
    _check(lfns, set(entries))
    folder.mkdir(parents=True, exist_ok=True)
    elements = Elements(config.elements)
    try:
        manager = ReplicaManager(elements, config)
        for lfn in lfns:
            path = manager.get(entries[lfn], folder.absolute(), split_lfn(lfn)[1])
            yield Fetched(lfn, path, entries[lfn].size)
    finally:
        elements.close()


def _check(lfns: Sequence[str], known: set[str]) -> None:
    """Refuse everything before the first byte is fetched."""
    names: dict[str, str] = {}
    for lfn in lfns:
        if lfn not in known:
            hint = f"look at its folder: dts-catalog ls {split_lfn(lfn)[0]}"
            raise NotFoundError(f"the catalog does not know {lfn}", hint)
        other = names.setdefault(split_lfn(lfn)[1], lfn)
        if other != lfn:
            raise UsageError(f"{other} and {lfn} have the same base name", "fetch them into different folders")
