"""Row 1: seconds and memory to submit a large XML request, durably."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.children import crew, ours, span
from benchmarks.report import Line, within
from benchmarks.turns import Series, in_turn

FILES = 100_000
SECONDS = 5.0
MEBIBYTES = 200.0


def write_request(path: Path, files: int) -> None:
    """Write a request for the transfer of so many files, each with PFN, size and checksum."""
    with path.open("w") as stream:
        stream.write('<request priority="5">\n <operation type="transfer" source="local" target="archive">\n')
        for number in range(files):
            folder, name = f"night{number // 1000:04d}", f"DECam_{number:08d}.fits.fz"
            stream.write(
                f'  <file lfn="/des/raw/{folder}/{name}" pfn="{folder}/{name}" size="{335_000_000 + number}" '
                f'checksum="adler32:{number:08x}"/>\n'
            )
        stream.write(" </operation>\n</request>\n")


def measure(bench: Bench) -> list[Line]:
    """Measure the submission on each database in turn."""
    files = bench.size(FILES, FILES, 1000)
    path = bench.new_folder("submit") / "request.xml"
    write_request(path, files)
    answers: dict[str, list[dict[str, Any]]] = {backend: [] for backend in bench.backends}
    subjects = {backend: partial(_submit, bench, backend, path, answers[backend]) for backend in bench.backends}
    seconds = in_turn(subjects, bench.repeats)
    bare = crew([ours("bare")])[0]["peak_kib"]
    lines = []
    for backend in bench.backends:
        found = answers[backend]
        peak = Series(tuple((one["peak_kib"] - bare) / 1024 for one in found))
        above = max(one["peak_kib"] - one["before_kib"] for one in found) / 1024
        read = max(one["read"] for one in found)
        reading = f"reading the XML is at most {read:.2f} s of it"
        lines.append(within(1, f"{files:,} files, {backend}", "s", seconds[backend], SECONDS, reading))
        note = f"above a bare interpreter; {above:.0f} MiB above the libraries"
        lines.append(within(1, f"peak memory, {backend}", "MiB", peak, MEBIBYTES, note))
    return lines


def _submit(bench: Bench, backend: str, path: Path, answers: list[dict[str, Any]]) -> float:
    with bench.database(backend) as url:
        found = crew([ours("submit", url, str(path))])
    answers += found
    return span(found)
