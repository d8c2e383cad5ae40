"""The daemons drill: the daemon that sends and the one that receives die by SIGKILL, again and again, at work.

Both elements are of type dts, each on a daemon of its own: large files go from the one to the other by a third-party
copy that an agent watches, small ones through the agent.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from dtsd.drills.launcher import Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, Sent, wait_until
from tests.daemons import Daemon

_LARGE, _SMALL = (4_000_000, 16_000_000), (1, 900_000)
_SETTINGS = {"retry.attempts": "1000"}


def run(folder: Path, kills: int, *, seed: int, files: int = 0) -> Result:
    """Send files (by default two for each kill) while daemons are killed so many times."""
    begun, chance = time.monotonic(), random.Random(seed)
    drill = _Drill(folder, chance)
    try:
        with Launcher() as launcher:
            launcher.agent(drill.site.config)
            for number in range(kills):
                drill.send(number, files // kills if files else 2)
                drill.kill_one()
            recovery = drill.recover()
    finally:
        drill.sender.stop()
        drill.receiver.stop()
    failures = (*drill.failures, *drill.site.check())
    facts = {
        "files": drill.sent, "met a file in work": drill.hits, "a large one": drill.large_hits,
        "hidden files left": len(drill.receiver.left()), "recovery s": round(recovery, 1), "seed": seed,
    }  # fmt: skip
    return Result("SIGKILL of daemons", "kills", kills, failures, time.monotonic() - begun, facts)


class _Drill:
    """Two daemons, and a site whose elements they are."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.failures: list[str] = []
        self.sent = self.hits = self.large_hits = 0
        self._known: set[str] = set()
        self.receiver = Daemon(folder / "receiver", name="receiver")
        self.sender = Daemon(folder / "sender", name="sender", remotes={"receiver": self.receiver.as_remote()})
        elements = {
            "local": {"type": "dts", "remote": "sender", **self.sender.as_remote(), "patience": "1 s"},
            "archive": {"type": "dts", "remote": "receiver", **self.receiver.as_remote(), "patience": "1 s",
                        "rate": "12 MB"},
        }  # fmt: skip
        roots = {"local": self.sender.root, "archive": self.receiver.root}
        self.site = DrillSite(folder / "site", "", dict(_SETTINGS), elements, roots)
        self.receiver.start()
        self.sender.start()

    def send(self, number: int, files: int) -> None:
        """Make some files, every other one large, and ask for their transfer."""
        made: list[Sent] = []
        for one in range(files):
            sizes = _LARGE if one % 2 == 0 else _SMALL
            made += self.site.make([f"{number % 7}/f{number:05d}-{one}"], self.chance, sizes)
        self.site.submit(made)
        self.sent += files

    def kill_one(self) -> None:
        """Kill one of the daemons at a random moment, mostly while a file is in work, and start it again."""
        wait_until(lambda: self._running() > 0, 3.0, 0.002)
        time.sleep(self.chance.uniform(0, 1.0))
        self.hits += int(self._running() > 0)
        victim = self.chance.choice((self.sender, self.receiver))
        journals = {name for name in self.receiver.left() if name.endswith(".journal")}
        self.large_hits += int(bool(journals - self._known))
        self._known |= journals
        victim.kill()
        victim.start()

    def _running(self) -> int:
        return int(self.site.rows("SELECT count(*) FROM files WHERE state = 'Running'")[0][0])

    def recover(self) -> float:
        """Wait until all is done; return how long that took (s)."""
        begun = time.monotonic()
        if not wait_until(lambda: self.site.open_files() == 0, 120.0):
            self.failures.append(f"{self.site.open_files()} files were not done within 120 s after the last kill")
        return time.monotonic() - begun
