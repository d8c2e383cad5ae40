"""Reports against the same sums in Python."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable

import pytest
from click import unstyle

from accounting import render
from accounting.period import ALL_TIME
from accounting.report import GROUPINGS, By, report
from accounting.store import AttemptRecord
from dtscore.database import Database
from dtscore.output import print_json
from tests.accounting.samples import INSIDE

KEYS: dict[By, Callable[[AttemptRecord], tuple[str, ...]]] = {
    "channel": lambda one: (one.source, one.destination),
    "day": lambda one: (one.ended_at.date().isoformat(),),
    "owner": lambda one: (one.user,),
    "error": lambda one: (one.error_class,),
    "operation": lambda one: (one.operation_type,),
}


def _covered(records: list[AttemptRecord], by: By) -> list[AttemptRecord]:
    inside = [one for one in records if INSIDE.since <= one.ended_at < INSIDE.until]
    return [one for one in inside if by in ("day", "owner", "operation") or KEYS[by](one)[-1]]


def _nearest_rank(values: list[float], share: float) -> float | None:
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


@pytest.mark.parametrize("by", GROUPINGS)
def test_report_adds_up(filled: Database, records: list[AttemptRecord], by: By) -> None:
    """Each line's counts, bytes, seconds, means and percentiles are those of its attempts, and the total of all."""
    with filled.read() as connection:
        made = report(connection, INSIDE, by)
    covered = _covered(records, by)
    assert [row.key for row in made.rows] == sorted({KEYS[by](one) for one in covered})
    assert made.total is not None
    for row in (*made.rows, made.total):
        own = [one for one in covered if not row.key or KEYS[by](one) == row.key]
        done = [one for one in own if one.final_status == "Done"]
        failed = [one for one in own if one.final_status in ("Failed", "Retried")]
        times = [one.transfer_time for one in done if one.transfer_size]
        assert (row.attempts, row.files_done, row.failed_attempts) == (len(own), len(done), len(failed))
        assert row.cancelled_attempts == len(own) - len(done) - len(failed)
        assert row.bytes_landed == sum(one.transfer_size for one in done)
        assert row.bytes_wasted == sum(one.transfer_size for one in own) - row.bytes_landed
        assert row.busy_seconds == pytest.approx(sum(one.transfer_time for one in own))
        if done or failed:
            assert row.success_percent == pytest.approx(100 * len(done) / (len(done) + len(failed)), abs=0.006)
        else:
            assert row.success_percent is None
        assert row.mean_throughput == (pytest.approx(row.bytes_landed / sum(times)) if times else None)
        assert (row.p50_seconds, row.p95_seconds) == (_nearest_rank(times, 0.5), _nearest_rank(times, 0.95))


@pytest.mark.parametrize("by", GROUPINGS)
def test_report_of_nothing(database: Database, by: By) -> None:
    """An empty ledger gives no line and no total."""
    with database.read() as connection:
        made = report(connection, ALL_TIME, by)
    assert made.rows == () and made.total is None


def test_csv_and_json_hold_the_same_numbers(filled: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """What CSV and JSON say can be read back and is the report, unrounded."""
    with filled.read() as connection:
        made = report(connection, ALL_TIME, "channel")
    stream = io.StringIO()
    render.write_csv(stream, render.columns(made), (render.values(row) for row in made.rows))
    lines = list(csv.DictReader(io.StringIO(stream.getvalue())))
    print_json(render.as_json(made))
    loaded = json.loads(capsys.readouterr().out)
    assert made.total is not None and loaded["total"]["attempts"] == made.total.attempts
    for line, entry, row in zip(lines, loaded["rows"], made.rows, strict=True):
        assert (line["source"], line["destination"]) == (entry["source"], entry["destination"]) == row.key
        assert int(line["bytes_landed"]) == entry["bytes_landed"] == row.bytes_landed
        assert float(line["mean_throughput"]) == entry["mean_throughput"] == row.mean_throughput


def test_a_terminal_gets_units_and_a_total(
    filled: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the report is a drawn table, rounded, with units and a line of totals."""
    with filled.read() as connection:
        made = report(connection, ALL_TIME, "channel")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    render.print_report(made)
    drawn = capsys.readouterr().out
    assert "GB" in drawn and "MB/s" in drawn and "total" in drawn and "\t" not in drawn


def test_a_narrow_terminal_gets_fewer_columns(
    filled: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 80 columns the less telling columns are left out, so that each line of the report stays one line."""
    with filled.read() as connection:
        made = report(connection, ALL_TIME, "channel")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    render.print_report(made)
    lines = [line for line in unstyle(capsys.readouterr().out).splitlines() if line.strip()]
    assert len(lines) == 2 + len(made.rows) + 1 and max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (7.173e11, "717.3 GB"), (2e15, "2.0 PB")]
)
def test_bytes_in_words(value: float, shown: str) -> None:
    """Sizes are shown in decimal units."""
    assert render.show_bytes(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(6.71, "6.71 s"), (138, "2 min 18 s"), (16560, "4 h 36 min")])
def test_seconds_in_words(value: float, shown: str) -> None:
    """Durations are shown in the two largest units."""
    assert render.show_seconds(value) == shown
