"""What happened on each channel in each stretch of time: the numbers behind the plots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from accounting.models import attempts
from accounting.period import Period
from dtscore.errors import NotFoundError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_BATCH = 5000
_MONDAY = datetime(1970, 1, 5, tzinfo=timezone.utc).timestamp()
_HALF_A_YEAR = timedelta(days=183)


@dataclass(frozen=True, slots=True)
class Activity:
    """Attempts with a destination, by channel (rows, most bytes first) and bucket (columns).

    `edges` are Unix seconds, one more than there are buckets. `landed` holds the bytes of attempts that ended Done,
    spread evenly over the time from start to end; `done` and `failed` count attempts by the bucket they ended in.
    """

    period: Period
    bucket: timedelta
    edges: Floats
    channels: tuple[str, ...]
    landed: Floats
    done: Counts
    failed: Counts
    volumes: Counts

    @property
    def rate(self) -> Floats:
        """Bytes per second of each channel in each bucket, over the whole bucket."""
        return np.divide(self.landed, self.bucket.total_seconds(), dtype=np.float64)

    @property
    def success(self) -> Floats:
        """Percent of attempts that ended Done, cancelled ones left out; NaN where there was none."""
        tried = self.done + self.failed
        percent: Floats = np.full(tried.shape, np.nan)
        np.divide(100.0 * self.done, tried, out=percent, where=tried > 0)
        return percent


def bucket_of(length: timedelta) -> timedelta:
    """Return DIRAC's bucket for a period: 15 min under 3 days, 1 h under 8 days, 1 day under 6 months, else 1 week."""
    if length < timedelta(days=3):
        return timedelta(minutes=15)
    if length < timedelta(days=8):
        return timedelta(hours=1)
    return timedelta(days=1) if length < _HALF_A_YEAR else timedelta(weeks=1)


def edges_of(period: Period, bucket: timedelta) -> Floats:
    """Return the buckets' edges in Unix seconds: whole quarters, hours or UTC days, or weeks from Monday."""
    step = bucket.total_seconds()
    origin = _MONDAY if bucket == timedelta(weeks=1) else 0.0
    first = (period.since.timestamp() - origin) // step
    last = -((origin - period.until.timestamp()) // step)
    return np.asarray(origin + step * np.arange(first, last + 1), dtype=np.float64)


def gather(connection: Connection, period: Period) -> Activity:
    """Read the attempts of a period; NotFoundError when it holds none with a destination.

    All of time is cut to the attempts that there are; any other period is kept as asked for.
    """
    shown = _cut(connection, period)
    bucket = bucket_of(shown.until - shown.since)
    gathering = _Gathering(edges_of(shown, bucket))
    for batch in _batches(connection, period):
        gathering.add(batch)
    return gathering.result(shown, bucket)


def _in(period: Period) -> sa.ColumnElement[bool]:
    ended = attempts.c.ended_at
    return sa.and_(ended >= period.since, ended < period.until, attempts.c.destination != "")


def _cut(connection: Connection, period: Period) -> Period:
    """Return the period with an open beginning or end drawn in to the attempts that there are."""
    ended = attempts.c.ended_at
    first, last = connection.execute(sa.select(sa.func.min(ended), sa.func.max(ended)).where(_in(period))).one()
    if first is None:
        raise NotFoundError(f"no attempts in this period ({period})", "choose another with --since and --until")
    since = first if period.since.year == 1970 else period.since
    until = last + timedelta(seconds=1) if period.until.year == 9999 else period.until
    return Period(since, until)


def _batches(connection: Connection, period: Period) -> Iterable[Any]:
    table = attempts.c
    chosen = sa.select(
        table.source, table.destination, table.final_status, table.transfer_size, table.started_at, table.ended_at
    ).where(_in(period))
    return connection.execution_options(yield_per=_BATCH).execute(chosen).partitions()


class _Gathering:
    """Adds up batches of rows, so that memory does not grow with their number."""

    def __init__(self, edges: Floats) -> None:
        self.edges = edges
        self.sums: dict[str, tuple[Floats, Counts, Counts]] = {}
        self.volumes: dict[str, int] = {}

    def add(self, batch: Iterable[Any]) -> None:
        by_channel: dict[str, list[Any]] = {}
        for row in batch:
            by_channel.setdefault(f"{row.source or '(outside)'} → {row.destination}", []).append(row)
        for channel, rows in by_channel.items():
            self._add_channel(channel, rows)

    def _add_channel(self, channel: str, rows: list[Any]) -> None:
        count = len(self.edges) - 1
        landed, done, failed = self.sums.setdefault(
            channel, (np.zeros(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64))
        )
        good = [row for row in rows if row.final_status == "Done"]
        bad = [row for row in rows if row.final_status in ("Failed", "Retried")]
        done += self._ends(good)
        failed += self._ends(bad)
        landed += spread(self.edges, good)
        self.volumes[channel] = self.volumes.get(channel, 0) + sum(row.transfer_size for row in good)

    def _ends(self, rows: list[Any]) -> Counts:
        counted, _ = np.histogram([row.ended_at.timestamp() for row in rows], bins=self.edges)
        return counted.astype(np.int64)

    def result(self, period: Period, bucket: timedelta) -> Activity:
        names = sorted(self.sums, key=lambda name: (-self.volumes[name], name))
        landed = np.stack([self.sums[name][0] for name in names])
        done = np.stack([self.sums[name][1] for name in names])
        failed = np.stack([self.sums[name][2] for name in names])
        volumes = np.array([self.volumes[name] for name in names], dtype=np.int64)
        return Activity(period, bucket, self.edges, tuple(names), landed, done, failed, volumes)


def spread(edges: Floats, rows: Iterable[Any]) -> Floats:
    """Return the bytes in each bucket, each row's `transfer_size` spread evenly from `started_at` to `ended_at`.

    What moved before the first edge is counted in the first bucket, so that no byte of the period is lost.
    """
    total = np.zeros(len(edges) - 1)
    for size, start, end in _spans(rows):
        share = np.clip((edges - start) / (end - start), 0.0, 1.0)
        share[0], share[-1] = 0.0, 1.0
        total += size * np.diff(share)
    return total


def _spans(rows: Iterable[Any]) -> Iterator[tuple[int, float, float]]:
    for row in rows:
        if row.transfer_size:
            end = row.ended_at.timestamp()
            yield row.transfer_size, min(row.started_at.timestamp(), end - 1e-3), end
