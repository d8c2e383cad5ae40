"""Row 3: the catalog with many replicas: one look-up, a thousand, a folder, a header search, bulk registration."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

from benchmarks.bench import Bench
from benchmarks.children import crew, ours, span
from benchmarks.report import Line, against, within
from benchmarks.stage import fill_catalog
from benchmarks.turns import Series, in_turn

REPLICAS = 1_000_000
ONE = 2.0
THOUSAND = 30.0
_numbers = count(1)


def measure(bench: Bench) -> list[Line]:
    """Measure on each database."""
    files = bench.size(REPLICAS, REPLICAS // 10, 2000)
    lines = []
    for backend in bench.backends:
        with bench.database(backend) as url:
            fill_catalog(url, files)
            lines += _reading(bench, backend, url, files)
            lines += _registering(bench, backend, url)
    return lines


def _reading(bench: Bench, backend: str, url: str, files: int) -> list[Line]:
    """Return the look-ups against their limits, which are twice as high on PostgreSQL."""
    answers: list[dict[str, Any]] = []

    def look() -> float:
        found = crew([ours("look", url, str(files), str(bench.size(1000, 500, 20)))])
        answers.extend(found)
        return span(found)

    in_turn({"look": look}, bench.repeats)

    def series(key: str) -> Series:
        return Series(tuple(1000 * answer[key] for answer in answers))

    factor = 1.0 if backend == "SQLite" else 2.0
    what = f"{backend}, {files:,} replicas"
    by_name = ("1,000 by name", series("thousand"))
    note = f"median {series('one_median').median:.2f} ms"
    return [
        within(3, f"{what}: one LFN, p99", "ms", series("one"), ONE * factor, note),
        within(3, f"{what}: 1,000 LFNs in one call", "ms", series("thousand"), THOUSAND * factor),
        against(3, f"{what}: a folder of 1,000", "ms", series("listing"), by_name, "≤", None),
        against(3, f"{what}: header search, up to 100 found", "ms", series("search"), by_name, "≤", None),
    ]  # fmt: skip


def _registering(bench: Bench, backend: str, url: str) -> list[Line]:
    """Return bulk registration against bare INSERTs of the same rows."""
    files = bench.size(20_000, 5000, 1000)

    def go(program: str) -> float:
        return files / span(crew([ours(program, url, f"batch{next(_numbers)}", str(files))]))

    found = in_turn({name: partial(go, name) for name in ("register", "insert")}, bench.repeats)
    what = f"{backend}: bulk registration with headers, 1,000 to a transaction"
    bare = ("bare INSERTs of the same rows", found["insert"])
    return [against(3, what, "files/s", found["register"], bare, "≥", None)]
