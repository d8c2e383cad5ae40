"""Custody of whole files: fetch a replica or take a file, find what the database holds of it, and prove its pixels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from astropy.io import fits

from agents.replica_manager import ReplicaManager
from catalog import store as catalog
from catalog.records import Entry
from dtscore.config import Config
from dtscore.database import Database
from dtscore.errors import NotFoundError, UsageError
from imagebuilder import exposures
from imagebuilder.camera import Camera, find_camera
from imagebuilder.custody import Finding, Recorded, prove
from imagebuilder.mefile import primary_records
from imagebuilder.page import BlockSum
from imagebuilder.records import Exposure, FileState
from storage.registry import Elements


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to look at: where it lies now, its camera, where it came from, and what the database holds of it."""

    path: Path
    camera: Camera
    source: str
    recorded: Recorded


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found about a file, and where it was read from."""

    source: str
    findings: list[Finding]


@contextmanager
def proven(config: Config, database: Database, name: str, element: str = "") -> Iterator[Proof]:
    """Give the proof of a file or of a replica of an LFN; raises NotFoundError, UsageError, WorkError."""
    with local_file(config, database, name, element) as file:
        yield Proof(file.source, prove(file.path, file.camera, file.recorded))


@contextmanager
def local_file(config: Config, database: Database, name: str, element: str = "") -> Iterator[LocalFile]:
    """Give a local file for a path or an LFN; a replica is fetched into the cache folder and dropped at the end."""
    path = Path(name)
    if path.is_file() and not element:
        yield _of_path(config, database, path)
        return
    with database.read() as connection:
        entry = catalog.lookup(connection, [name]).get(name)
        found = exposures.exposure_of(connection, name)
        recorded = _recorded(connection, found, name)
    if entry is None:
        raise NotFoundError(f"{name} is neither a file here nor in the catalog", "see: dts-ib exposures")
    entry = _only(entry, element)
    config.cache.folder.mkdir(parents=True, exist_ok=True)
    elements = Elements(config.elements)
    try:
        with tempfile.TemporaryDirectory(prefix="verify-", dir=config.cache.folder) as folder:
            fetched = ReplicaManager(elements, config).get(entry, Path(folder), name.rpartition("/")[2])
            camera = _camera(config, found.line.camera if found else "", fetched)
            source = f"{name} on {element}" if element else name
            yield LocalFile(fetched, camera, source, replace(recorded, size=entry.size, checksum=entry.checksum))
    finally:
        elements.close()


def _primary_header(path: Path) -> fits.Header:
    return fits.Header.fromstring(b"".join(primary_records(path)).decode("ascii"))


def _only(entry: Entry, element: str) -> Entry:
    """Return an entry with the replica on one element alone, if one is named."""
    if not element:
        return entry
    kept = tuple(replica for replica in entry.replicas if replica.element == element)
    if not kept:
        there = ", ".join(replica.element for replica in entry.replicas) or "none"
        raise NotFoundError(f"{entry.lfn} has no replica on {element}", f"its replicas are on: {there}")
    return replace(entry, replicas=kept)


def _of_path(config: Config, database: Database, path: Path) -> LocalFile:
    """Return a file of this host with what the database holds of the exposure and version that its header names."""
    header = _primary_header(path)
    found, recorded = None, Recorded()
    number, version = header.get("EXPNUM"), header.get("VERSION", 1)
    if isinstance(number, int):
        with database.read() as connection:
            try:
                found = exposures.find(connection, number)
            except NotFoundError:
                found = None
            file = next((one for one in found.files if one.version == version), None) if found else None
            if file is not None:
                recorded = _recorded(connection, found, file.lfn)
    if path.suffix == ".fz" or str(header.get("FILENAME", "")) != path.name:
        recorded = replace(recorded, size=None, checksum="")  # a copy of the pixels, and not the same bytes
    return LocalFile(path, _camera(config, found.line.camera if found else "", path), str(path), recorded)


def _recorded(connection: Any, found: Exposure | None, lfn: str) -> Recorded:
    """Return the sums that the database keeps of a saved version."""
    file = next((one for one in found.files if one.lfn == lfn), None) if found else None
    if file is None or file.state is not FileState.SAVED:
        return Recorded()
    blocks = {
        detector: {name: tuple(BlockSum(one.row, one.rows, one.crc32c) for one in sums) for name, sums in each.items()}
        for detector, each in exposures.sums_of(connection, lfn).items()
    }
    return Recorded(file.size, file.checksum, file.datasums, blocks)


def _camera(config: Config, name: str, path: Path) -> Camera:
    """Return the camera of a file: as the database says, else as its header does."""
    header: Mapping[str, Any] = {} if name else _primary_header(path)
    wanted = name or str(header.get("INSTRUME", "")).lower()
    if not wanted:
        raise UsageError(f"{path} does not say of which camera it is", "is it a file of the image builder?")
    return find_camera(wanted, [config.imagebuilder.cameras])
