"""The kill drill: agents die by SIGKILL at random moments, again and again, and not one file may suffer."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dtsd.drills.launcher import Child, Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, wait_until

_SIZES = (1, 400_000)
_SLACK = 10.0
"""Seconds beyond the lease within which everything must be done again after the last kill."""


@dataclass
class _Tally:
    kills: int = 0
    hits: int = 0
    """Kills that met a file in work."""
    failures: list[str] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)


def run(
    site: DrillSite, files: int, kills: int, *, seed: int, target: str = "archive", program: Sequence[str] = ()
) -> Result:
    """Send so many files to a target while agents are killed so many times; two agents work."""
    begun = time.monotonic()
    chance = random.Random(seed)
    tally = _Tally()
    with Launcher(program) as launcher:
        agents = [launcher.agent(site.config) for _ in range(2)]
        wait_until(lambda: _entered(site) >= 2, 30)
        for number in range(kills):
            first, last = files * number // kills, files * (number + 1) // kills
            names = [f"{number % 7}/f{one:06d}" for one in range(first, last)]
            site.submit(site.make(names, chance, _SIZES), target)
            _kill_one(site, launcher, agents, chance, tally)
        recovery = _recover(site, tally)
    tally.failures += site.check()
    facts = {"files": files, "met a file in work": tally.hits, "recovery s": round(recovery, 1), "seed": seed}
    return Result(f"SIGKILL ({target})", "kills", kills, tuple(tally.failures), time.monotonic() - begun, facts)


def _entered(site: DrillSite) -> int:
    return int(site.rows("SELECT count(*) FROM agents WHERE state = 'Running'")[0][0])


def _kill_one(site: DrillSite, launcher: Launcher, agents: list[Child], chance: random.Random, tally: _Tally) -> None:
    """Kill one of the agents at a random moment, mostly while it works, and start another in its place."""
    wait_until(lambda: _running(site) > 0, 3.0, 0.001)
    time.sleep(chance.uniform(0, 0.08))
    tally.hits += int(_running(site) > 0)
    victim = chance.randrange(len(agents))
    agents[victim].kill()
    tally.dead.append(agents[victim].pid)
    tally.kills += 1
    agents[victim] = launcher.agent(site.config)


def _running(site: DrillSite) -> int:
    return int(site.rows("SELECT count(*) FROM files WHERE state = 'Running'")[0][0])


def _recover(site: DrillSite, tally: _Tally) -> float:
    """Wait until nothing is held by the dead any more, and then for the rest; return the seconds of the first."""
    begun = time.monotonic()
    allowed = site.lease + _SLACK
    if not wait_until(lambda: _held_by_the_dead(site, tally) == 0, allowed, 0.1):
        tally.failures.append(f"lost: files were still held by a dead agent {allowed:.0f} s after the last kill")
    seconds = time.monotonic() - begun
    left = site.open_files()
    while left and not tally.failures:
        before = left
        wait_until(lambda: site.open_files() == 0, allowed, 0.1)
        left = site.open_files()
        if left == before:
            tally.failures.append(f"lost: {left} files are not done, and none was in {allowed:.0f} s")
    return seconds


def _held_by_the_dead(site: DrillSite, tally: _Tally) -> int:
    numbers = ", ".join(str(pid) for pid in tally.dead)
    held = "SELECT count(*) FROM files f JOIN claims c ON c.id = f.token JOIN agents a ON a.id = c.agent_id"
    return int(site.rows(f"{held} WHERE a.pid IN ({numbers})")[0][0]) if tally.dead else 0
