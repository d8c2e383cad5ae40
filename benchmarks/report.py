"""What a row found, whether its target is met, and the report of a whole run as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.turns import Series

TITLES: Mapping[int, str] = {
    1: "Submit a 100,000-file XML request",
    2: "Claim + finish with catalog and accounting rows",
    3: "Catalog",
    4: "`file` storage element, end to end",
    5: "`sftp` storage element, end to end",
    6: "Latency of one small file, idle system",
    7: "Growth",
    8: "Receive the pixels of PANs",
    9: "Reorient the pixels of CCDs",
    10: "Write an exposure of DECam",
    11: "Memory of the image builder",
    12: "The whole way of an exposure",
    13: "The answer of dtsq",
    14: "The transport on loopback",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison: ours, a peer's series or a fixed limit, their ratio (ours / theirs) and its target."""

    row: int
    what: str
    unit: str
    ours: Series
    peer: str
    theirs: Series
    ratio: Series
    sense: Literal["≥", "≤"]
    target: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median ratio reaches the target; None where there is no target."""
        if self.target is None:
            return None
        return self.ratio.median >= self.target if self.sense == "≥" else self.ratio.median <= self.target

    @property
    def verdict(self) -> str:
        """Return `met`, `missed` or a dash."""
        return {True: "met", False: "**missed**", None: "–"}[self.met]


def against(
    row: int, what: str, unit: str, ours: Series, peer: tuple[str, Series], sense: Literal["≥", "≤"],
    target: float | None, note: str = "",
) -> Line:  # fmt: skip
    """Return the line of a comparison with a peer that was measured in the same turns."""
    name, theirs = peer
    return Line(row, what, unit, ours, name, theirs, ours.over(theirs), sense, target, note)


def within(row: int, what: str, unit: str, ours: Series, limit: float, note: str = "") -> Line:
    """Return the line of a figure that must not exceed a limit."""
    return Line(row, what, unit, ours, "limit", Series((limit,)), ours.by(limit), "≤", 1.0, note)


def markdown(lines: Sequence[Line], machine: Mapping[str, str], failures: Mapping[int, str], level: str) -> str:
    """Return the report for people."""
    counted = [line for line in lines if line.met is not None]
    missed = sum(line.met is False for line in counted)
    parts = ["# Benchmarks", "", _introduction(level), ""]
    parts += [f"Of {len(counted)} targets **{len(counted) - missed} are met and {missed} missed**.", ""]
    parts += ["| machine | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine.items()), ""]
    for row, title in TITLES.items():
        ours = [line for line in lines if line.row == row]
        if ours or row in failures:
            parts += [f"## {row}. {title}", "", *_table(ours), ""]
        if row in failures:
            parts += [f"**This row broke off:** {failures[row]}", ""]
    return "\n".join(parts)


def _introduction(level: str) -> str:
    text = (
        "Each figure is the median (least–most) of runs made in turn with its peer; the ratio is ours / theirs, taken "
        "turn by turn. A target is met by the median ratio."
    )
    if level == "full":
        return text
    return f"{text} **This was a {level} run: fewer repeats and smaller sizes than the targets are stated for.**"


def _table(lines: Sequence[Line]) -> list[str]:
    head = ["| what | ours | peer or limit | ratio | target | | |", "|---|---|---|---|---|---|---|"]
    return head + [_table_row(line) for line in lines] if lines else []


def _table_row(line: Line) -> str:
    target = "–" if line.target is None else f"{line.sense} {line.target:g}"
    theirs = f"{line.peer}: {shown(line.theirs)} {line.unit}"
    ours = f"{shown(line.ours)} {line.unit}"
    return f"| {line.what} | {ours} | {theirs} | {shown(line.ratio)} | {target} | {line.verdict} | {line.note} |"


def shown(series: Series) -> str:
    """Return a series as people read it: median (least–most)."""
    if len(series.values) == 1:
        return number(series.median)
    return f"{number(series.median)} ({number(series.least)}–{number(series.most)})"


def number(value: float) -> str:
    """Return a number with three significant digits, thousands set apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def as_json(lines: Sequence[Line], machine: Mapping[str, str], failures: Mapping[int, str], level: str) -> str:
    """Return the report for programs."""
    content = {
        "level": level, "machine": dict(machine), "failures": {str(row): text for row, text in failures.items()},
        "lines": [_as_dict(line) for line in lines],
    }  # fmt: skip
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _as_dict(line: Line) -> dict[str, Any]:
    return {
        "row": line.row, "what": line.what, "unit": line.unit, "ours": line.ours.values, "peer": line.peer,
        "theirs": line.theirs.values, "ratio": line.ratio.values, "ratio_median": line.ratio.median,
        "sense": line.sense, "target": line.target, "met": line.met, "note": line.note,
    }  # fmt: skip


def write(
    folder: Path, lines: Sequence[Line], machine: Mapping[str, str], failures: Mapping[int, str], level: str
) -> None:
    """Write latest.md and latest.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.md").write_text(markdown(lines, machine, failures, level))
    (folder / "latest.json").write_text(as_json(lines, machine, failures, level))
