"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest

from dtscore.errors import UsageError
from dtscore.units import parse_duration, parse_size, show_duration, show_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("5 s", 5), ("5s", 5), ("2 min", 120), ("1.5 h", 5400), ("1 d", 86400), ("250 ms", 0.25), (" 3 S ", 3)],
)
def test_durations(text: str, seconds: float) -> None:
    """A number alone is seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64 KiB", 65536),
        ("10 GiB", 10 * 1024**3),
        ("1 MB", 10**6),
        ("1.5 kib", 1536),
        ("7 B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """A number alone is bytes; KiB counts by 1,024 and KB by 1,000."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "s", "-1 s", "1e3", "5 weeks", "1 s 2", "nan", "inf", "٣ s"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert "2 min" in caught.value.hint


@pytest.mark.parametrize("text", ["", "KiB", "-1", "5 s", "1 XiB"])
def test_what_is_no_size(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "64 KiB" in caught.value.hint


def test_a_large_size_keeps_every_byte() -> None:
    """Whole numbers never pass through a float."""
    assert parse_size(str(2**62 + 1)) == 2**62 + 1


@pytest.mark.parametrize("seconds", [0.25, 5, 90, 120, 7200, 86400 * 7])
def test_shown_durations_are_read_back(seconds: float) -> None:
    """What is shown can be written into the configuration."""
    assert parse_duration(show_duration(seconds)) == seconds


def test_sizes_as_people_read_them() -> None:
    """Three digits, the unit that fits."""
    shown = [show_size(size) for size in (0, 512, 1010, 1536, 20 * 1024**3, 5 * 1024**6)]
    assert shown == ["0 B", "512 B", "1010 B", "1.5 KiB", "20 GiB", "5.12e+03 PiB"]
