"""The camera drill: builder nodes and their agents die by SIGKILL while a camera of two PANs takes exposures.

Two builder nodes on this host, each with an `exposure` and a `build` agent, six processes in all. The PANs live in this
process: they keep their pixels until SAVED, drop connections and send damaged blocks now and then.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dtscore import logging
from dtscore.config import load
from dtsd.drills.launcher import Child, Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, wait_until
from imagebuilder.camera import find_camera
from imagebuilder.pan.faults import Faults, FaultyClient
from imagebuilder.pan.simulate import Play, Played, Simulator
from imagebuilder.serving import run_node
from tests.torture.exposurecheck import Exposures

SETTINGS: Mapping[str, str] = {
    "agents.lease": "2 s", "imagebuilder.node": "yes", "imagebuilder.host": "127.0.0.1",
    "imagebuilder.target": "archive",
    "imagebuilder.cache": "3 MiB", "imagebuilder.page": "256 KiB", "imagebuilder.block": "16 KiB",
    "imagebuilder.idle": "5 s", "imagebuilder.heartbeat": "0.1 s", "imagebuilder.stale": "1.5 s",
    "imagebuilder.partial_after": "300 s", "imagebuilder.settle": "0", "imagebuilder.previews": "",
}  # fmt: skip
FAULTS = Faults(drop=0.005, corrupt=0.01)
_NODES = ("node1", "node2")
_ROLES = ("collector", "builder", "agent")
_BETWEEN = (0.05, 0.55)
_AWAY = (1.6, 4.0)
"""Seconds for which some dead collectors stay away: beyond `stale`, so that the other node takes their exposures."""

_AWAY_SHARE = 0.3


def node(config: str) -> None:
    """Run a builder node; called in a process of its own."""
    settings = load(Path(config))
    logging.set_up("info", "console", None)
    run_node(settings)


@dataclass
class _Drill:
    """The six processes, and what is known of the exposures."""

    folder: Path
    kills: int
    chance: random.Random
    launcher: Launcher
    wait: float
    failures: list[str] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_ROLES, 0))
    in_work: int = 0
    away: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.site = DrillSite(self.folder, settings=dict(SETTINGS))
        self.secret = self.folder / "etc" / "pan.secret"
        self.secret.touch(mode=0o600)
        self.secret.write_text(f"{self.chance.getrandbits(128):032x}\n")
        self.ports = _free_ports(len(_NODES))
        self.caches = [
            Path("/dev/shm") / f"dts-drill-{os.getpid()}-{self.chance.getrandbits(32):08x}-{n}" for n in _NODES
        ]
        self.known = Exposures(self.folder / "dts.db", self.site.roots["archive"], self.folder / "manifest.jsonl")
        self.children = {(n, role): self._start(n, role) for n in range(len(_NODES)) for role in _ROLES}

    def _start(self, number: int, role: str) -> Child:
        environment = {
            "DTS_SITE_NODE": _NODES[number], "DTS_IMAGEBUILDER_PORT": str(self.ports[number]),
            "DTS_IMAGEBUILDER_CACHE_FOLDER": str(self.caches[number]),
        }  # fmt: skip
        config, log = str(self.site.config), self.folder / "agent.log"
        if role == "collector":
            return self.launcher.start("tests.torture.exposures:node", config, log=log, environment=environment)
        kind = "build" if role == "builder" else "exposure"
        return self.launcher.start("dtsd.drills.processes:agent", config, kind, log=log, environment=environment)

    def connect(self, pan: str, spool: Path | None) -> FaultyClient:
        """Return the client of a PAN."""
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        return FaultyClient(addresses, "duo", pan, self.secret, spool=spool, timeout=10)

    def tell(self, played: Played) -> None:
        """Look at once at what a PAN was told."""
        if played.saved:
            self.failures += self.known.at_once(played.exposure, played.files)
        else:
            self.failures.append(f"lost: exposure {played.exposure} is not saved: {played.error}")

    def strike(self) -> None:
        """Kill one of the processes at a random moment, and start another in its place."""
        number, role = self.chance.choice(list(self.children))
        open_ones = "SELECT count(*) FROM exposures WHERE state IN ('Receiving', 'Complete')"
        self.in_work += int(self.site.rows(open_ones)[0][0] > 0)
        self.children.pop((number, role)).kill()
        self.killed[role] += 1
        if role == "collector" and self.chance.random() < _AWAY_SHARE:
            self.away.append((time.monotonic() + self.chance.uniform(*_AWAY), number))
        else:
            self.children[number, role] = self._start(number, role)

    def revive(self, until: float) -> None:
        """Start those again that stayed away long enough."""
        for due, number in [one for one in self.away if one[0] <= until]:
            self.away.remove((due, number))
            self.children[number, "collector"] = self._start(number, "collector")

    def run(self, exposures: int, seed: int) -> None:
        """Play the camera while processes die, then let everything come to rest."""
        cadence = self.kills * sum(_BETWEEN) / 2 / exposures
        play = Play(
            exposures, cadence, seed=seed, faults=FAULTS, block_rows=82, in_hand=4, wait=self.wait,
            manifest=self.known.manifest,
        )  # fmt: skip
        simulator = Simulator(find_camera("duo"), play, self.connect, self.tell)
        thread = threading.Thread(target=self._play, args=(simulator,), daemon=True)
        thread.start()
        for _ in range(self.kills):
            time.sleep(self.chance.uniform(*_BETWEEN))
            self.revive(time.monotonic())
            self.strike()
        self.revive(float("inf"))
        thread.join(self.wait + 60)
        if thread.is_alive():
            self.failures.append("lost: the camera did not come to an end")
        self._rest(exposures)

    def _play(self, simulator: Simulator) -> None:
        try:
            simulator.run()
        except Exception as error:  # the drill tells it
            self.failures.append(f"lost: the camera broke off: {type(error).__name__}: {error}")

    def _rest(self, exposures: int) -> None:
        """Wait until no request is open and all pages are free."""
        wait_until(lambda: self.site.open_files() == 0, 30, 0.1)
        if self.failures:
            return
        if not wait_until(lambda: not self._pages(), 30, 0.1):
            self.failures.append(f"miscounted: pages are not freed: {self._pages()[:4]}")
        if len(self.known.told) != exposures:
            self.failures.append(f"lost: PANs heard SAVED of {len(self.known.told)} of {exposures} exposures")

    def _pages(self) -> list[str]:
        return [path.name for cache in self.caches for path in cache.glob("*.page")]


def run(
    folder: Path, exposures: int, kills: int, *, seed: int, program: Sequence[str] = (), wait: float = 180.0
) -> Result:
    """Take so many exposures while collectors, builders and agents die so many times; all are saved `wait` s later."""
    begun = time.monotonic()
    with Launcher(program) as launcher:
        drill = _Drill(folder, kills, random.Random(seed), launcher, wait)
        try:
            drill.run(exposures, seed)
        finally:
            for child in drill.children.values():
                child.kill()
            for cache in drill.caches:
                shutil.rmtree(cache, ignore_errors=True)
    failures = [*drill.failures, *drill.known.check()]
    moved = drill.site.rows("SELECT count(*) FROM exposures WHERE assignment > 1")[0][0]
    facts = {
        "exposures": exposures,
        "moved to the other node": moved,
        "while one was in work": drill.in_work,
        **drill.killed,
        "seed": seed,
    }
    return Result("SIGKILL (camera)", "kills", kills, tuple(failures), time.monotonic() - begun, facts)


def _free_ports(count: int) -> list[int]:
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


def frames(count: int) -> Result:
    """Fuzz the parser of frames with so many of them."""
    from tests.imagebuilder.frames import fuzz

    begun = time.monotonic()
    failures: tuple[str, ...] = ()
    facts: dict[str, float | int | str] = {}
    tried = 0
    try:
        tally = fuzz(count)
        tried = tally.frames
        facts = {"taken": tally.taken, "refused": tally.refused, "slowest s": round(tally.slowest, 3)}
    except AssertionError as error:
        failures = (f"{type(error).__name__}: {error}",)
    return Result("hostile frames", "frames", tried, failures, time.monotonic() - begun, facts)
