"""Periods of time as users write them: `2026-11-20`, `2026-11-20T04:00`, `7d`, `12h`, `now`, `all`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from dtscore.errors import UsageError

_AGO = re.compile(r"([0-9]{1,9})\s*(min|m|h|d|w)\Z")
_UNITS = {
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_EARLIEST = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LATEST = datetime(9999, 12, 31, tzinfo=timezone.utc)
_HINT = "write a date (2026-11-20), a moment in UTC (2026-11-20T04:00), or how long ago (30m, 12h, 7d, 2w)"


@dataclass(frozen=True, slots=True)
class Period:
    """The attempts that ended in [since, until), aware UTC; `ALL_TIME` holds every one."""

    since: datetime
    until: datetime

    def __str__(self) -> str:
        """Say the period in words, UTC to the minute."""
        if self == ALL_TIME:
            return "all time"
        begin = "the beginning" if self.since == _EARLIEST else f"{self.since:%Y-%m-%d %H:%M}"
        return f"{begin} to {self.until:%Y-%m-%d %H:%M} UTC"


ALL_TIME = Period(_EARLIEST, _LATEST)


def parse_period(since: str, until: str, moment: datetime) -> Period:
    """Read `--since` and `--until` against the present moment; UsageError if unreadable or the wrong way round."""
    begin = _EARLIEST if since == "all" else parse_moment(since, moment)
    # The clock of the database marks the rows: one second more, so that what ended just now is counted.
    end = moment + timedelta(seconds=1) if until == "now" else parse_moment(until, moment)
    if end <= begin:
        raise UsageError(
            f"the period ends ({until}: {end:%Y-%m-%d %H:%M}) before it begins ({since}: {begin:%Y-%m-%d %H:%M})",
            "give --since a moment before --until",
        )
    return Period(begin, end)


def parse_moment(text: str, moment: datetime) -> datetime:
    """Return the aware UTC moment that a user means; one without a zone is UTC. UsageError if unreadable."""
    word = text.strip()
    try:
        if word == "now":
            return moment
        if ago := _AGO.match(word):
            return max(moment - int(ago[1]) * _UNITS[ago[2]], _EARLIEST)
        parsed = datetime.fromisoformat(word)
        aware = parsed.replace(tzinfo=timezone.utc) if parsed.tzinfo is None else parsed.astimezone(timezone.utc)
        return min(max(aware, _EARLIEST), _LATEST)
    except OverflowError:
        return _EARLIEST
    except ValueError as error:
        raise UsageError(f"{text!r} is not a moment in time", _HINT) from error
