"""The chart: throughput normalised to the rsync daemon over the same connection, one panel for each loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.wan.matrix import Cell
from benchmarks.wan.tools import BASE, OURS, STREAMS, TUNED

_PEERS = ("#9aa5b1", "#c3cad2", "#6f9fb0", "#a5c8cf")
_STREAMS = ("#f6d9a8", "#f0bd70", "#e79b44", "#d67a24")
_TUNED = "#a83215"
_BASE = "#3f4a56"


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Draw the chart into a file; its ending says what kind."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.turns if name != BASE))
    parts = _parts(cells)
    figure = Figure(figsize=(9.5, 1.5 + 2.7 * len(parts)), layout="constrained")
    panels = figure.subplots(len(parts), 1, sharey=True, squeeze=False)[:, 0]
    for panel, (title, part) in zip(panels, parts.items(), strict=True):
        _panel(panel, part, names)
        panel.set_title(title, loc="left", fontsize=10)
    figure.suptitle("Throughput, normalised to the rsync daemon over that connection (1 Gbit/s)", fontsize=12)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    with mpl.rc_context({"svg.hashsalt": "dts", "svg.fonttype": "path"}):
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _parts(cells: Sequence[Cell]) -> Mapping[str, Sequence[Cell]]:
    """Return the cells of each panel by its title: one for each loss if all have as many round trips, else only one."""
    losses = sorted({cell.connection.loss for cell in cells})
    parts = [[cell for cell in cells if cell.connection.loss == loss] for loss in losses]
    if len({len(part) for part in parts}) > 1 or len(parts[0]) == 1:
        return {"": cells}
    return {f"{loss * 100:g} % of the segments lost": part for loss, part in zip(losses, parts, strict=True)}


def _panel(panel: Axes, cells: Sequence[Cell], names: Sequence[str]) -> None:
    width = 0.84 / len(names)
    colours = colours_of(names)
    for position, name in enumerate(names):
        offset = (position - (len(names) - 1) / 2) * width
        found = [(place, cell.ratio(name)) for place, cell in enumerate(cells) if name in cell.turns]
        ratios = [(place, ratio) for place, ratio in found if ratio is not None]
        panel.bar(
            [place + offset for place, _ in ratios], [ratio.median - 1 for _, ratio in ratios], width * 0.92,
            bottom=1, label=name, color=colours[name], zorder=2,
        )  # fmt: skip
        if name == TUNED:
            for place, ratio in ratios:
                _label(panel, place + offset, ratio.median)
    alike = len({cell.connection.loss for cell in cells}) == 1
    labels = [f"{cell.connection.rtt:g} ms" if alike else cell.connection.name for cell in cells]
    panel.set_xticks(range(len(cells)), labels)
    _scale(panel)


def _label(panel: Axes, place: float, value: float) -> None:
    panel.annotate(
        f"{value:.0f}" if value >= 10 else f"{value:.2g}", (place, max(value, 1.0)), (0, 2), ha="center",
        textcoords="offset points", fontsize=8.5, fontweight="bold", color=_TUNED,
    )  # fmt: skip


def _scale(panel: Axes) -> None:
    panel.set_yscale("log")
    panel.margins(y=0.15)
    panel.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.axhline(1.0, color=_BASE, linewidth=1.0, zorder=3, label=f"{BASE} = 1")
    panel.grid(axis="y", color="#e3e6ea", linewidth=0.6, zorder=0)
    panel.tick_params(axis="x", length=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_ylabel("× rsync daemon", fontsize=9)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each program: grey and blue for others, orange for ours, deeper with more streams."""
    peers = [name for name in names if not name.startswith(OURS)]
    streams = [f"{OURS}, {count} stream{'s' if count > 1 else ''}" for count in STREAMS]
    found = {TUNED: _TUNED, **dict(zip(streams, _STREAMS, strict=True))}
    return {**found, **dict(zip(peers, _PEERS, strict=False))}
