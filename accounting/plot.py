"""Plots for a meeting: throughput over time, success rate, and volume, all by channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal, cast, get_args

import matplotlib.dates as mdates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from accounting.activity import Activity
from dtscore.errors import UsageError

Kind = Literal["all", "throughput", "success", "volume"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMATS = (".png", ".svg", ".pdf")

# Paul Tol's "bright" scheme: told apart with any kind of colour vision. Grey is kept for "all others".
_PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
_OTHERS = "#BBBBBB"
_INK = "#333333"
# From red-brown over pale to deep blue: also safe, and a channel that is all right recedes.
_STEPS = (0, 50, 80, 95, 99, 100.001)
_STEP_COLOURS = ("#A50026", "#F46D43", "#FEE090", "#ABD9E9", "#4575B4")
_STEP_LABELS = ("under 50 %", "50 to 80 %", "80 to 95 %", "95 to 99 %", "99 to 100 %")
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_BUCKETS = {900.0: "15 min", 3600.0: "1 h", 86400.0: "1 day", 604800.0: "1 week"}
_DPI = 150


def draw(activity: Activity, kind: Kind = "all") -> Figure:
    """Draw one panel, or all three above one another, as a figure of its own (no global state of pyplot)."""
    shown = _fold(activity)
    panels = tuple(_PANELS) if kind == "all" else (kind,)
    rows = len(shown.channels)
    heights = {"throughput": 3.4, "success": 0.9 + 0.34 * rows, "volume": 0.9 + 0.38 * rows}
    tall = [heights[name] for name in panels]
    engine = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)
    figure = Figure(figsize=(11, sum(tall) + 1.2 + 0.5 * len(panels)), layout=engine)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": tall})[:, 0]
    for one, name in zip(axes, panels, strict=True):
        _PANELS[name](one, shown)
    figure.suptitle(_headline(activity), x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    return figure


def check_ending(path: Path) -> None:
    """Raise UsageError unless the name's ending says which format to write."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} does not say which kind of picture it is", "end its name with .png, .svg or .pdf")


def save(figure: Figure, path: Path) -> None:
    """Write the figure in the format that the name's ending says; UsageError for another ending or a bad path."""
    check_ending(path)
    try:
        figure.savefig(path, dpi=_DPI, facecolor="white")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another folder") from error


def unit_of(largest: float) -> tuple[float, str]:
    """Return the factor and prefix that bring the largest value to 1 or more: (1e9, 'G') for 3e9 bytes."""
    return next(((factor, prefix) for factor, prefix in _PREFIXES if largest >= factor), (1.0, ""))


def _fold(activity: Activity) -> Activity:
    """Put the channels that have no colour of their own together as 'all others'."""
    keep = len(_PALETTE)
    if len(activity.channels) <= keep + 1:
        return activity

    def folded(values: Any) -> Any:
        return np.concatenate([values[:keep], values[keep:].sum(axis=0, keepdims=True)])

    names = (*activity.channels[:keep], f"all {len(activity.channels) - keep} others")
    return Activity(
        activity.period,
        activity.bucket,
        activity.edges,
        names,
        folded(activity.landed),
        folded(activity.done),
        folded(activity.failed),
        folded(activity.volumes),
    )


def _colours(activity: Activity) -> list[str]:
    return [*_PALETTE, _OTHERS][: len(activity.channels)]


def _headline(activity: Activity) -> str:
    done, failed = int(activity.done.sum()), int(activity.failed.sum())
    volume = int(activity.volumes.sum())
    factor, prefix = unit_of(volume)
    success = f"{100 * done / (done + failed):.1f} % of attempts succeeded" if done + failed else "no attempt ended"
    summary = f"{_files(done)}, {volume / factor:,.4g} {prefix}B landed, {success}"
    return f"Data transport, {activity.period}\n{summary}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _moments(edges: Sequence[float]) -> Any:
    return cast(Any, mdates).date2num([datetime.fromtimestamp(edge, timezone.utc) for edge in edges])


