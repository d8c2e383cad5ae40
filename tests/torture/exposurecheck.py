"""The independent checker of the camera drill: what was sent, what the PANs were told, the database and the files.

It shares no code with DTS: it reads the manifest that the simulated camera wrote before it sent anything, the folder of
the storage element, the database in plain SQL, and FITS files with astropy. Once an exposure is told SAVED, its file is
there, whole and registered, at that moment and for ever.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sqlite3
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

_TEMPORARY = re.compile(r"\..*\.[A-Za-z0-9-]{1,64}\.part\Z")
_FILES = "SELECT exposure_id, version, lfn, state, size, checksum FROM exposure_files"
_FRAMES = "SELECT exposure_id, detector, state, saved_in FROM exposure_frames"
_REPLICAS = """
SELECT d.path, f.name, f.size, f.checksum, r.pfn, r.state
FROM catalog_replicas r JOIN catalog_files f ON f.id = r.file_id JOIN catalog_folders d ON d.id = f.folder_id"""
_ACCOUNTED = "SELECT file_id, count(*) FROM accounting_attempts WHERE final_status = 'Done' GROUP BY file_id"
_BUILT = """
SELECT f.id, f.lfn, f.state FROM files f JOIN operations o ON o.id = f.operation_id WHERE o.type = 'build'"""


@dataclass
class Exposures:
    """What the drill knows: where database and files are, the camera's manifest, and what PANs were told is SAVED."""

    database: Path
    root: Path
    manifest: Path
    told: dict[int, set[str]] = field(default_factory=dict)

    def at_once(self, exposure: int, lfns: tuple[str, ...]) -> list[str]:
        """Check, the moment after a PAN was told SAVED, that file and rows are there; keep in mind what was told."""
        self.told.setdefault(exposure, set()).update(lfns)
        if not lfns:
            return [f"lost: exposure {exposure} was told SAVED without a file"]
        found = []
        rows = {lfn: (state, size) for _, _, lfn, state, size, _ in self._ask(_FILES)}
        for lfn in lfns:
            path = self.root / lfn.lstrip("/")
            state, size = rows.get(lfn, ("not there", -1))
            if not path.exists() or state != "Saved" or path.stat().st_size != size:
                there = path.stat().st_size if path.exists() else "no"
                found.append(
                    f"lost: {lfn} was told SAVED, but is {state} in the database with {there} bytes on the disk"
                )
        return found

    def check(self) -> list[str]:
        """Return everything that is wrong now that all work is over."""
        sent = self._sent()
        return [*self._check_rows(sent), *self._check_files(sent), *self._check_catalog(), *self._check_accounts()]

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)) as link:
            return link.execute(query).fetchall()

    def _sent(self) -> dict[int, dict[str, dict[str, Any]]]:
        """Return the sums of what the camera exposed, by exposure and detector."""
        sent: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
        for line in self.manifest.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            sent[one["exposure"]][one["detector"]] = one
        return sent

    def _check_rows(self, sent: dict[int, dict[str, dict[str, Any]]]) -> Iterator[str]:
        """Each exposure has one saved version, which is what its PANs were told."""
        saved = defaultdict(list)
        for exposure, _version, lfn, state, *_ in self._ask(_FILES):
            if state == "Saved":
                saved[exposure].append(lfn)
            elif state == "Requested":
                yield f"lost: {lfn} is still asked for"
        for exposure in sent:
            if len(saved[exposure]) != 1:
                kind = "duplicated" if saved[exposure] else "lost"
                yield f"{kind}: exposure {exposure} has the saved files {saved[exposure]}"
            if self.told.get(exposure, set()) != set(saved[exposure]):
                yield f"lost: exposure {exposure}: PANs were told {self.told.get(exposure)}, saved is {saved[exposure]}"
        for exposure in saved.keys() - sent.keys():
            yield f"duplicated: exposure {exposure} was saved, but never taken"
        for exposure, detector, state, version in self._ask(_FRAMES):
            if exposure in sent and (state, version) != ("Saved", 1):
                yield f"miscounted: detector {detector} of exposure {exposure} is {state} in version {version}"

    def _check_files(self, sent: dict[int, dict[str, dict[str, Any]]]) -> Iterator[str]:
        """Each saved file holds the camera's pixels, and no other file stands in the folder."""
        known = {lfn.lstrip("/"): (exposure, size, checksum) for exposure, _, lfn, state, size, checksum
                 in self._ask(_FILES) if state == "Saved"}  # fmt: skip
        there = set(_walk(self.root))
        for path in sorted(there - known.keys()):
            yield f"duplicated: {path} stands in the folder, but is no saved file"
        for path, (exposure, size, checksum) in sorted(known.items()):
            if path not in there:
                yield f"lost: {path} is saved, but not in the folder"
                continue
            content = (self.root / path).read_bytes()
            if (len(content), f"adler32:{zlib.adler32(content):08x}") != (size, checksum):
                yield f"misregistered: {path} has not the size and checksum of its row"
            yield from _check_pixels(self.root / path, sent.get(exposure, {}))

    def _check_catalog(self) -> Iterator[str]:
        """Each saved file is registered, once, with its size and checksum."""
        replicas: Counter[str] = Counter()
        saved = {lfn: (size, checksum) for _, _, lfn, state, size, checksum in self._ask(_FILES) if state == "Saved"}
        for folder, name, size, checksum, _pfn, state in self._ask(_REPLICAS):
            lfn = f"{folder.rstrip('/')}/{name}"
            replicas[lfn] += 1
            if state != "Good" or saved.get(lfn) != (size, checksum):
                yield f"misregistered: {lfn} is {state} with {size} bytes and {checksum}, saved is {saved.get(lfn)}"
        for lfn in saved:
            if replicas[lfn] != 1:
                yield f"misregistered: {lfn} has {replicas[lfn]} replicas"

    def _check_accounts(self) -> Iterator[str]:
        """Each build that is Done is accounted for once, and no file was built Done twice."""
        accounted = dict(self._ask(_ACCOUNTED))
        done: Counter[str] = Counter()
        for number, lfn, state in self._ask(_BUILT):
            done[lfn] += state == "Done"
            if accounted.get(number, 0) != int(state == "Done"):
                yield f"miscounted: the build of {lfn} is {state} and accounted for {accounted.get(number, 0)} times"
        for lfn, times in done.items():
            if times > 1:
                yield f"duplicated: {lfn} was built {times} times"


def _check_pixels(path: Path, sent: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Read a FITS file with its own sums, and compare each image with what the camera exposed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with fits.open(io.BytesIO(path.read_bytes()), checksum=True, memmap=False) as units:
                units.verify("exception")
                images = {unit.name: np.asarray(unit.data) for unit in units[1:]}
                valid = {unit.name: [unit.header[f"VALID{name}"] for name in "AB"] for unit in units[1:]}
        except Exception as error:  # whatever astropy says of it
            yield f"partial: {path.name}: {type(error).__name__}: {error}"
            return
    for name, one in sent.items():
        image = images.get(name)
        if image is None or not all(valid[name]):
            yield f"partial: {path.name} has no valid image of {name}"
        elif (
            hashlib.sha256(image.astype(np.dtype(one["type"]).newbyteorder("<")).tobytes()).hexdigest() != one["sha256"]
        ):
            yield f"partial: {path.name}: the pixels of {name} are not those that were sent"


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".trash"]
        for name in names:
            if not _TEMPORARY.match(name):
                yield os.path.relpath(os.path.join(folder, name), root)
