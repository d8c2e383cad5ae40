"""The power-cut drill: a disk loses everything that was not yet on it, and nothing acknowledged may be among that.

The disk is ext4 in an image file on a loop device, mounted in a mount namespace of this process alone. All writers are
stopped with SIGSTOP, an observer outside notes what is Done, FS_IOC_SHUTDOWN (without a flush of the journal) cuts the
power, and the disk is mounted again. Needs root.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dtsd.drills import apart
from dtsd.drills.launcher import Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, wait_until

_FS_IOC_SHUTDOWN = 0x8004587D
_NO_FLUSH_OF_THE_LOG = 2
_SIZES = (1, 200_000)
_FILES = 12
"""Files sent before each cut, or as many as are claimed together, if these are more."""
_BATCHES = (3, 40)
_CUTS_OF_A_DISK = 10
"""A disk takes so many cuts; then a new one is made, so that the check of all its files stays quick."""
_PROGRAMS = ("mkfs.ext4", "mount", "umount", "unshare")


def lacking() -> str:
    """Return what this host lacks for the drill, or nothing."""
    if os.geteuid() != 0:
        return "it needs root"
    missing = [name for name in _PROGRAMS if _program(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices"


def run(
    folder: Path, cuts: int, *, seed: int, batch: int = 0, database: str = "either", program: Sequence[str] = ()
) -> Result:
    """Cut the power so many times, in a process with a mount namespace of its own, below a folder that exists.

    `batch` files are claimed, and so far as they are small landed, together (0: 3 and 40, disk by disk in turn). The
    database lies on the `disk` that is cut, `elsewhere` (its commits take nothing else to the disk then), or on
    `either`, in turn.
    """
    found = apart.run("dtsd.drills.powercut", [str(folder), str(cuts), str(seed), str(batch), database, *program])
    return Result("power cut", "cuts", cuts, tuple(found["failures"]), found["seconds"], found["facts"])


def _program(name: str) -> str | None:
    return shutil.which(name, path=apart.path())


class Disk:
    """An ext4 disk in an image file, whose power can be cut."""

    def __init__(self, folder: Path, megabytes: int = 256) -> None:
        """Make the image and its file system, and mount it at `folder`/disk."""
        self.image = folder / "disk.img"
        self.mountpoint = folder / "disk"
        self.mountpoint.mkdir(exist_ok=True)
        self._why = ""
        with self.image.open("wb") as stream:
            stream.truncate(megabytes << 20)
        _command("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def mount(self) -> None:
        """Mount it, which replays its journal; its loop device goes when it is unmounted."""
        _command("mount", "-t", "ext4", "-o", "loop", str(self.image), str(self.mountpoint))

    def cut(self) -> None:
        """Cut the power: what is not on the disk by now never will be."""
        descriptor = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_FLUSH_OF_THE_LOG))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Unmount it; those who were killed a moment ago may hold it still."""
        if not wait_until(self._unmounted, 20, 0.02):
            raise RuntimeError(f"{self.mountpoint} cannot be unmounted: {self._why}")

    def _unmounted(self) -> bool:
        done = subprocess.run(["umount", str(self.mountpoint)], check=False, capture_output=True, text=True)
        self._why = done.stderr.strip()
        return done.returncode == 0

    def remove(self) -> None:
        """Take the disk away for good."""
        subprocess.run(["umount", "--lazy", str(self.mountpoint)], check=False, capture_output=True)
        self.image.unlink(missing_ok=True)


def _command(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class _Drill:
    """Cuts on disk after disk."""

    def __init__(self, folder: Path, seed: int, batch: int, database: str, program: Sequence[str]) -> None:
        self.folder = folder
        self.batch = batch
        self.count = _FILES
        self.database = database
        self.chance = random.Random(seed)
        self.program = program
        self.failures: list[str] = []
        self.disks = 0
        self.files = 0
        self.acknowledged = 0

    def run(self, cuts: int) -> None:
        for number, first in enumerate(range(0, cuts, _CUTS_OF_A_DISK)):
            folder = self.folder / f"disk{number:03d}"
            folder.mkdir()
            self.disks = number + 1
            disk = Disk(folder)
            try:
                with Launcher(self.program) as launcher:
                    self._one_disk(folder, disk, launcher, min(_CUTS_OF_A_DISK, cuts - first))
            finally:
                disk.remove()
            shutil.rmtree(folder, ignore_errors=True)
            if self.failures:
                return

    def _one_disk(self, folder: Path, disk: Disk, launcher: Launcher, cuts: int) -> None:
        """The target lies on the disk, and so may the database; the sources, the log and the manifest outside."""
        roots = {"archive": disk.mountpoint / "archive"}
        outside = self.database == "elsewhere" or (self.database == "either" and self.disks % 2 == 0)
        url = "" if outside else f"sqlite:///{disk.mountpoint / 'dts.db'}"
        batch = self.batch or _BATCHES[(self.disks - 1) // 2 % 2]
        self.count = max(_FILES, batch)
        site = DrillSite(folder / "site", url, {"agents.lease": "1 s", "agents.batch": str(batch)}, roots=roots)
        os.sync()
        for number in range(cuts):
            self._one_cut(site, disk, launcher, number)
            if self.failures:
                return
        agent = launcher.agent(site.config)
        if not wait_until(lambda: site.open_files() == 0, 30, 0.1):
            self.failures.append(f"lost: {site.open_files()} files were not done 30 s after the last cut")
        agent.kill()
        self.failures += site.check()

    def _one_cut(self, site: DrillSite, disk: Disk, launcher: Launcher, number: int) -> None:
        names = [f"{number % 5}/c{number:03d}-{one:02d}" for one in range(self.count)]
        before = len(site.acknowledged)
        agents = [launcher.agent(site.config) for _ in range(2)]
        site.submit(site.make(names, self.chance, _SIZES))
        self.files += self.count
        # The first cut of a disk takes something that was acknowledged a moment ago; the others come at any moment.
        done = site.acknowledge() + (self.chance.randrange(self.count // 2) if number else 1)
        wait_until(lambda: site.acknowledge() >= done, 5 if number else 30, 0.002)
        time.sleep(self.chance.uniform(0, 0.05) if number else 0)
        for agent in agents:
            if not agent.freeze():
                self.failures.append(f"an agent ended by itself: {site.log()[-500:]}")
        self.acknowledged += site.acknowledge() - before
        disk.cut()
        for agent in agents:
            agent.kill()
        disk.unmount()
        disk.mount()
        self.failures += [f"cut {number}: {finding}" for finding in site.check(ended=False)]


def main() -> None:
    """Run the drill in this process, which has a mount namespace of its own, and print what was found as JSON."""
    folder, cuts, seed, batch, database, *program = sys.argv[1:]
    apart.end_with_parent()
    begun = time.monotonic()
    drill = _Drill(Path(folder), int(seed), int(batch), database, program)
    drill.run(int(cuts))
    facts = {"files": drill.files, "acknowledged": drill.acknowledged, "disks": drill.disks, "seed": int(seed)}
    found = {"failures": drill.failures, "seconds": time.monotonic() - begun, "facts": facts}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
