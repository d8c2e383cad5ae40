"""Show reports and rows: a table on a terminal, plain lines in a pipe, CSV, JSON."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any, TextIO

from accounting.report import Report, ReportRow
from dtscore import output

_MEASURES = tuple(field.name for field in fields(ReportRow) if field.name != "key")
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def columns(report: Report) -> tuple[str, ...]:
    """Return the names of a report's columns, as CSV, JSON and plain lines have them."""
    return (*report.keys, *_MEASURES)


def values(row: ReportRow) -> tuple[Any, ...]:
    """Return the unrounded values of one line, in the order of `columns`."""
    return (*row.key, *(getattr(row, name) for name in _MEASURES))


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON shows it: period, grouping, rows and total, numbers in bytes and seconds."""
    total = None if report.total is None else {name: getattr(report.total, name) for name in _MEASURES}
    return {
        "since": report.period.since,
        "until": report.period.until,
        "by": report.by,
        "rows": [dict(zip(columns(report), values(row), strict=True)) for row in report.rows],
        "total": total,
    }


def print_report(report: Report) -> None:
    """Print a report: rounded and in handy units on a terminal, the plain numbers with tabs in a pipe."""
    if not sys.stdout.isatty():
        output.table(columns(report), [values(row) for row in report.rows])
        return
    lines = [(*row.key, *_shown(row)) for row in report.rows]
    if report.total is not None and len(lines) > 1:
        lines.append(("total", *[""] * (len(report.keys) - 1), *_shown(report.total)))
    headings, cells = _aligned((*report.keys, *_HEADINGS), lines, len(report.keys))
    kept = _fitting(headings, shutil.get_terminal_size().columns)
    output.table([headings[place] for place in kept], [[line[place] for place in kept] for line in cells])


def _fitting(headings: Sequence[str], width: int) -> list[int]:
    """Return the columns to show: a narrow terminal goes without the less telling ones, a number is never folded."""
    kept = list(range(len(headings)))
    for name in _DISPENSABLE:
        if sum(len(headings[place]) + _GAP for place in kept) > width:
            kept = [place for place in kept if headings[place].strip() != name]
    return kept


def _aligned(
    headings: Sequence[str], lines: Sequence[Sequence[str]], keys: int
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the same cells with all columns after the keys flush right, as numbers are compared."""
    widths = [max(len(line[place]) for line in (headings, *lines)) for place in range(len(headings))]

    def pad(line: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            text.ljust(width) if place < keys else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )

    return pad(headings), [pad(line) for line in lines]


_DISPENSABLE = ("busy", "p50", "attempts", "p95")
_GAP = 3
_HEADINGS = ("files", "attempts", "failed", "success", "landed", "busy", "per file", "p50", "p95")


def _shown(row: ReportRow) -> tuple[str, ...]:
    """Return what a terminal shows of one line: rounded, with units."""
    return (
        f"{row.files_done:,}",
        f"{row.attempts:,}",
        f"{row.failed_attempts:,}",
        _or_dash(row.success_percent, lambda value: f"{value:.1f} %"),
        show_bytes(row.bytes_landed),
        show_seconds(row.busy_seconds),
        _or_dash(row.mean_throughput, lambda value: f"{show_bytes(value)}/s"),
        _or_dash(row.p50_seconds, show_seconds),
        _or_dash(row.p95_seconds, show_seconds),
    )


def _or_dash(value: float | None, show: Callable[[float], str]) -> str:
    return "-" if value is None else show(value)


def show_bytes(value: float) -> str:
    """Return bytes in decimal units with three or four digits: '717.3 GB'."""
    for factor, prefix in _PREFIXES:
        if value >= factor:
            return f"{value / factor:,.1f} {prefix}B"
    return f"{value:.0f} B"


def show_seconds(value: float) -> str:
    """Return seconds as '6.7 s', '2 min 18 s' or '4 h 36 min'."""
    if value < 60:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def write_csv(stream: TextIO, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows as CSV (RFC 4180 quoting, lines end with LF); moments in ISO 8601, UTC."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_text(value) for value in row] for row in rows)


def _text(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    return value


def write_json_lines(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print each row as one line of JSON, as it comes."""
    for row in rows:
        output.print_json(dict(row), lines=True)
