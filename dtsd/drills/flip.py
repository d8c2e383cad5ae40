"""The bit-flip drill: a bit turns over on the way, at the source, or where a file has landed; each must be noticed."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from pathlib import Path

from dtsd.drills.launcher import Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, Sent, wait_until
from reqdb.spec import FileSpec, OperationSpec

_SIZES = (1, 300_000)
_SECONDS = 60.0
_TURNS = 50


def run(site: DrillSite, flips: int, *, seed: int, program: Sequence[str] = ()) -> Result:
    """Flip so many bits at each of the three places, in a file each, and see that all are detected."""
    begun = time.monotonic()
    drill = _Flips(site, flips, seed)
    with Launcher(program) as launcher:
        call = "dtsd.drills.processes:flipping"
        launcher.start(call, str(site.config), str(seed), "transfer", "verify", log=site.folder / "agent.log")
        for part in (drill.at_the_source, drill.on_the_way, drill.on_the_target):
            part()
    failures = [*drill.failures, *site.check()]
    facts = {"on the way": drill.on_way, "at the source": flips, "on the target": flips, "seed": seed}
    tried = drill.on_way + 2 * flips
    return Result("flipped bits", "flips", tried, tuple(failures), time.monotonic() - begun, facts)


class _Flips:
    """The three parts of the drill."""

    def __init__(self, site: DrillSite, flips: int, seed: int) -> None:
        self.site = site
        self.flips = flips
        self.chance = random.Random(seed)
        self.failures: list[str] = []
        self.on_way = 0

    def at_the_source(self) -> None:
        """A file rots after its checksum was declared: it must be refused and never be seen at the target."""
        sent = self._make("source")
        for one in sent:
            flip_a_bit(self.site.roots["local"] / one.pfn, self.chance)
        self.site.submit(sent, refused=True)
        for one in sent:
            rotten = (self.site.roots["local"] / one.pfn).read_bytes()
            self.site.expected[one.lfn, "archive"]["source_sha256"] = hashlib.sha256(rotten).hexdigest()
        self._wait("files that rotted at their source")

    def on_the_way(self) -> None:
        """The agent's process flips bits in every third write, after hashing: the attempts must fail, then succeed."""
        before = self._flipped()
        for turn in range(_TURNS):
            if self.on_way >= self.flips or self.failures:
                break
            self.site.submit(self._make(f"way{turn}"))
            self._wait("files with flips on their way")
            self.on_way = self._flipped() - before
        noticed = self.site.rows("SELECT count(*) FROM attempts WHERE error_class = 'corrupted'")[0][0]
        if noticed != self.on_way:
            self.failures.append(f"unnoticed: {self.on_way} bits were flipped on the way, {noticed} attempts saw one")

    def _flipped(self) -> int:
        return len((self.site.folder / "flips").read_text().splitlines())

    def on_the_target(self) -> None:
        """A landed file rots: a verify operation must mark its replica Bad, and no other."""
        sent = self._make("target")
        self.site.submit(sent, target="vault")
        self._wait("files to be damaged later")
        for one in sent:
            flip_a_bit(self.site.roots["vault"] / one.lfn.lstrip("/"), self.chance)
            self.site.expected[one.lfn, "vault"]["damaged"] = True
        self.site.request(OperationSpec("verify", tuple(FileSpec(one.lfn) for one in sent), None, ("vault",)))
        self._wait("files to verify")
        bad = self.site.rows("SELECT count(*) FROM catalog_replicas WHERE state = 'Bad'")[0][0]
        if bad != len(sent):
            self.failures.append(f"unnoticed: {len(sent)} landed files were damaged, {bad} replicas are Bad")

    def _make(self, name: str) -> list[Sent]:
        return self.site.make([f"{name}/f{one:05d}" for one in range(self.flips)], self.chance, _SIZES)

    def _wait(self, what: str) -> None:
        if not wait_until(lambda: self.site.open_files() == 0, _SECONDS + self.flips / 10, 0.1):
            self.failures.append(f"lost: {what} have not ended")


def flip_a_bit(path: Path, chance: random.Random) -> None:
    """Turn over one random bit of a file, in place."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    with path.open("r+b") as stream:
        stream.write(content)
