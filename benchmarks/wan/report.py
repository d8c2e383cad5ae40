"""The report of a run: JSON for programs, a page with tables for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.report import number, shown
from benchmarks.turns import Series
from benchmarks.wan.matrix import Cell
from benchmarks.wan.tools import ABSENT, BASE, OURS, TUNED

_TARGETS = {(80.0, 0.0): 3.0, (80.0, 1e-4): 15.0, (80.0, 1e-3): 20.0}
"""By round trip and loss: how many times as fast as the rsync daemon ours must be, with nobody choosing anything."""

_SHARE = 0.85
"""Share of the line's payload that one large file must get."""

_HEAD = """\
# Throughput over long distances

    make bench-wan                        # all connections and programs; needs root, some two hours
    make bench-wan WAN=--quick            # three connections of 80 ms and one without delay; under ten minutes
    make bench-wan WAN="--only '80 ms' --only DTS --size 256"

`benchmarks/wan` writes this page, the chart and `benchmarks/results/wan.json`, with the value of every turn.

![Throughput, normalised to the rsync daemon](throughput.svg)
"""

_READING = """\
## How to read it

- A connection is 1 Gbit/s with a round trip and a loss: each segment, in either direction, is lost with that
  probability, whatever was lost before. The router before the line holds as many bytes as the line carries in one round
  trip, and at least 1 MiB; what finds it full is dropped as well. {most:.1f} MB/s of a file is the most that TCP can
  carry.
- Each figure is the median (least–most) of {turns} turn(s); all programs take their turns one after another, and then
  again in the opposite order. Ratios are taken turn by turn. 1 MB is 1,000,000 bytes.
- One file of {size:,} MiB of random bytes goes from a file system in memory to another one. A program that needs longer
  than {limit:g} s is stopped (*s* in the table); its rate is then what the whole file would have got if the rest had
  come as fast as what arrived in the second half of that time.
- Programs are measured whole, from their start to their end, with their logging in. DTS is measured from the word to
  connect until the receiver has said that the file is verified, durable and named; starting Python is not counted, nor
  is the call to a daemon that arranges a transfer.
- Every program runs with its own defaults and the kernel's: TCP CUBIC, buffers as the kernel sizes them. What a program
  chooses for itself (DTS: streams, and BBR where the kernel offers it) is its own merit. *DTS, n streams* is with that
  number given; *DTS, self-tuned* finds the number itself: *streams* is what it came to.
- *line* is what the line carried, in IP packets, over the bytes that arrived: 1.04 are headers, more was sent again.
"""

