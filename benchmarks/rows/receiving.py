"""Rows 8 and 9: pixels from PANs into shared memory, and the turning round of pixels by itself."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.children import crew, ours, span
from benchmarks.report import Line, against, within
from benchmarks.turns import Series, in_turn

_COLUMNS, _ROWS, _CCDS, _PANS = 2248, 4146, 9, 5
"""One PAN of the camera that the image builder was designed for: 335,527,488 bytes in pixels of 4 bytes."""

_SEED = """\
[camera]
name = Seed
detsize = [1:{wide},1:{rows}]
pixel_size = 15
pixel_type = int32
matrix = -0.00007 0 0 0.00007
required = EXPTIME

[layout.half]
size = {columns} {rows}
data = [1:{columns},1:{rows}]
A.image = [{right}:{columns},1:{rows}]
A.data = [{right}:{columns},1:{rows}]
A.ccd = [{right}:{columns},1:{rows}]
A.read = [{columns}:{right},{rows}:1]
B.image = [1:{half},1:{rows}]
B.data = [1:{half},1:{rows}]
B.ccd = [1:{half},1:{rows}]
B.read = [1:{half},{rows}:1]

[detectors]
columns = name number serial layout detsec x y gain_A noise_A saturation_A gain_B noise_B saturation_B
rows =
{detectors}

[constants]
OBSERVAT = none

[cards]
EXPTIME = float | s | 0 .. 36000 | Exposure duration
OBSERVAT = string | | | Observatory
"""


def measure(bench: Bench) -> list[Line]:
    """Measure one PAN against the bare loop, then two and five at once: how far apart they end."""
    rows = bench.size(_ROWS, _ROWS, 64)
    size = _COLUMNS * rows * 4 * _CCDS
    folder = _prepare(bench, rows)
    counts = bench.size((1, 2, 5), (1, 2, 5), (1, 2))
    subjects = {f"{how} {pans}": partial(_receive, folder, how, pans) for pans in counts for how in ("dts", "bare")}
    apart: dict[str, list[float]] = {name: [] for name in subjects}
    found = in_turn({name: partial(_noted, run, apart[name]) for name, run in subjects.items()}, bench.repeats)
    shutil.rmtree(folder)
    lines = []
    for pans in counts:
        mine, bare = (found[f"{how} {pans}"].inverse(pans * size / 1e9) for how in ("dts", "bare"))
        what = f"{size:,} bytes from each of {pans} PAN{'s' * (pans > 1)} into shared memory"
        peer = ("bare `recv_into` loop with the same sums", bare)
        lines.append(
            against(8, what, "GB/s", mine, peer, "≥", 0.8 if pans == 1 else None, "ours places the pixels too")
        )
        if pans > 1:
            note = f"bare loop: {np.median(apart[f'bare {pans}']):.2f}"
            lines.append(
                within(8, f"{pans} PANs: slowest / fastest", "×", Series(tuple(apart[f"dts {pans}"])), 1.1, note)
            )
    return lines


def _noted(run: Any, apart: list[float]) -> float:
    seconds, ratio = run()
    apart.append(ratio)
    return float(seconds)


def _prepare(bench: Bench, rows: int) -> Path:
    """Write the camera's file and the pixels that every PAN sends."""
    folder = bench.new_folder("pans")
    lines = (
        f"    D{number:02} {number} none half [{(number - 1) * _COLUMNS + 1}:{number * _COLUMNS},1:{rows}] {number} 0 "
        "4 6 60000 4 6 60000"
        for number in range(1, _CCDS * _PANS + 1)
    )
    half = _COLUMNS // 2
    sizes = {"columns": _COLUMNS, "rows": rows, "half": half, "right": half + 1, "wide": _COLUMNS * _CCDS * _PANS}
    (folder / "seed.ini").write_text(_SEED.format(detectors="\n".join(lines), **sizes))
    random = np.random.default_rng(1)
    with (folder / "pixels").open("wb") as file:
        for _ in range(_CCDS):
            file.write(random.bytes(_COLUMNS * rows * 4))
    return folder


def _receive(folder: Path, how: str, pans: int) -> tuple[float, float]:
    """Return the seconds until the last row is acknowledged, and how far apart the PANs end: slowest / fastest."""
    (folder / "port").unlink(missing_ok=True)
    commands = [ours("receive", how, str(folder), str(pans))]
    commands += [ours("push", how, str(folder), str(number)) for number in range(pans)]
    answers = crew(commands)[1:]
    begun = min(answer["begun"] for answer in answers)
    ends = [answer["ended"] - begun for answer in answers]
    return span(answers), max(ends) / min(ends)


def placing(bench: Bench) -> list[Line]:
    """Measure the placing of the pixels of whole CCDs against one copy of the same bytes."""
    lines = []
    for pixel in ("uint16", "uint32"):
        rows, rounds = bench.size(_ROWS, _ROWS, 64), bench.size(10, 5, 1)
        subjects = {how: partial(_rate, how, pixel, rows, rounds) for how in ("place", "copy")}
        found = in_turn(subjects, bench.repeats)
        what = f"9 CCDs of 2160 × {rows:,}, {pixel}: turned round, bytes swapped, BZERO"
        lines.append(against(9, what, "GB/s", found["place"], ("one numpy copy", found["copy"]), "≥", 0.5))
    return lines


def _rate(how: str, pixel: str, rows: int, rounds: int) -> float:
    answers = crew([ours("place", how, pixel, str(rows), str(rounds))])
    return float(answers[0]["bytes"] / span(answers) / 1e9)
