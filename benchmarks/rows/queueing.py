"""Row 13: how long a camera waits for the answer of dtsq."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import ROOT
from benchmarks.report import Line, against, within
from benchmarks.sites import NewSite, Site
from benchmarks.turns import Series
from dtsd.dtsq_slots import WORKER, Slots

TARGET = 100.0
"""Milliseconds from the interpreter's first statement to the answer, at the 99th percentile."""

_PROGRAM = """
import time
begun = time.perf_counter()
import gc, sys
gc.disable()
from dtsd.dtsq import run
code = run(sys.argv[1:])
print(time.perf_counter() - begun, file=sys.stderr)
sys.exit(code)
"""


def measure(bench: Bench) -> list[Line]:
    """Measure calls one after the other on each database, while the child imports what was asked before."""
    calls = bench.size(200, 40, 2)
    lines = []
    for backend in bench.backends:
        with NewSite(bench, backend) as site:
            _prepare(site)
            inside, whole = _call(site, calls)
            _wait_for_child(site)
        what = f"{backend}, {calls} calls"
        worst = Series((_at(inside, 0.99),))
        note = f"longest {max(inside):.0f} ms"
        lines.append(within(13, f"{what}, after the interpreter's start, p99", "ms", worst, TARGET, note))
        median = Series((_at(inside, 0.5),))
        lines.append(within(13, f"{what}, after the interpreter's start, p50", "ms", median, TARGET))
        start = ("its start alone", Series((_at(whole, 0.99) - _at(inside, 0.99),)))
        lines.append(against(13, f"{what}, with the interpreter's start, p99", "ms", Series((_at(whole, 0.99),)), start,
                             "≤", None))  # fmt: skip
    return lines


def _prepare(site: Site) -> None:
    """Make a queue between two elements."""
    site.sections["queue.des"] = {"target": "target"}
    site.add_file("source")
    site.add_file("target")


def _call(site: Site, calls: int) -> tuple[list[float], list[float]]:
    """Call dtsq for one new file after the other; return milliseconds of each, without and with the start."""
    inside, whole = [], []
    for number in range(calls + 1):
        path = site.folder / "source" / f"{number}.fits"
        path.write_bytes(b"%064d" % number)
        command = [sys.executable, "-c", _PROGRAM, "--config", str(site.path), "-q", "des", "-f", str(path)]
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        whole.append(1000 * (time.perf_counter() - begun))
        inside.append(1000 * float(done.stderr))
        if not done.stdout.startswith("OK "):
            raise RuntimeError(f"dtsq answered {done.stdout!r}")
    return inside[1:], whole[1:]  # the first call makes folders and starts the child


def _at(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def _wait_for_child(site: Site) -> None:
    """Wait until the child has done all and ended."""
    folder: Path = site.folder / "var" / "dtsq"
    slots = Slots(folder)
    deadline = time.monotonic() + 120
    while list((folder / "pending").glob("*.json")) or not slots.take(WORKER):
        if time.monotonic() > deadline:
            raise RuntimeError("the child of dtsq does not end")
        time.sleep(0.1)
    slots.close()
