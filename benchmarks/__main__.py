"""`python -m benchmarks`: run rows of the benchmarks and write the report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from benchmarks import machine, report
from benchmarks.bench import HERE, PEERS, Bench
from benchmarks.report import Line
from benchmarks.rows import (
    building,
    catalog,
    claiming,
    file_element,
    growth,
    latency,
    loopback,
    queueing,
    receiving,
    sftp_element,
    submit,
    whole_way,
)

ROWS: Mapping[int, Callable[[Bench], list[Line]]] = {
    1: submit.measure, 2: claiming.measure, 3: catalog.measure, 4: file_element.measure, 5: sftp_element.measure,
    6: latency.measure, 7: growth.measure, 8: receiving.measure, 9: receiving.placing, 10: building.measure,
    11: building.memory, 12: whole_way.measure, 13: queueing.measure, 14: loopback.measure,
}  # fmt: skip


def _numbers(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    try:
        chosen = sorted({int(word) for word in value.split(",")}) if value else list(ROWS)
    except ValueError as error:
        raise click.BadParameter("give numbers, as in 1,2,6") from error
    if unknown := [row for row in chosen if row not in ROWS]:
        raise click.BadParameter(f"there is no row {unknown[0]}; there are {', '.join(map(str, ROWS))}")
    return chosen


@click.command(epilog="Example: python -m benchmarks --rows 1,3 --quick")
@click.option("--rows", default="", callback=_numbers, metavar="1,2,…", help="Rows to run; default: all.")
@click.option("--quick", is_flag=True, help="Fewer repeats and smaller sizes: ten minutes, not an hour.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Where the files lie; default: /var/tmp.")
@click.option("--results", type=click.Path(path_type=Path), default=HERE / "results", help="Where the report goes.")
def main(rows: list[int], quick: bool, folder: Path | None, results: Path) -> None:
    """Measure DTS against its peers and the machine's limits, and write latest.md and latest.json."""
    lines: list[Line] = []
    failures: dict[int, str] = {}
    with Bench("quick" if quick else "full", folder) as bench:
        load = machine.load_average()
        begun = time.monotonic()
        for row in rows:
            _run(bench, row, lines, failures)
            described = machine.describe(bench.folder, PEERS, load)
            described["took"] = f"{(time.monotonic() - begun) / 60:.1f} minutes"
            report.write(results, lines, described, failures, bench.level)
    click.echo(f"wrote {results / 'latest.md'}")
    if failures:
        raise SystemExit(1)


def _run(bench: Bench, row: int, lines: list[Line], failures: dict[int, str]) -> None:
    """Run one row; where it breaks off, the report says so and the others run all the same."""
    click.echo(f"row {row}: {report.TITLES[row]} …", err=True)
    begun = time.monotonic()
    try:
        found = ROWS[row](bench)
    except Exception as error:
        traceback.print_exc()
        failures[row] = f"{type(error).__name__}: {str(error)[-500:]}"
        return
    lines += found
    for line in found:
        ratio = f"{report.shown(line.ratio)}, target {line.sense} {line.target}"
        ours = f"{report.shown(line.ours)} {line.unit}"
        click.echo(f"  {line.what}: {ours}; × {line.peer} {ratio}: {line.verdict}", err=True)
    click.echo(f"  {time.monotonic() - begun:.0f} s", err=True)


if __name__ == "__main__":
    main()
