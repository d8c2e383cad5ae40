"""The clock drill: the wall clock of two agents steps while they work.

Their next tick comes within two poll intervals all the same, and nobody's lease ends by it.
"""

from __future__ import annotations

import random
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dtsd.drills.launcher import Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, wait_until

STEPS: Mapping[str, int] = {"-1 h": -3600, "+2 h": 7200, "+10 years": 315_576_000}
POLL = 1.0
_FILES = 400
_SETTLED = 3.0
"""Seconds after which an agent ends the leases of others; before that no step could harm them."""
_LOOKED = 2.2
"""Seconds in which each agent has looked for leases that are over."""
_WORK = 1.0
"""Seconds that the transfer itself may take on a busy machine."""


def build_shim(folder: Path) -> Path:
    """Compile the library that shifts the clock."""
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-Wall", "-o", str(library), str(source)], check=True)
    return library


def run(folder: Path, *, steps: Sequence[str] = tuple(STEPS), program: Sequence[str] = ()) -> Result:
    """Step the clock of fresh agents by each of the steps."""
    begun = time.monotonic()
    failures: list[str] = []
    facts: dict[str, float] = {}
    library = build_shim(folder)
    for number, step in enumerate(steps):
        clock = folder / f"clock{number}"
        clock.write_bytes(struct.pack("q", 0))
        environment = {"LD_PRELOAD": str(library), "DRILL_CLOCK": str(clock)}
        with Launcher(program, environment=environment) as launcher:
            settings = {"agents.poll_interval": f"{POLL} s", "agents.lease": "20 s"}
            site = DrillSite(folder / f"site{number}", settings=settings)
            facts[step] = round(_step(site, launcher, clock, step, failures), 2)
    return Result("clock steps", "steps", len(steps), tuple(failures), time.monotonic() - begun, facts)


def _step(site: DrillSite, launcher: Launcher, clock: Path, step: str, failures: list[str]) -> float:
    """Step the clock amid work, submit more without a poke, and return the seconds until that was done."""
    chance = random.Random(1)
    for _ in range(2):
        launcher.agent(site.config)
    time.sleep(_SETTLED)
    site.submit(site.make([f"before/{number:03d}" for number in range(_FILES)], chance, (1000, 2000)))
    wait_until(lambda: site.acknowledge() > 0, 20)
    with clock.open("r+b") as stream:
        stream.write(struct.pack("q", STEPS[step]))
    if not wait_until(lambda: site.open_files() == 0, 30):
        failures.append(f"{step}: lost: the work that the step met was not done 30 s later")
    time.sleep(_LOOKED)
    site.submit(site.make(["after"], chance, (1000, 2000)), poked=False)
    begun = time.monotonic()
    if not wait_until(lambda: site.open_files() == 0, 2 * POLL + _WORK):
        failures.append(f"{step}: no tick within two poll intervals")
    seconds = time.monotonic() - begun
    lost = site.rows("SELECT count(*) FROM agents WHERE state = 'Lost'")[0][0]
    if lost:
        failures.append(f"{step}: {lost} leases ended by it")
    failures += [f"{step}: {finding}" for finding in site.check()]
    if "transfer" not in site.log():
        failures.append(f"{step}: the agent has no log")
    return seconds
