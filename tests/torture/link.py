"""The link drill: all streams of one transfer are cut at once, again and again, and what arrived never goes twice."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

from dtscore.errors import DtsError
from dtsd.drills.report import Result
from dtsnet.sender import Sender, SendOptions
from tests.dtsnet.sites import Cutter, Site, outgoing

STREAMS = 4
_BLOCK = 1 << 20


def run(folder: Path, size: int, cuts: int, *, seed: int) -> Result:
    """Send one file of `size` bytes while the link is cut so often; the whole file must land, and little go twice."""
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    source, digest = folder / "source", _make(folder / "source", size, seed)
    site = Site(folder / "there")
    cutter = Cutter(site, link_cuts=cuts, link_after=size // (2 * cuts))
    sender = Sender(
        cutter.connect, [outgoing(source, "a")], SendOptions(streams=STREAMS, idle=5.0, pause=0.01, reconnects=1000)
    )
    failures: list[str] = []
    try:
        (sent,) = sender.run()
        failures += [sent.message] if sent.error_class else _compare(folder / "there/a", digest)
    except DtsError as error:
        failures.append(str(error))
    cutter.close()
    site.close()
    again, most = sender.bytes_sent - size, cuts * STREAMS * sender.chunk
    if again > most:
        failures.append(f"{again:,} bytes went twice; one piece for each stream and cut are {most:,}")
    if cutter.link_cuts:
        failures.append(f"the transfer ended before {cutter.link_cuts} of the cuts")
    facts = {"MiB": size >> 20, "streams": STREAMS, "bytes sent again": again, "pieces": most, "seed": seed}
    return Result("cuts of the link (streams)", "cuts", cuts, tuple(failures), time.monotonic() - begun, facts)


def _make(path: Path, size: int, seed: int) -> str:
    chance, digest = random.Random(seed), hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(0, size, _BLOCK):
            block = chance.randbytes(_BLOCK)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _compare(path: Path, digest: str) -> list[str]:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return [] if found == digest else ["what landed is not what was sent"]
