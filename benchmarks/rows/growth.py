"""Row 7: the cost of a file while work grows, and the memory of an agent."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.children import crew, ours, span
from benchmarks.report import Line, against
from benchmarks.rows.moving import Load, dts
from benchmarks.sites import Site, make_files
from benchmarks.stage import queue
from benchmarks.turns import Series, in_turn

FLAT = 1.3
_WINDOW = 1000
_numbers = count(1)


def measure(bench: Bench) -> list[Line]:
    """Measure claim + finish beside a growing queue, then whole transfers."""
    lines = []
    for backend in bench.backends:
        lines += _claiming(bench, backend)
    return lines + _transfers(bench)


def _claiming(bench: Bench, backend: str) -> list[Line]:
    """Return the cost of a file with so many in one request, over equal windows measured in turn."""
    sizes = bench.size((1000, 10_000, 100_000, 1_000_000), (1000, 10_000, 100_000), (100, 300))
    window = min(_WINDOW, sizes[0])
    with ExitStack() as stack:
        urls = {}
        for size in sizes:
            urls[size] = stack.enter_context(bench.database(backend))
            queue(urls[size], size, "growth")
        left = {size: size for size in sizes}
        subjects = {str(size): partial(_window, urls[size], left, size, window) for size in sizes}
        found = in_turn(subjects, bench.repeats)
    return _lines(f"{backend}, claim + finish, batch 100", sizes, found)


def _window(url: str, left: dict[int, int], size: int, window: int) -> float:
    """Return the milliseconds a file over one window; an empty queue is filled again first."""
    if left[size] < window:
        queue(url, size, f"growth{next(_numbers)}")
        left[size] += size
    left[size] -= window
    return 1000 * span(crew([ours("claim", url, "100", str(window))])) / window


def _lines(what: str, sizes: Sequence[int], found: dict[str, Series], note: str = "") -> list[Line]:
    least = (f"with {sizes[0]:,}", found[str(sizes[0])])
    return [
        against(7, f"{what}, {size:,} files", "ms/file", found[str(size)], least, "≤", FLAT, note) for size in sizes[1:]
    ]


def _transfers(bench: Bench) -> list[Line]:
    """Return the cost of whole transfers of small files and the agent's memory, request by request."""
    sizes = bench.size((1000, 10_000, 100_000), (500, 2000), (5, 20))
    source = bench.new_folder("growth")
    names = make_files(source, sizes[-1], 1024)
    answers: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    subjects = {
        str(size): partial(_cost, bench, Load(source, names[:size]), answers[size]) for size in sizes if size <= 10_000
    }
    found = in_turn(subjects, bench.repeats)
    for size in sizes[len(subjects) :]:  # once: it takes minutes
        seconds = _cost(bench, Load(source, names[:size]), answers[size])
        found[str(size)] = Series((seconds,) * bench.repeats)
    shutil.rmtree(source)
    once = "100,000 files: one run" if bench.level == "full" else ""
    lines = _lines("`file` to `file`, 1 KiB each, end to end", sizes, found, once)
    peaks = {str(size): Series(tuple(one["peak_kib"] / 1024 for one in answers[size])) for size in sizes}
    least = Series((peaks[str(sizes[0])].median,))
    for size in sizes[1:]:
        most = Series((peaks[str(size)].most,))
        what = f"memory of the agent that transferred {size:,} files"
        lines.append(against(7, what, "MiB", most, (f"with {sizes[0]:,}", least), "≤", FLAT))
    return lines


def _cost(bench: Bench, load: Load, answers: list[dict[str, Any]]) -> float:
    """Return the milliseconds a file, end to end."""

    def set_up(site: Site, target: Path) -> None:
        site.add_file("source", load.folder)
        site.add_file("target", target)

    return 1000 * dts(bench, load, set_up, answers) / len(load.names)
