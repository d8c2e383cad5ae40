"""Each documented query, on both databases, against the same numbers computed in Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import date, datetime
from itertools import groupby
from typing import Any

import pytest
import sqlalchemy as sa

from accounting import models, queries
from accounting.period import ALL_TIME
from accounting.store import AttemptRecord
from dtscore.database import Database
from dtscore.errors import NotFoundError
from tests.accounting.samples import INSIDE, UTC

Records = list[AttemptRecord]
Rows = list[tuple[Any, ...]]


def _group(records: Iterable[AttemptRecord], key: Callable[[AttemptRecord], Any]) -> list[tuple[Any, Records]]:
    return [(value, list(group)) for value, group in groupby(sorted(records, key=key), key=key)]


def _day(one: AttemptRecord) -> date:
    return one.ended_at.astimezone(UTC).date()


def _hour(one: AttemptRecord) -> tuple[date, int]:
    return _day(one), one.ended_at.astimezone(UTC).hour


def _channel(one: AttemptRecord) -> tuple[str, str]:
    return one.source, one.destination


def _place(one: AttemptRecord) -> tuple[str, str, str]:
    return one.error_class, one.source, one.destination


def _done(records: Records) -> Records:
    return [one for one in records if one.final_status == "Done"]


def _failed(records: Records) -> Records:
    return [one for one in records if one.final_status in ("Failed", "Retried")]


def _moved(records: Records) -> Records:
    return [one for one in _done(records) if one.transfer_size and one.transfer_time]


def _bytes(records: Records) -> int:
    return sum(one.transfer_size for one in records)


def _speed(records: Records) -> float:
    return _bytes(records) / sum(one.transfer_time for one in records)


def _volume_by_day(all_: Records) -> Rows:
    return [(day, len(_done(own)), _bytes(_done(own)), len(_failed(own))) for day, own in _group(all_, _day)]


def _success_by_channel(all_: Records) -> Rows:
    counted = [one for one in all_ if one.destination and one.final_status != "Cancelled"]
    rows = [
        (*key, len(own), len(_done(own)), round(100 * len(_done(own)) / len(own), 2))
        for key, own in _group(counted, _channel)
    ]
    return sorted(rows, key=lambda row: (row[4], row[0], row[1]))


def _slowest_channels(all_: Records) -> Rows:
    rows = [(*key, len(own), _bytes(own), _speed(own)) for key, own in _group(_moved(all_), _channel)]
    return sorted(rows, key=lambda row: row[4])


def _failures_by_error(all_: Records) -> Rows:
    rows = [
        (*key, len(own), len({one.file_id for one in own}), min(o.ended_at for o in own), max(o.ended_at for o in own))
        for key, own in _group(_failed(all_), _place)
    ]
    return sorted(rows, key=lambda row: (-row[3], row[:3]))


def _attempts_per_file(all_: Records) -> Rows:
    files: dict[int, list[bool]] = defaultdict(list)
    for _, own in _group(all_, lambda one: one.file_id):
        files[len(own)].append(bool(_done(own)))
    return [(count, len(ends), sum(ends)) for count, ends in sorted(files.items())]


def _retried_files(all_: Records) -> Rows:
    rows = [
        (*key, len(own), int(bool(_done(own))), max(one.ended_at for one in own))
        for key, own in _group(all_, lambda one: (one.request_id, one.file_id))
        if len(own) > 1
    ]
    return sorted(rows, key=lambda row: (-row[2], row[1]))[:100]


def _volume_by_owner(all_: Records) -> Rows:
    rows = [
        (owner, len(_done(own)), _bytes(_done(own)), sum(one.transfer_time for one in own))
        for owner, own in _group(all_, lambda one: one.user)
    ]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _volume_by_protocol(all_: Records) -> Rows:
    rows = [(name, len(own), _bytes(own), _speed(own)) for name, own in _group(_moved(all_), lambda one: one.protocol)]
    return sorted(rows, key=lambda row: -row[2])


def _throughput_by_hour(all_: Records) -> Rows:
    return [(*hour, len(own), _bytes(own), _bytes(own) / 3600) for hour, own in _group(_done(all_), _hour)]


def _busiest_hours(all_: Records) -> Rows:
    rows = [(*hour, len(own), _bytes(_done(own))) for hour, own in _group(all_, _hour)]
    return sorted(rows, key=lambda row: -row[3])[:10]


def _slowest_transfers(all_: Records) -> Rows:
    slowest = sorted((one for one in all_ if one.transfer_time > 0), key=lambda one: -one.transfer_time)[:20]
    names = queries.find("slowest-transfers").columns
    return [tuple(getattr(one, name) for name in names) for one in slowest]


def _last_failures(all_: Records) -> Rows:
    last = sorted(_failed(all_), key=lambda one: one.ended_at, reverse=True)[:20]
    return [tuple(getattr(one, name) for name in queries.find("last-failures").columns) for one in last]


def _wasted_bytes(all_: Records) -> Rows:
    wasted = [one for one in all_ if one.final_status != "Done" and one.transfer_size]
    rows = [
        (*key, len(own), _bytes(own))
        for key, own in _group(wasted, lambda one: (one.source, one.destination, one.error_class))
    ]
    return sorted(rows, key=lambda row: (-row[4], row[:3]))


def _registration_time(all_: Records) -> Rows:
    tried = [one for one in all_ if one.registration_total]
    rows: Rows = []
    for name, own in _group(tried, lambda one: one.operation_type):
        total, good = sum(one.registration_total for one in own), sum(one.registration_ok for one in own)
        times = [one.registration_time for one in own]
        rows.append((name, total, total - good, sum(times) / len(times), max(times)))
    return rows


EXPECTED: dict[str, Callable[[Records], Rows]] = {
    "volume-by-day": _volume_by_day,
    "success-by-channel": _success_by_channel,
    "slowest-channels": _slowest_channels,
    "failures-by-error": _failures_by_error,
    "attempts-per-file": _attempts_per_file,
    "retried-files": _retried_files,
    "volume-by-owner": _volume_by_owner,
    "volume-by-protocol": _volume_by_protocol,
    "throughput-by-hour": _throughput_by_hour,
    "busiest-hours": _busiest_hours,
    "slowest-transfers": _slowest_transfers,
    "last-failures": _last_failures,
    "wasted-bytes": _wasted_bytes,
    "registration-time": _registration_time,
}


def _same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    return len(found) == len(expected) and all(
        one == (pytest.approx(other, rel=1e-9) if isinstance(other, float) else other)
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", list(queries.QUERIES))
def test_query_gives_the_right_numbers(filled: Database, records: Records, name: str) -> None:
    """A documented query over a period gives on both databases what Python computes from the same attempts."""
    with filled.read() as connection:
        result = queries.run(connection, queries.find(name), INSIDE)
    inside = [one for one in records if INSIDE.since <= one.ended_at < INSIDE.until]
    expected = EXPECTED[name](inside)
    assert len(expected) > 0 and len(inside) < len(records)
    assert len(result.rows) == len(expected)
    for found, wanted in zip(result.rows, expected, strict=True):
        assert _same(found, wanted), f"{found} is not {wanted}"


@pytest.mark.parametrize("name", list(queries.QUERIES))
def test_query_names_its_columns(filled: Database, name: str) -> None:
    """The columns that the documentation promises are those of the statement, in that order."""
    query = queries.find(name)
    with filled.read() as connection:
        values = {"since": ALL_TIME.since, "until": ALL_TIME.until}
        result = connection.execute(queries.bound(query.sql), values)
        assert tuple(result.keys()) == query.columns


@pytest.mark.parametrize("name", list(queries.QUERIES))
def test_query_on_an_empty_database(database: Database, name: str) -> None:
    """No attempts, no rows and no error."""
    with database.read() as connection:
        assert queries.run(connection, queries.find(name), ALL_TIME).rows == ()


def test_unknown_query_names_the_nearest() -> None:
    """A misspelt name is answered with the one that was meant."""
    with pytest.raises(NotFoundError) as caught:
        queries.find("volume-by-owners")
    assert "volume-by-owner" in caught.value.hint


@pytest.mark.parametrize("view", list(models.VIEWS))
def test_views_add_up(filled: Database, records: Records, view: str) -> None:
    """Each view's lines add up to the attempts, files and bytes of all rows that it covers."""
    only = {"accounting_by_channel": "destination", "accounting_by_error": "error_class"}.get(view)
    covered = [one for one in records if only is None or getattr(one, only)]
    with filled.read() as connection:
        rows = connection.execute(sa.text(f"SELECT * FROM {view}")).mappings().all()
    assert sum(row["attempts"] for row in rows) == len(covered)
    assert sum(row["files_done"] for row in rows) == len(_done(covered))
    assert sum(row["failed_attempts"] for row in rows) == len(_failed(covered))
    assert sum(row["bytes_landed"] for row in rows) == _bytes(_done(covered))
    assert sum(row["bytes_landed"] + row["bytes_wasted"] for row in rows) == _bytes(covered)


def test_moments_are_aware(filled: Database) -> None:
    """A query's moments are aware UTC datetimes on both databases, not text."""
    with filled.read() as connection:
        row = queries.run(connection, queries.find("failures-by-error"), ALL_TIME).rows[0]
    assert isinstance(row[5], datetime) and row[5].tzinfo is not None
