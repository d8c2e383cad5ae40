"""Plots: the numbers behind them, what the axes hold, and that the files are pictures with something on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import etree
from matplotlib.patches import StepPatch
from PIL import Image

from accounting import store
from accounting.activity import Activity, bucket_of, edges_of, gather
from accounting.period import ALL_TIME, Period
from accounting.plot import KINDS, Kind, draw, save, unit_of
from accounting.store import AttemptRecord
from dtscore.database import Database
from dtscore.errors import NotFoundError, UsageError
from tests.accounting.samples import FIRST_NIGHT, INSIDE, UTC, attempt, three_nights


@pytest.fixture(scope="module")
def activity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Activity]:
    """Three nights, gathered once."""
    from accounting.models import attempts

    database = Database(f"sqlite:///{tmp_path_factory.mktemp('plots') / 'plots.db'}")
    attempts.create(database.engine())
    with database.write() as connection:
        store.record(connection, three_nights())
    with database.read() as connection:
        yield gather(connection, ALL_TIME)
    database.close()


@pytest.mark.parametrize(
    ("days", "bucket"),
    [
        (0.01, timedelta(minutes=15)),
        (2.99, timedelta(minutes=15)),
        (3, timedelta(hours=1)),
        (7.99, timedelta(hours=1)),
        (8, timedelta(days=1)),
        (182, timedelta(days=1)),
        (183, timedelta(weeks=1)),
        (4000, timedelta(weeks=1)),
    ],
)
def test_buckets_follow_the_length(days: float, bucket: timedelta) -> None:
    """Buckets are 15 min under 3 days, 1 h under 8 days, 1 day under 6 months, then 1 week."""
    assert bucket_of(timedelta(days=days)) == bucket


@pytest.mark.parametrize("bucket", [timedelta(minutes=15), timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)])
def test_edges_cover_the_period(bucket: timedelta) -> None:
    """Edges are whole buckets of the UTC calendar (weeks begin on Monday) around the period, and none more."""
    period = Period(datetime(2026, 11, 18, 3, 7, tzinfo=UTC), datetime(2026, 11, 30, 0, 0, tzinfo=UTC))
    edges = [datetime.fromtimestamp(edge, UTC) for edge in edges_of(period, bucket)]
    assert edges[0] <= period.since < edges[1]
    assert edges[-2] < period.until <= edges[-1]
    assert all(b - a == bucket for a, b in itertools.pairwise(edges))
    assert bucket != timedelta(weeks=1) or edges[0].weekday() == 0


def test_gathered_numbers_are_those_of_the_attempts(filled: Database, records: list[AttemptRecord]) -> None:
    """Bytes, successes and failures of each channel and bucket are those that Python counts; no byte is lost."""
    with filled.read() as connection:
        found = gather(connection, INSIDE)
    inside = [one for one in records if INSIDE.since <= one.ended_at < INSIDE.until and one.destination]
    assert found.bucket == timedelta(minutes=15)
    for row, channel in enumerate(found.channels):
        own = [one for one in inside if f"{one.source} → {one.destination}" == channel]
        done = [one for one in own if one.final_status == "Done"]
        assert found.volumes[row] == sum(one.transfer_size for one in done)
        assert found.landed[row].sum() == pytest.approx(float(found.volumes[row]))
        for place, (begin, end) in enumerate(zip(found.edges, found.edges[1:], strict=False)):
            here = [one.final_status for one in own if begin <= one.ended_at.timestamp() < end]
            assert found.done[row, place] == here.count("Done")
            assert found.failed[row, place] == here.count("Failed") + here.count("Retried")
    assert list(found.volumes) == sorted(found.volumes, reverse=True)


def test_bytes_are_spread_over_the_time_they_took(database: Database) -> None:
    """A transfer over two hours lies evenly in its buckets, not all in the last one."""
    hour = datetime(2026, 11, 19, 2, tzinfo=UTC)
    long = attempt(1, transfer_size=8_000, started_at=hour, ended_at=hour + timedelta(hours=2))
    with database.write() as connection:
        store.record(connection, [long])
    with database.read() as connection:
        found = gather(connection, Period(hour, hour + timedelta(hours=3)))
    assert found.landed[0] == pytest.approx([1000.0] * 8 + [0.0] * 4)
    assert found.rate[0, 0] == pytest.approx(1000 / 900)


def test_nothing_to_draw_is_said(database: Database) -> None:
    """A period without attempts is an error that names the period."""
    with database.read() as connection, pytest.raises(NotFoundError, match="no attempts in this period"):
        gather(connection, INSIDE)


def test_throughput_axes_hold_the_rates(activity: Activity) -> None:
    """The stacked steps are the channels' rates, in the unit that the axis names."""
    (axes,) = draw(activity, "throughput").axes
    steps: list[Any] = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
    factor = {"MB/s": 1e6, "GB/s": 1e9, "kB/s": 1e3}[axes.get_ylabel()]
    assert [patch.get_label() for patch in axes.patches] == list(activity.channels)
    for row, step in enumerate(steps):
        assert np.allclose((step.values - step.baseline) * factor, activity.rate[row])
    assert axes.get_xlabel() == "UTC"


