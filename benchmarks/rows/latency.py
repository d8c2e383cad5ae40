"""Row 6: from submit to Done for one small file, while `dts run` idles."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import ROOT, crew, ours
from benchmarks.report import Line, within
from benchmarks.sites import NewSite, Site
from benchmarks.turns import Series
from tests.services import stop_process

P50 = 150.0
P99 = 500.0


def measure(bench: Bench) -> list[Line]:
    """Measure on each database: the median of each turn, and the 99th percentile of all turns."""
    turns = max(bench.repeats, bench.size(5, 5, 1))
    times = bench.size(60, 20, 3)
    lines = []
    for backend in bench.backends:
        with NewSite(bench, backend) as site, _running(site):
            measured = [_turn(site, number * (times + 1), times) for number in range(turns)]
        medians = Series(tuple(1000 * statistics.median(seconds) for seconds in measured))
        everything = sorted(1000 * one for seconds in measured for one in seconds)
        worst = Series((everything[min(len(everything) - 1, int(0.99 * len(everything)))],))
        what = f"{backend}, {len(everything)} submissions"
        lines.append(within(6, f"{what}, p50", "ms", medians, P50))
        lines.append(within(6, f"{what}, p99", "ms", worst, P99, f"longest {everything[-1]:.0f} ms"))
    return lines


def _turn(site: Site, first: int, times: int) -> list[float]:
    """Submit files one by one; return the seconds of each."""
    for number in range(first, first + times + 1):
        (site.folder / "source" / f"{number}.dat").write_bytes(b"%064d" % number)
    requests = site.folder / "requests"
    requests.mkdir(exist_ok=True)
    seconds: list[float] = crew([ours("latency", str(site.path), str(requests), str(first), str(times))])[0]["seconds"]
    return seconds


@contextmanager
def _running(site: Site) -> Iterator[None]:
    """Run all agents of the site, as `dts run` does, in a process of their own."""
    site.add_file("source")
    site.add_file("target")
    log: Path = site.folder / "log"
    command = [sys.executable, "-c", "from dtsd.cli import main; main()", "run", "--config", str(site.path)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT)
    try:
        yield
    finally:
        stop_process(process, signal.SIGTERM)