def _time_axis(axes: Axes, activity: Activity) -> None:
    locator = mdates.AutoDateLocator(tz=timezone.utc, minticks=4, maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = mdates.ConciseDateFormatter(locator, tz=timezone.utc, show_offset=False)  # type: ignore[no-untyped-call]
    # Midnight is told by its date, also at the left edge, so that no reader has to guess the day.
    formatter.formats = ["%Y", "%b", "%b %d", "%H:%M", "%H:%M", "%S.%f"]
    formatter.zero_formats = ["", "%Y", "%b", "%b %d", "%H:%M", "%H:%M"]
    axes.xaxis.set_major_formatter(formatter)
    ends = _moments([activity.edges[0], activity.edges[-1]])
    axes.set_xlim(ends[0], ends[1])
    axes.set_xlabel("UTC")


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)


def _throughput(axes: Axes, activity: Activity) -> None:
    """Stack the channels' rates as steps: the outline is the rate of the whole site."""
    factor, prefix = unit_of(float(activity.rate.sum(axis=0).max()))
    moments = _moments(list(activity.edges))
    base = np.zeros(len(activity.edges) - 1)
    for name, colour, rate in zip(activity.channels, _colours(activity), activity.rate / factor, strict=True):
        axes.stairs(base + rate, moments, baseline=base, fill=True, color=colour, label=name, linewidth=0)
        base = base + rate
    _plain(axes, f"Throughput by channel, stacked (mean over {_bucket_words(activity.bucket)})")
    axes.set_ylabel(f"{prefix}B/s")
    axes.set_ylim(0, max(float(base.max()) * 1.08, 1e-9))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    _time_axis(axes, activity)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9, reverse=True)


def _success(axes: Axes, activity: Activity) -> None:
    """Colour each channel's buckets by their success rate; white where nothing ended."""
    norm = BoundaryNorm(_STEPS, len(_STEP_COLOURS))
    shown = np.ma.masked_invalid(activity.success[::-1])
    rows = np.arange(len(activity.channels) + 1)
    colours = ListedColormap(list(_STEP_COLOURS))
    mesh = axes.pcolormesh(_moments(list(activity.edges)), rows, shown, cmap=colours, norm=norm)
    axes.set_yticks(rows[:-1] + 0.5, activity.channels[::-1])
    axes.hlines(rows[1:-1], 0, 1, transform=axes.get_yaxis_transform(), color="white", linewidth=3)
    _plain(axes, f"Attempts that succeeded (per {_bucket_words(activity.bucket)}; white: none ended)")
    axes.tick_params(axis="y", length=0)
    _time_axis(axes, activity)
    handles = [axes.fill_between([], [], color=colour, label=label) for colour, label in _legend_steps()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    mesh.set_rasterized(True)


def _legend_steps() -> list[tuple[str, str]]:
    return list(zip(_STEP_COLOURS, _STEP_LABELS, strict=True))[::-1]


def _volume(axes: Axes, activity: Activity) -> None:
    """Draw one bar for each channel, with its number written behind it."""
    factor, prefix = unit_of(float(activity.volumes.max()))
    values = activity.volumes / factor
    places = np.arange(len(values))[::-1]
    bars = axes.barh(places, values, color=_colours(activity), height=0.7)
    done = activity.done.sum(axis=1)
    words = [f"{value:,.4g} {prefix}B in {_files(files)}" for value, files in zip(values, done, strict=True)]
    axes.bar_label(bars, labels=words, padding=4, fontsize=9, color=_INK)
    axes.set_yticks(places, activity.channels)
    axes.set_xlim(0, max(float(values.max()) * 1.25, 1e-9))
    _plain(axes, "Volume landed by channel")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{prefix}B")


def _bucket_words(bucket: timedelta) -> str:
    return _BUCKETS[bucket.total_seconds()]


_PANELS: dict[str, Callable[[Axes, Activity], None]] = {
    "throughput": _throughput,
    "success": _success,
    "volume": _volume,
}
