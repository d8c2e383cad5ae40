"""Row 4: the `file` element, one large file and many small ones, landed, verified, registered and accounted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import crew, ours, span
from benchmarks.report import Line, against
from benchmarks.rows.moving import Load, dts, peer
from benchmarks.sites import Site, make_files, settle
from benchmarks.turns import in_turn


def measure(bench: Bench) -> list[Line]:
    """Measure the large file, then the small ones."""
    return _large(bench) + _small(bench)


def _elements(source: Path) -> Callable[[Site, Path], None]:
    def set_up(site: Site, target: Path) -> None:
        site.add_file("source", source)
        site.add_file("target", target)

    return set_up


def _large(bench: Bench) -> list[Line]:
    size = bench.size(2048, 512, 8) << 20
    source = bench.new_folder("large")
    load = Load(source, make_files(source, 1, size))
    subjects = {
        "dts": partial(dts, bench, load, _elements(source)),
        "cp": partial(
            peer, bench, load,
            lambda target: ["cp", str(source / load.names[0]), str(target)],
            lambda target: ["sync", str(target / load.names[0])],
            lambda target: ["sha256sum", str(target / load.names[0])],
        ),
        "floor": partial(_floor, bench, load),
    }  # fmt: skip
    found = in_turn(subjects, bench.repeats)
    shutil.rmtree(source)
    what = f"one file of {size >> 20:,} MiB"
    return [
        against(4, what, "s", found["dts"], ("cp + sync + sha256sum", found["cp"]), "≤", 1.25),
        against(4, what, "s", found["dts"], ("floor: read, write, fsync", found["floor"]), "≤", 1.5),
    ]


def _floor(bench: Bench, load: Load) -> float:
    target = bench.new_folder("floor")
    settle()
    name = load.names[0]
    seconds = span(crew([ours("floor", str(load.folder / name), str(target / name))]))
    load.check(target)
    shutil.rmtree(target)
    return seconds


def _small(bench: Bench) -> list[Line]:
    count = bench.size(10_000, 2000, 20)
    source = bench.new_folder("small")
    load = Load(source, make_files(source, count, 64 << 10))
    subjects = {
        "dts": partial(dts, bench, load, _elements(source)),
        "rsync -a": partial(peer, bench, load, lambda target: ["rsync", "-a", f"{source}/", f"{target}/"]),
        "rclone copy": partial(peer, bench, load, lambda target: ["rclone", "copy", str(source), str(target)]),
        "rsync -a --fsync": partial(
            peer, bench, load, lambda target: ["rsync", "-a", "--fsync", f"{source}/", f"{target}/"]
        ),
    }
    if bench.level == "tiny":
        del subjects["rclone copy"], subjects["rsync -a --fsync"]
    found = in_turn(subjects, bench.repeats)
    shutil.rmtree(source)
    ours_ = found.pop("dts").inverse(count)
    notes = {"rsync -a --fsync": "durable as ours"}
    return [
        against(
            4, f"{count:,} files of 64 KiB", "files/s", ours_, (name, series.inverse(count)), "≥",
            None if name in notes else 1.0, notes.get(name, "fsyncs nothing, verifies nothing"),
        )
        for name, series in found.items()
    ]  # fmt: skip