_LINE = """\
## The line

The line is a program of ours, `benchmarks/wan/wan.c`, between two TUN devices in two network namespaces. Before a
connection is used it is measured, without any program that moves files: the median of idle echoes, and {sent:,} small
datagrams that are counted one by one. *Dropped* is what the line itself counted; it must be what did not arrive. *Late*
is the largest share of deliveries, over all turns, that left more than a millisecond after their time, because the
machine had other things to do: where it is large, the figures say less. One plain TCP connection without delay and loss
carried {plain} MB/s of {most:.1f} before the first turn.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """All that a run found. `plain` is what one TCP connection carries without delay, bytes a second."""

    level: str
    size: int
    limit: float
    plain: float
    cells: Sequence[Cell]
    long: Sequence[Cell]
    long_size: int
    machine: Mapping[str, str]


def as_json(found: Found) -> str:
    """Return the report for programs: each turn of each program over each connection."""
    content = {
        "level": found.level, "size": found.size, "limit": found.limit, "plain_tcp": found.plain,
        "machine": dict(found.machine), "absent": ABSENT, "connections": [_cell(cell) for cell in found.cells],
        "large_file": {"size": found.long_size, "connections": [_cell(cell) for cell in found.long]},
    }  # fmt: skip
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(cell: Cell) -> dict[str, Any]:
    line = asdict(cell.connection) | {"queue": cell.connection.bytes_queued, "most": cell.connection.most}
    programs = {
        name: {
            "median": cell.rates(name).median, "ratio_median": ratio.median if (ratio := cell.ratio(name)) else None,
            "turns": [asdict(turn) for turn in turns],
        }
        for name, turns in cell.turns.items()
    }  # fmt: skip
    return {**line, "measured": asdict(cell.measured), "programs": programs, "failures": dict(cell.failures)}


def page(found: Found) -> str:
    """Return the report for people, with the chart beside it as throughput.svg."""
    most = found.cells[0].connection.most / 1e6
    names = list(dict.fromkeys(name for cell in found.cells for name in cell.turns))
    turns = max((len(turns) for cell in found.cells for turns in cell.turns.values()), default=0)
    reading = _READING.format(most=most, size=found.size >> 20, limit=found.limit, turns=turns)
    line = _LINE.format(sent=found.cells[0].measured.sent, plain=number(found.plain / 1e6), most=most)
    parts = [_HEAD, _level(found), "## Times the rsync daemon", "", *_ratios(found.cells, names), ""]
    parts += ["## MB/s", "", *_rates(found.cells, names), "", *_notes(found.cells)]
    parts += ["## Targets", "", *_targets(found), "", reading, line, *_line(found.cells), ""]
    parts += ["## The machine", "", "| | |", "|---|---|"]
    parts += [f"| {key} | {value} |" for key, value in found.machine.items()]
    return "\n".join(parts) + "\n"


def _level(found: Found) -> str:
    if found.level == "full":
        return ""
    return f"**This was a {found.level} run**: it had fewer connections, programs or turns, or a smaller file.\n"


def _table(names: Sequence[str]) -> list[str]:
    return [f"| round trip, loss | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]


def _ratios(cells: Sequence[Cell], names: Sequence[str]) -> list[str]:
    """Return the table of medians of the ratios; the best of each connection in bold."""
    lines = _table(names)
    for cell in cells:
        ratios = {name: ratio.median for name in cell.turns if (ratio := cell.ratio(name))}
        best = max(ratios.values(), default=0.0)
        words = [_bold(number(ratios[name]), ratios[name] == best) if name in ratios else "–" for name in names]
        lines.append(f"| {cell.connection.name} | {' | '.join(words)} |")
    return lines


def _bold(text: str, wanted: bool) -> str:
    return f"**{text}**" if wanted else text


def _rates(cells: Sequence[Cell], names: Sequence[str]) -> list[str]:
    lines = _table([*names, "streams", "line: " + BASE, "line: " + TUNED])
    for cell in cells:
        words = [*(_rate(cell, name) for name in names), _streams(cell)]
        words += [_carried(cell, name) for name in (BASE, TUNED)]
        lines.append(f"| {cell.connection.name} | {' | '.join(words)} |")
    return lines


def _rate(cell: Cell, name: str) -> str:
    if name not in cell.turns:
        return "–"
    stopped = " *s*" if any(turn.stopped for turn in cell.turns[name]) else ""
    return shown(cell.rates(name).by(1e6)) + stopped


def _streams(cell: Cell) -> str:
    """Return the numbers of streams that the transport that tunes itself came to, least–most."""
    counts = sorted({turn.streams for turn in cell.turns.get(TUNED, ()) if turn.streams})
    return f"{counts[0]}–{counts[-1]}" if len(counts) > 1 else str(*counts) or "–"


def _carried(cell: Cell, name: str) -> str:
    """Return what the line carried for each byte that arrived."""
    turns = [turn for turn in cell.turns.get(name, ()) if turn.arrived]
    return f"{Series(tuple(turn.carried / turn.arrived for turn in turns)).median:.2f}" if turns else "–"


def _notes(cells: Sequence[Cell]) -> list[str]:
    absent = [f"- {name} was not measured: {reason}." for name, reason in ABSENT.items()]
    failed = [
        f"- **{name} failed** at {cell.connection.name}: {reason.splitlines()[-1]}"
        for cell in cells
        for name, reason in cell.failures.items()
    ]
    return [*absent, *failed, ""]


def _targets(found: Found) -> list[str]:
    """Return the table of what was to be reached by the transport that tunes itself."""
    lines = ["| what | found | target | |", "|---|---|---|---|"]
    for cell in found.cells:
        if TUNED not in cell.turns:
            continue
        target = _TARGETS.get((cell.connection.rtt, cell.connection.loss))
        ratio = cell.ratio(TUNED)
        if target and ratio:
            lines.append(_target(f"{cell.connection.name}: × {BASE}", ratio, target))
        others = [name for name in cell.turns if not name.startswith(OURS)]
        if not cell.connection.rtt and not cell.connection.loss and others:
            best = max(others, key=lambda name: cell.rates(name).median)
            lines.append(_target(f"no delay: × the best of the others, {best}", _over(cell, best), 1.0))
    for cell in found.long:
        if TUNED in cell.turns:
            what = f"{found.long_size / 2**30:g} GiB, {cell.connection.name}: share of what the line can carry"
            lines.append(_target(what, cell.rates(TUNED).by(cell.connection.most), _SHARE))
    return lines


def _over(cell: Cell, other: str) -> Series:
    return cell.rates(TUNED).over(cell.rates(other))


def _target(what: str, found: Series, target: float) -> str:
    # The line's own limit and the best of the others are reached where nothing can be told apart in two decimals.
    met = round(found.median, 2) >= target
    return f"| {what} | {shown(found)} | ≥ {target:g} | {'met' if met else '**missed**'} |"


def _line(cells: Sequence[Cell]) -> list[str]:
    lines = ["| round trip, loss | echo, ms | arrived | dropped | loss found | late |", "|---|--:|--:|--:|--:|--:|"]
    for cell in cells:
        measured = cell.measured
        late = max((turn.late for turns in cell.turns.values() for turn in turns), default=0.0)
        dropped = f"{measured.counted:,}{'' if measured.honest else ' (**not what is missing**)'}"
        lines.append(
            f"| {cell.connection.name} | {measured.rtt:.2f} | {measured.arrived:,} | {dropped} |"
            f" {measured.loss * 100:.3f} % | {late * 100:.1f} % |"
        )
    return lines
