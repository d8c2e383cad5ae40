"""What the rows on storage elements share: one transfer of ours, end to end, and a peer's command in its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.children import crew, ours, run, span
from benchmarks.sites import NewSite, Site, settle, total_size


class Load:
    """Files to move: a source folder, the names below it and their bytes."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Measure the files."""
        self.folder = folder
        self.names = list(names)
        self.size = total_size(folder, names)

    def check(self, folder: Path) -> None:
        """Raise RuntimeError unless all bytes have arrived below `folder`."""
        if total_size(folder, self.names) != self.size:
            raise RuntimeError(f"not all bytes arrived in {folder}")


def dts(
    bench: Bench, load: Load, set_up: Callable[[Site, Path], None], answers: list[dict[str, Any]] | None = None
) -> float:
    """Return the seconds from submitting to the end of the agent; `set_up` names the elements `source` and `target`."""
    with NewSite(bench) as site:
        target = site.folder / "landed"
        target.mkdir()
        set_up(site, target)
        listing = site.folder / "names"
        listing.write_text("\n".join(load.names))
        settle()
        found = crew([ours("transfer", str(site.path), "source", "target", str(listing))])
        load.check(target)
    if answers is not None:
        answers += found
    return span(found)


def peer(bench: Bench, load: Load, *commands: Callable[[Path], Sequence[str]], stdin: str | None = None) -> float:
    """Return the seconds that a peer's commands need to move the files into a new folder."""
    target = bench.new_folder("peer")
    try:
        settle()
        seconds = sum(run(command(target), input=stdin and stdin.format(target=target)) for command in commands)
        load.check(target)
    finally:
        shutil.rmtree(target)
    return seconds
