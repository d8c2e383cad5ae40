"""The wire drill: bits flip anywhere between us and an SSH server, from the first byte of a connection on.

SSH's checks end the connection, and the file is sent again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from dtsd.drills.launcher import Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, wait_until
from tests.services import SshServer
from tests.torture.proxy import Proxy

_MEAN = 500_000
_EARLY = 0.3
"""The share of connections that are hit while they are made."""
_FILES = 12


def run(folder: Path, flips: int, server: SshServer, *, seed: int, program: Sequence[str] = ()) -> Result:
    """Send files until so many bits were flipped."""
    begun = time.monotonic()
    failures: list[str] = []
    chance = random.Random(seed)
    with Proxy(server.port, seed) as proxy, Launcher(program) as launcher:
        folder.mkdir(parents=True, exist_ok=True)
        options = proxy.element(server, folder)
        settings = {"retry.attempts": "100"}
        site = DrillSite(folder / "site", "", settings, {"archive": options}, {"archive": server.root})
        launcher.agent(site.config)
        proxy.flip_every, proxy.flip_first = _MEAN, _EARLY
        for turn in range(100 + flips):
            if proxy.flips >= flips or failures:
                break
            site.submit(site.make([f"t{turn:03d}/f{one:03d}" for one in range(_FILES)], chance, (1, 400_000)))
            if not wait_until(lambda: site.open_files() == 0, 60, 0.05):
                failures.append(f"lost: {site.open_files()} files did not end: {site.log()[-1500:]}")
        done, early = proxy.flips, proxy.first_flips
        failures += site.check()
    name = "bits flipped on the wire (sftp)"
    return Result(name, "flips", done, tuple(failures), time.monotonic() - begun, {"of keys": early, "seed": seed})
