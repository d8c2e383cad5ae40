"""Periods as users write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.period import ALL_TIME, parse_moment, parse_period
from dtscore.errors import UsageError

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=timezone.utc)
_UNITS = {"m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30)))
def test_iso_moments_come_back(moment: datetime) -> None:
    """Any ISO moment is read as itself: in UTC without a zone, converted with one."""
    aware = moment.replace(tzinfo=timezone.utc)
    assert parse_moment(moment.isoformat(), NOW) == aware
    assert parse_moment(aware.astimezone(timezone(timedelta(hours=-3))).isoformat(), NOW) == aware


@given(st.integers(min_value=0, max_value=2000), st.sampled_from(sorted(_UNITS)))
def test_ages_count_back_from_now(count: int, unit: str) -> None:
    """'7d' is seven days before now; all units likewise."""
    assert parse_moment(f"{count}{unit}", NOW) == NOW - timedelta(seconds=count * _UNITS[unit])


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_a_clear_error(text: str) -> None:
    """Whatever is typed gives an aware moment or a UsageError with a hint, never another error."""
    try:
        assert parse_moment(text, NOW).tzinfo is not None
    except UsageError as error:
        assert error.hint


@pytest.mark.parametrize("text", ["yesterday-ish", "", "7", "7x", "-3d", "2026-13-01", "2026-11-20T25:00", "٧d "])
def test_bad_moments_are_refused(text: str) -> None:
    """What is not a moment is refused in words, with examples."""
    with pytest.raises(UsageError) as caught:
        parse_moment(text, NOW)
    assert "2026-11-20" in caught.value.hint


def test_a_huge_age_is_the_beginning() -> None:
    """An age beyond the calendar means from the beginning."""
    assert parse_moment("999999999w", NOW) == ALL_TIME.since


def test_now_includes_what_just_ended() -> None:
    """A period until now holds an attempt that ended at this very moment."""
    assert parse_period("1h", "now", NOW).until > NOW


@pytest.mark.parametrize(("since", "until"), [("1d", "2d"), ("2026-11-20", "2026-11-20"), ("2027-01-01", "now")])
def test_a_period_must_not_run_backwards(since: str, until: str) -> None:
    """An end at or before the beginning is refused with both moments named."""
    with pytest.raises(UsageError, match="before it begins"):
        parse_period(since, until, NOW)


def test_periods_say_themselves() -> None:
    """A period is printed in UTC to the minute."""
    assert str(parse_period("2026-11-18", "2026-11-20T12:30", NOW)) == "2026-11-18 00:00 to 2026-11-20 12:30 UTC"
    assert str(ALL_TIME) == "all time"
    assert str(parse_period("all", "2026-11-20", NOW)).startswith("the beginning to")
