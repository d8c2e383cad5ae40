"""`python -m benchmarks.wan`: measure transfers over long-distance connections and write the report."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

from benchmarks import machine
from benchmarks.bench import HERE, PEERS
from benchmarks.wan import chart, report
from benchmarks.wan.matrix import LONG, Cell, Run, chosen
from benchmarks.wan.network import Connection, Network
from benchmarks.wan.report import Found
from benchmarks.wan.tools import TOOLS, TUNED, Tool, prepare
from benchmarks.wan.turn import Load
from benchmarks.wan.validation import plain_tcp

_MIB = 1 << 20
_SIZE, _REPEATS = 1024, 3
_LONG_LIMIT = 600.0
_MACHINE = ("processor", "memory", "kernel", "Python", "programs")


@click.command(epilog="Example: python -m benchmarks.wan --only '80 ms' --only DTS --size 256")
@click.option("--quick", is_flag=True, help="Fewer connections, programs and turns, a smaller file: ten minutes.")
@click.option("--only", multiple=True, metavar="TEXT", help="Connections or programs whose names begin so; repeat.")
@click.option("--size", type=click.IntRange(1), metavar="MIB", help="Of the file; default: 1024, quick: 512.")
@click.option("--long", type=click.IntRange(0), metavar="MIB", help="Of the large file; default: 4096, quick: 0, none.")
@click.option("--limit", type=click.FloatRange(1), metavar="S", help="Of one turn; default: 30 s, quick: 20 s.")
@click.option("--repeats", type=click.IntRange(1), default=_REPEATS, show_default=True, help="Turns of each program.")
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True), default="/dev/shm", show_default=True,
    help="Where the files lie, at both ends.",
)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="Where wan.json and throughput.md and .svg go.")
def main(
    quick: bool, only: tuple[str, ...], size: int | None, long: int | None, limit: float | None, repeats: int,
    folder: Path, output: Path | None,
) -> None:  # fmt: skip
    """Measure DTS and others over 1 Gbit/s with delay and loss, between two network namespaces. Needs root.

    The report goes to benchmarks/results and docs; with --only to the screen alone, unless --output is given.
    """
    if os.geteuid() != 0:
        raise click.ClickException("network namespaces and TUN devices need root")
    signal.signal(signal.SIGTERM, _leave)
    connections, tools = chosen(only, quick)
    long_size = (long if long is not None else 0 if quick or only else 4096) * _MIB
    found = _measure(
        (size or (512 if quick else _SIZE)) * _MIB, long_size, limit or (20.0 if quick else 30.0), repeats, folder,
        connections, tools, _level(quick, only, size, repeats),
    )  # fmt: skip
    click.echo(report.page(found))
    if output or not only:
        _write(found, output or HERE / "results", output or HERE.parent / "docs")
    if any(cell.failures for cell in (*found.cells, *found.long)):
        raise SystemExit(1)


def _level(quick: bool, only: Sequence[str], size: int | None, repeats: int) -> str:
    """Return what the report calls the run."""
    if quick:
        return "quick"
    if only:
        return "partial"
    return "short" if repeats < _REPEATS or (size or _SIZE) < _SIZE else "full"


def _write(found: Found, results: Path, docs: Path) -> None:
    for folder in (results, docs):
        folder.mkdir(parents=True, exist_ok=True)
    (results / "wan.json").write_text(report.as_json(found))
    (docs / "throughput.md").write_text(report.page(found))
    chart.draw(found.cells, docs / "throughput.svg")


def _leave(number: int, _frame: FrameType | None) -> None:
    """Leave by an exception, so that everything is cleaned up on the way."""
    sys.exit(128 + number)


def _measure(
    size: int, long_size: int, limit: float, repeats: int, folder: Path, connections: Sequence[Connection],
    tools: Sequence[Tool], level: str,
) -> Found:  # fmt: skip
    """Make the line, run all cells over it, and remove it."""
    load, begun = machine.load_average(), time.monotonic()
    where = Path(tempfile.mkdtemp(prefix="dts-wan-", dir=folder))
    try:
        setting = prepare(where)
        with Network() as network:
            network.connect(Connection(0.0, 0.0), 1)
            plain = plain_tcp(network, 3.0)
            run = Run(network, setting, Load.make(where / "file", size), repeats, limit, _tell)
            cells = [run.cell(connection, tools) for connection in connections]
            run.load.file.unlink()
            long = _long(run, long_size) if long_size else []
        described = machine.describe(where, PEERS, load)
    finally:
        shutil.rmtree(where, ignore_errors=True)
    about = {name: described[name] for name in _MACHINE}
    about |= {"files on": described["disk"].partition(",")[0], "load average before": load}
    about |= {"load average after": machine.load_average(), "took": f"{(time.monotonic() - begun) / 60:.0f} minutes"}
    return Found(level, size, limit, plain, cells, long, long_size, about)


def _long(run: Run, size: int) -> list[Cell]:
    """Send one large file by ours alone."""
    load = Load.make(run.setting.folder / "large", size)
    own = Run(run.network, run.setting, load, run.repeats, _LONG_LIMIT, run.tell)
    return [own.cell(connection, [tool for tool in TOOLS if tool.name == TUNED]) for connection in LONG]


def _tell(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
