"""`dts torture`: the drills that an operator runs on a disk before data is trusted to it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import click

from dtscore.config import CONFIG_VARIABLE, ElementSettings, find, load
from dtscore.errors import ConfigurationError, NotFoundError, StateError
from dtsd.drills import flip, kill, powercut
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite

_NO_DATA = frozenset({"lost+found"})
"""What a newly made file system holds; a folder with nothing else is empty."""

FILES_OF_A_KILL = 10
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each drill strikes."""

    kills: int
    flips: int
    cuts: int


def elements_here(config_path: Path | None) -> tuple[ElementSettings, ...]:
    """Return the storage elements of the site that a command would use; a host without any site has none."""
    try:
        path = find(config_path)
    except ConfigurationError:
        if config_path is not None or os.environ.get(CONFIG_VARIABLE):
            raise
        return ()
    return tuple(load(path).elements.values())


def check_folder(folder: Path, elements: Sequence[ElementSettings]) -> Path:
    """Return the folder's real path, or refuse where data lies: not empty, in a site, or below a storage element.

    Raises NotFoundError and StateError.
    """
    real = Path(os.path.realpath(folder.expanduser()))
    if not real.is_dir():
        raise NotFoundError(f"{folder} is not a folder", "name an empty folder, or the mount point of a new disk")
    for above in (real, *real.parents):
        if (above / "etc" / "dts.ini").exists():
            raise StateError(f"{folder} lies in the site {above}", "torture is for disks without data: name another")
    for element in elements:
        root = os.path.realpath(element.options.get("root", "")) if element.type == "file" else ""
        if root and (real.is_relative_to(root) or Path(root).is_relative_to(real)):
            what = f"{folder} holds data: the storage element {element.name!r} has its root at {root}"
            raise StateError(what, "torture is for disks without data: name another folder")
    foreign = sorted(entry.name for entry in real.iterdir() if entry.name not in _NO_DATA)
    if foreign:
        raise StateError(f"{folder} is not empty (it holds {foreign[0]})", "name an empty folder, or make one")
    return real


def torture(folder: Path, counts: Counts, seed: int | None = None) -> Iterator[Result]:
    """Run the drills one by one in a new sub-folder, which is removed again if all went well.

    `folder` is one that `check_folder` returned. The result of each drill is given when it ends.
    """
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    place = folder / f"dts-torture-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    place.mkdir()
    failed = False
    for result in _drills(place, counts, seed):
        failed = failed or bool(result.failures)
        yield result
    if not failed:
        shutil.rmtree(place)


def show(result: Result) -> None:
    """Print the report of one drill."""
    facts = ", ".join(f"{name}: {value}" for name, value in result.facts.items())
    click.echo(f"{result.drill}: {result.proves} [{result.seconds:.0f} s; {facts}]")
    for failure in result.failures[:_SHOWN]:
        click.echo(f"  {failure}")
    if len(result.failures) > _SHOWN:
        click.echo(f"  … and {len(result.failures) - _SHOWN} more")


def _drills(place: Path, counts: Counts, seed: int) -> Iterator[Result]:
    if counts.kills:
        yield kill.run(DrillSite(place / "kill"), counts.kills * FILES_OF_A_KILL, counts.kills, seed=seed)
    if counts.flips:
        yield flip.run(DrillSite(place / "flip"), counts.flips, seed=seed)
    if counts.cuts:
        why = powercut.lacking()
        if why:
            yield Result("power cut", "cuts", 0, (), 0.0, {"not run": why})
        else:
            (place / "cut").mkdir()
            yield powercut.run(place / "cut", counts.cuts, seed=seed)
