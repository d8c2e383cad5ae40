"""The moments drill: SIGKILL not at random but at each moment that matters: what is broken there is met for sure.

The agent kills itself at the N-th call of a function in the middle of one transfer; what it left is judged, and a clean
agent finishes.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents import place
from dtsd.drills import processes
from dtsd.drills.launcher import Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite
from storage import landing
from storage.file import FileElement, FileWriter
from tests.torture.healing import finish

_SIZE = 3_000_000
"""Bytes of the file: it is written in more than one piece."""

SETTINGS = {"agents.lease": "0.8 s", "agents.heartbeat": "0.2 s", "agents.batch": "1", "agents.workers": "1"}

MOMENTS: Mapping[str, tuple[Any, str, int]] = {
    "half written": (FileWriter, "write", 2),
    "not synced": (FileWriter, "sync", 1),
    "not read back": (landing.Landing, "_read_back", 1),
    "not renamed": (FileElement, "publish", 1),
    "renamed": (landing.Landing, "_landed", 1),
    "not committed": (place, "write", 1),
}
"""In front of which call of which function the agent dies."""


def die_at(config: str, moment: str) -> None:
    """Work as a transfer agent does, and die at a moment."""
    owner, name, number = MOMENTS[moment]
    honest: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*args, **named)

    FileWriter.clone = lambda *_: False  # type: ignore[method-assign]
    setattr(owner, name, deadly)
    processes.once(config, "transfer")


def run(folder: Path, *, seed: int, moments: Sequence[str] = tuple(MOMENTS), program: Sequence[str] = ()) -> Result:
    """Let an agent die once at each moment, and a clean one finish what is left."""
    begun = time.monotonic()
    failures: list[str] = []
    chance = random.Random(seed)
    with Launcher(program) as launcher:
        sites = [_die(folder / f"m{n}", launcher, moment, chance, failures) for n, moment in enumerate(moments)]
        for moment, site in zip(moments, sites, strict=True):
            failures += [f"{moment}: {finding}" for finding in finish(site, launcher)]
    facts: dict[str, int | str] = {"moments": ", ".join(moments), "seed": seed}
    return Result("SIGKILL at a moment", "kills", len(moments), tuple(failures), time.monotonic() - begun, facts)


def _die(folder: Path, launcher: Launcher, moment: str, chance: random.Random, failures: list[str]) -> DrillSite:
    site = DrillSite(folder, settings=dict(SETTINGS))
    site.submit([site.make_one("a/f.fits", chance.randbytes(_SIZE))])
    log = site.folder / "agent.log"
    dying = launcher.start("tests.torture.moments:die_at", str(site.config), moment, log=log)
    if not dying.wait(30) or site.open_files() == 0:
        failures.append(f"{moment}: the agent did not die there: {site.log()[-1000:]}")
    failures += [f"{moment}: {finding}" for finding in site.check(ended=False)]
    return site