def test_success_axes_hold_the_percentages(activity: Activity) -> None:
    """The coloured cells are the success rates, first channel on top, empty where nothing ended."""
    (axes,) = draw(activity, "success").axes
    shown = axes.collections[0].get_array()
    assert shown is not None
    cells = np.ma.filled(np.ma.asarray(shown).astype(float), np.nan).reshape(activity.success.shape)[::-1]
    assert np.array_equal(cells, activity.success, equal_nan=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(activity.channels[::-1])


def test_volume_axes_hold_the_bytes(activity: Activity) -> None:
    """The bars are the channels' volumes, in the unit that the axis names."""
    (axes,) = draw(activity, "volume").axes
    factor = {"GB": 1e9, "TB": 1e12, "MB": 1e6}[axes.get_xlabel()]
    widths = [patch.get_width() * factor for patch in axes.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([float(volume) for volume in activity.volumes])


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_pictures(activity: Activity, kind: Kind, tmp_path: Path) -> None:
    """Every kind is written as a PNG with many colours and as well-formed SVG."""
    figure = draw(activity, kind)
    save(figure, tmp_path / "a.png")
    save(figure, tmp_path / "a.svg")
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        pixels = np.asarray(picture.convert("RGB"))
    assert picture.format == "PNG" and pixels.shape[1] > 1000
    assert (pixels != 255).any(axis=2).mean() > 0.03
    assert etree.parse(tmp_path / "a.svg").getroot().tag.endswith("}svg")


def test_legends_cover_no_data(activity: Activity) -> None:
    """Legends stand beside the axes, never on them."""
    figure = draw(activity)
    figure.canvas.draw()
    for axes in figure.axes:
        legend = axes.get_legend()
        assert legend is None or not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_many_channels_are_folded(database: Database) -> None:
    """Beyond the palette's colours the smallest channels are drawn together, and no byte is lost."""
    size = 10**9
    many = [
        attempt(number, destination=f"site{number:02}", transfer_size=number * size, ended_at=FIRST_NIGHT)
        for number in range(1, 13)
    ]
    with database.write() as connection:
        store.record(connection, many)
    with database.read() as connection:
        (axes,) = draw(gather(connection, ALL_TIME), "volume").axes
    assert axes.get_yticklabels()[-1].get_text() == "all 6 others"
    widths = [patch.get_width() for patch in axes.patches]  # type: ignore[attr-defined]
    assert math.isclose(sum(widths), sum(range(1, 13)))


@pytest.mark.parametrize("status", ["Failed", "Cancelled", "Done"])
def test_one_attempt_can_be_drawn(database: Database, tmp_path: Path, status: str) -> None:
    """A single attempt that moved nothing, ended well or badly, still gives a figure."""
    with database.write() as connection:
        store.record(connection, [attempt(final_status=status, transfer_size=0, transfer_time=0)])
    with database.read() as connection:
        save(draw(gather(connection, ALL_TIME)), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["plot", "plot.gif", "absent/plot.png"])
def test_bad_names_are_refused(activity: Activity, tmp_path: Path, name: str) -> None:
    """An unknown ending or a folder that is not there is told in words."""
    with pytest.raises(UsageError):
        save(draw(activity, "volume"), tmp_path / name)


@pytest.mark.parametrize(
    ("largest", "unit"), [(0.0, (1.0, "")), (3.5e9, (1e9, "G")), (999.0, (1.0, "")), (2e13, (1e12, "T"))]
)
def test_units_fit_the_largest_value(largest: float, unit: tuple[float, str]) -> None:
    """Axes use the unit in which the largest value is 1 or more."""
    assert unit_of(largest) == unit
