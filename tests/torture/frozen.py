"""The frozen-worker drill: a worker stops for longer than its lease, others do its work, and then it wakes up."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents import replica_manager, runner
from dtscore import linux
from dtsd.drills import processes
from dtsd.drills.launcher import Child, Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, Sent, wait_until
from storage import landing, pump
from storage.file import FileElement
from storage.sftp import SftpElement

SETTINGS = {
    "agents.lease": "2 s", "agents.heartbeat": "1 s", "agents.batch": "1", "agents.workers": "1",
    "agents.channel_limit": "1000", "agents.element_limit": "1000",
}  # fmt: skip

Target = tuple[Mapping[str, str], Path]

STAGES: dict[str, tuple[Any, str]] = {
    "claimed": (replica_manager.ReplicaManager, "transfer"),
    "copying": (pump.Pump, "copy"),
    "reading back": (landing.Landing, "_read_back"),
    "publishing": (landing.Landing, "publish"),
    "landed": (landing.Landing, "_landed"),
}
"""Where a worker is frozen: at its first call of this function."""

LAST_MOMENT: dict[str, tuple[Any, str]] = {
    "renaming": (FileElement, "publish"),
    "renaming there": (SftpElement, "publish"),
    "swapping": (FileElement, "swap"),
    "exchanging": (linux, "exchange"),
}
"""After the guard was asked and before the rename, on this host or by a server; or, where an older file is to be
replaced, before the look at it, and between that look and the exchange of the names."""


def freeze_at(config: str, stage: str) -> None:
    """Work as a transfer agent does, and stop at a stage until somebody sends SIGCONT.

    The heart begins to beat after that: frozen within a transaction, a process holds up everybody who writes to SQLite.
    """
    owner, name = {**STAGES, **LAST_MOMENT}[stage]
    honest: Callable[..., Any] = getattr(owner, name)

    def frozen(*args: Any, **named: Any) -> Any:
        setattr(owner, name, honest)
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # to this very thread: it stops before it returns
        for keeper in keepers:
            threading.Thread.start(keeper)
        return honest(*args, **named)

    keepers: list[runner.Keeper] = []
    runner.Keeper.start = lambda self: keepers.append(self)  # type: ignore[method-assign]
    setattr(owner, name, frozen)
    processes.once(config, "transfer")


def run(
    folder: Path, freezes: int, *, seed: int, url: str = "", target: Target | None = None,
    stages: Sequence[str] = tuple(STAGES), overwrite: bool | None = None, program: Sequence[str] = (),
) -> Result:  # fmt: skip
    """Freeze so many workers, ten at a time; `overwrite` says whether they may replace files (None: now and then).

    `target` gives options and root of an element other than a folder. Those who do the frozen ones' work are sound,
    whatever `program` the frozen ones run.
    """
    begun = time.monotonic()
    options, root = target or ({}, None)
    elements, roots = ({"archive": dict(options)}, {"archive": root}) if root else ({}, {})
    drill = _Drill(DrillSite(folder, url, dict(SETTINGS), elements, roots), seed, stages, overwrite)
    with Launcher(program) as launcher, Launcher() as sound:
        for first in range(0, freezes, 10):
            if not drill.failures:
                drill.round(launcher, sound, range(first, min(first + 10, freezes)))
    failures = [*drill.failures, *drill.site.check()]
    facts: dict[str, int | str] = {"seed": seed, "stages": ", ".join(stages), "stale results refused": drill.refused()}
    return Result("frozen worker", "wake-ups", freezes, tuple(failures), time.monotonic() - begun, facts)


class _Drill:
    def __init__(self, site: DrillSite, seed: int, stages: Sequence[str], overwrite: bool | None) -> None:
        self.site = site
        self.chance = random.Random(seed)
        self.stages = stages
        self.overwrite = overwrite
        self.failures: list[str] = []

    def round(self, launcher: Launcher, sound: Launcher, numbers: range) -> None:
        """Freeze workers on old bytes, let another agent finish, land newer bytes, and wake them all up."""
        sleepers = [self._freeze(launcher, number) for number in numbers]
        time.sleep(self.site.lease)
        healthy = sound.agent(self.site.config)
        self._wait("files of frozen workers")
        newer = [self._make(number, "new") for number in numbers]
        self.site.submit(newer, overwrite="yes")
        self._wait("newer files")
        healthy.kill()
        for sleeper in sleepers:
            sleeper.send(signal.SIGCONT)
        for sleeper in sleepers:
            if not sleeper.wait(20):
                self.failures.append(f"a worker that woke up did not end: {self.site.log()[-1000:]}")
                sleeper.kill()

    def _freeze(self, launcher: Launcher, number: int) -> Child:
        may = self.overwrite if self.overwrite is not None else number // len(self.stages) % 2 == 0
        self.site.submit([self._make(number, "old")], overwrite="yes" if may else "no")
        stage = self.stages[number % len(self.stages)]
        if stage in ("swapping", "exchanging"):
            self._make_oldest(number)
        log = self.site.folder / "agent.log"
        child = launcher.start("tests.torture.frozen:freeze_at", str(self.site.config), stage, log=log)
        if not child.wait_frozen(20):
            self.failures.append(f"no worker froze at {stage}: {self.site.log()[-1000:]}")
        return child

    def _make(self, number: int, age: str) -> Sent:
        name = f"f{number:04d}"
        content = f"{age} {number} ".encode() + self.chance.randbytes(50_000)
        return self.site.make_one(name, content, pfn=f"{age}/{name}")

    def _make_oldest(self, number: int) -> None:
        """Let there be something at the destination that is to be replaced."""
        path = self.site.roots["archive"] / "drill" / f"f{number:04d}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"oldest {number} ".encode() + self.chance.randbytes(50_000))

    def _wait(self, what: str) -> None:
        if not wait_until(lambda: self.site.open_files() == 0, 30, 0.05):
            self.failures.append(f"lost: {what} were not done within 30 s")

    def refused(self) -> int:
        """Return how many workers noticed that they had lost their lease."""
        return self.site.log().count("the results of a worker are dropped") + self.site.log().count("stale results")
