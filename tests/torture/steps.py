"""The step drill: SIGKILL, EIO or ENOSPC at each single system call with which one transfer changes anything.

strace is tied to the worker's thread alone, when it begins to work, so its counts begin there: `when=N` is the N-th
such call of this transfer, from the temporary file to the commit.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.place import Place
from dtsd.drills import processes
from dtsd.drills.launcher import Child, Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, wait_until
from tests.torture.healing import finish

CALLS = (
    "write", "pwrite64", "writev", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "unlink",
    "unlinkat", "mkdir", "mkdirat", "ftruncate", "fallocate", "sendto",
)  # fmt: skip
FAULTS = ("signal=SIGKILL", "error=EIO", "error=ENOSPC")
SETTINGS = {"agents.lease": "0.8 s", "agents.heartbeat": "0.2 s", "agents.batch": "1", "agents.workers": "1"}

_CALL = re.compile(r"^(\w+)\(", re.MULTILINE)
_DATA = 10_000
_LEFT_FOR_LATER = 4
"""Victims whose leases may run out while the next are struck."""


def steps_of(trace: str, stride: int = 1, seed: int = 0) -> list[tuple[str, int]]:
    """Return (call, number of the call) of all steps in a trace, or of each `stride`-th of the calls of one kind."""
    counts = Counter(_CALL.findall(trace))
    chosen = []
    for call, number in sorted(counts.items()):
        step = stride if number > stride else 1
        chosen += [(call, when) for when in range(seed % step + 1, number + 1, step)]
    return chosen


def data_writes(trace: str) -> list[tuple[str, int]]:
    """Return the steps in a trace that write the file's bytes: many at once, and not to a connection."""
    written = re.findall(r"^write\((\d+),.* = (\d+)$", trace, re.MULTILINE)
    return [("write", n) for n, (to, size) in enumerate(written, 1) if int(size) >= _DATA and int(to) > 2]


def tied(config: str, folder: str) -> None:
    """Work as a transfer agent does; its worker says which thread it is and waits until `folder`/gate is opened."""
    honest = Place.work

    def work(self: Place) -> None:
        Place.work = honest  # type: ignore[method-assign]
        (Path(folder) / "tid.part").write_text(str(threading.get_native_id()))
        (Path(folder) / "tid.part").rename(Path(folder) / "tid")
        with (Path(folder) / "gate").open("rb"):
            pass
        honest(self)

    Place.work = work  # type: ignore[method-assign]
    processes.once(config, "transfer")


class Steps:
    """One transfer after another, each on a site of its own and struck at another step."""

    def __init__(
        self, folder: Path, seed: int, *, elements: Mapping[str, Any] | None = None, program: Sequence[str] = ()
    ) -> None:
        """Prepare; `elements` gives (name, options, root of the files) for a target that is not `archive`."""
        self.folder = folder
        self.seed = seed
        self.elements = dict(elements or {})
        self.target = self.elements.get("name", "archive")
        self.failures: list[str] = []
        self.struck = 0
        self.tried = 0
        self._launcher = Launcher(program)
        self._healing: list[tuple[str, DrillSite]] = []
        self._template: Path | None = None

    def run(self, faults: Sequence[str] = FAULTS, *, stride: int = 1, data_only: bool = False) -> Result:
        """Strike each step (each `stride`-th of the many writes) with each fault; a clean agent finishes each time."""
        begun = time.monotonic()
        with self._launcher:
            trace = self.trace()
            chosen = data_writes(trace) if data_only else steps_of(trace, stride, self.seed)
            for fault in faults:
                for call, when in chosen:
                    self.strike(call, when, fault)
            while self._healing:
                self._heal(*self._healing.pop(0))
        facts = {"steps of one transfer": len(steps_of(trace)), "struck": self.struck, "seed": self.seed}
        name = f"SIGKILL, EIO, ENOSPC at each step ({self.target})"
        return Result(name, "strikes", self.tried, tuple(self.failures), time.monotonic() - begun, facts)

    def trace(self) -> str:
        """Return what the worker calls in one transfer that nobody disturbs."""
        site, child, trace = self._transfer("count", "")
        child.wait(30)
        self.failures += [f"undisturbed: {finding}" for finding in site.check()]
        return trace.read_text(errors="replace")

    def strike(self, call: str, when: int, fault: str) -> None:
        """Let one call fail or kill, look what that left, and let a clean agent finish."""
        self.tried += 1
        what = f"{fault} at {call} {when}"
        site, child, trace = self._transfer(f"{self.tried:04d}", f"inject={call}:{fault}:when={when}")
        if not child.wait(30):
            self.failures.append(f"{what}: the agent did not end")
            child.kill()
        text = trace.read_text(errors="replace")
        self.struck += int("INJECTED" in text or "killed by SIGKILL" in text)
        self.failures += [f"{what}: {finding}" for finding in site.check(ended=False)]
        self._healing.append((what, site))
        if len(self._healing) > _LEFT_FOR_LATER:
            self._heal(*self._healing.pop(0))

    def _heal(self, what: str, site: DrillSite) -> None:
        self.failures += [f"{what}: {finding}" for finding in finish(site, self._launcher)]
        if not self.failures:
            shutil.rmtree(site.folder)
            shutil.rmtree(site.roots[self.target], ignore_errors=True)

    def _site(self, name: str) -> DrillSite:
        folder = self.folder / name
        folder.mkdir()
        if self._template is not None:
            shutil.copyfile(self._template, folder / "dts.db")
        roots, elements = {}, {}
        if self.elements:
            roots = {self.target: Path(self.elements["root"]) / name}
            roots[self.target].mkdir(parents=True)
            elements = {self.target: {**self.elements["options"], "root": str(roots[self.target])}}
        site = DrillSite(folder, settings=dict(SETTINGS), roots=roots, elements=elements)
        if self._template is None:
            self._template = self.folder / "template.db"
            shutil.copyfile(folder / "dts.db", self._template)
        return site

    def _transfer(self, name: str, injection: str) -> tuple[DrillSite, Child, Path]:
        """Start one transfer with strace tied to its worker."""
        site = self._site(name)
        sent = site.make(["a/f.fits"], random.Random(self.seed), (300_000, 300_000))
        site.submit(sent, self.target)
        os.mkfifo(site.folder / "gate")
        log = site.folder / "agent.log"
        child = self._launcher.start("tests.torture.steps:tied", str(site.config), str(site.folder), log=log)
        if not wait_until((site.folder / "tid").exists, 20, 0.005):
            raise AssertionError(f"the worker did not begin: {site.log()}")
        trace = site.folder / "trace"
        tracer = _tie((site.folder / "tid").read_text(), trace, injection)
        with (site.folder / "gate").open("wb"):
            pass
        child.wait(30)
        tracer.wait(timeout=10)
        return site, child, trace


def _tie(thread: str, trace: Path, injection: str) -> subprocess.Popen[bytes]:
    """Tie strace to one thread and wait until it holds it."""
    command = ["strace", "-p", thread, "-o", str(trace), "-e", f"trace={','.join(CALLS)}"]
    command += ["-e", injection] if injection else []
    said = trace.with_name("strace")
    with said.open("wb") as stream:
        tracer = subprocess.Popen(command, stdout=stream, stderr=stream)
    if not wait_until(lambda: b"attached" in said.read_bytes(), 10, 0.002):
        raise AssertionError(f"strace did not attach: {said.read_text()}")
    return tracer
