"""Rows 10 and 11: an exposure from shared memory to a file on the disk, and the memory that this takes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.children import crew, ours, span
from benchmarks.report import Line, against, within
from benchmarks.sites import settle
from benchmarks.turns import Series, in_turn
from imagebuilder.camera import find_camera

SHARED = Path("/dev/shm")
_MIB = 1 << 20
_WAYS = ("dts", "plain", "astropy", "astropy-fsync")
_IN_MEMORY = ("dts", "astropy")


def measure(bench: Bench) -> list[Line]:
    """Measure the writing of one exposure in turn with its peers."""
    camera = _camera(bench)
    with _pages(camera) as pages:
        subjects = {how: partial(_seconds, bench, how, camera, pages) for how in _WAYS}
        subjects |= {f"{how} in memory": partial(_seconds, bench, how, camera, pages, SHARED) for how in _IN_MEMORY}
        found = in_turn(subjects, bench.repeats)
    mine, quick = found["dts"], found["dts in memory"]
    size = f"{_size(camera) / 1e6:,.0f} MB of {camera}: CHECKSUM and DATASUM, landed"
    disk, memory = f"{size} on the disk, read back from it", f"{size} on tmpfs, read back"
    bare, peer = ("write + fsync of the same bytes", found["plain"]), "astropy writeto(checksum=True)"
    return [
        against(10, disk, "s", mine, bare, "≤", 1.3, "neither sums nor reads back"),
        _faster(memory, quick, f"{peer} on tmpfs", found["astropy in memory"], 2.5, "no disk in either"),
        _faster(disk, mine, f"{peer} into the page cache", found["astropy"], None, "neither fsyncs nor verifies"),
        _faster(disk, mine, f"{peer} + fsync", found["astropy-fsync"], None, "durable as ours; verifies nothing"),
    ]


def _faster(what: str, mine: Series, peer: str, theirs: Series, target: float | None, note: str) -> Line:
    """Return the line of a rate: how many times as fast as the peer."""
    return against(10, what, "1/s", mine.inverse(), (peer, theirs.inverse()), "≥", target, note)


def memory(bench: Bench) -> list[Line]:
    """Measure the builder's largest resident size, shared pages and all, against the exposure's bytes."""
    camera = _camera(bench)
    with _pages(camera) as pages:
        peaks = Series(tuple(_run(bench, "dts", camera, pages)["peak_kib"] / 1024 for _ in range(bench.repeats)))
    # What an interpreter with astropy needs by itself is more than an exposure of the small camera.
    limit = bench.size(1.5, 1.5, 1000.0) * _size(camera) / _MIB
    what = f"memory of the builder, pages of {_size(camera) / _MIB:,.0f} MiB in shared memory among it"
    return [within(11, what, "MiB", peaks, limit, "limit: 1.5 × the exposure")]


def _camera(bench: Bench) -> str:
    return bench.size("decam", "decam", "duo")


def _size(camera: str) -> int:
    return sum(detector.pixels for detector in find_camera(camera).detectors) * 2


@contextmanager
def _pages(camera: str) -> Iterator[Path]:
    """Give a folder in shared memory with one page for each detector: a level and noise, as FITS stores them."""
    folder = Path(tempfile.mkdtemp(prefix="dts-bench-", dir=SHARED))
    generator = np.random.default_rng(1)
    try:
        for detector in find_camera(camera).detectors:
            counts = generator.normal(2000, 30, detector.pixels).astype("u2") ^ np.uint16(1 << 15)
            counts.astype(">u2").tofile(folder / detector.name)
        yield folder
    finally:
        shutil.rmtree(folder)


def _run(bench: Bench, how: str, camera: str, pages: Path, parent: Path | None = None) -> dict[str, Any]:
    """Write the exposure once, into a new folder on the disk or below `parent`; return what the program told."""
    target = Path(tempfile.mkdtemp(prefix="dts-bench-", dir=parent)) if parent else bench.new_folder("build")
    settle()
    (answer,) = crew([ours("build", how, camera, str(pages), str(target))])
    shutil.rmtree(target)
    if answer["size"] < _size(camera):
        raise RuntimeError(f"{how} wrote {answer['size']} bytes only")
    return answer


def _seconds(bench: Bench, how: str, camera: str, pages: Path, parent: Path | None = None) -> float:
    return span([_run(bench, how, camera, pages, parent)])
