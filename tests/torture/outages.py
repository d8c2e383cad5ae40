"""The outage drill: a target fills up, turns read-only, vanishes, is cut off, goes silent or crawls, and is cured.

What must hold: the work resumes by itself within 60 s of the cure, no request is lost, and other channels are not held
back meanwhile. Tries and pauses are those of a site that configured nothing. Needs root: disks are mounted, and packets
dropped, in namespaces of this process alone:
`python -m tests.torture.outages KIND FOLDER SECONDS SEED [PROGRAM]`.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dtsd.drills import apart
from dtsd.drills.launcher import Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, wait_until
from tests import services
from tests.torture.proxy import Proxy

_FILES = 20
_CURED = 60.0
_OTHERS = 15.0
SETTINGS = {
    "retry.base": "5 s", "retry.longest": "1 h", "retry.outage_longest": "30 s", "retry.attempts": "5",
    "agents.poll_interval": "1 s",
}  # fmt: skip

Outage = tuple[DrillSite, Callable[[], object], Callable[[], object]]


@contextmanager
def _mounted(folder: Path, size: str) -> Iterator[Path]:
    place = folder / "small"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _on_disk(folder: Path, place: Path) -> DrillSite:
    return DrillSite(folder / "site", settings=dict(SETTINGS), roots={"archive": place})


@contextmanager
def _full(folder: Path) -> Iterator[Outage]:
    with _mounted(folder, "4m") as place:
        ballast = place.parent / "small" / ".ballast.drill.part"
        yield _on_disk(folder, place), lambda: ballast.write_bytes(bytes(3_500_000)), ballast.unlink


@contextmanager
def _read_only(folder: Path) -> Iterator[Outage]:
    with _mounted(folder, "64m") as place:

        def remount(how: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)

        yield _on_disk(folder, place), lambda: remount("ro"), lambda: remount("rw")


def _remote(folder: Path, server: services.SshServer, proxy: Proxy) -> DrillSite:
    options = proxy.element(server, folder)
    return DrillSite(folder / "site", "", dict(SETTINGS), {"archive": options}, {"archive": server.root})


@contextmanager
def _server(folder: Path) -> Iterator[tuple[services.SshServer, Proxy]]:
    server = services.start_sshd()
    try:
        with Proxy(server.port) as proxy:
            yield server, proxy
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@contextmanager
def _vanished(folder: Path) -> Iterator[Outage]:
    with _server(folder) as (server, proxy):
        yield _remote(folder, server, proxy), server.stop, server.start


@contextmanager
def _silent(folder: Path) -> Iterator[Outage]:
    with _server(folder) as (server, proxy):
        yield (
            _remote(folder, server, proxy),
            lambda: setattr(proxy, "mode", "silent"),
            lambda: setattr(proxy, "mode", "pass"),
        )


@contextmanager
def _slow(folder: Path) -> Iterator[Outage]:
    with _server(folder) as (server, proxy):
        yield (
            _remote(folder, server, proxy),
            lambda: setattr(proxy, "mode", "slow"),
            lambda: setattr(proxy, "mode", "pass"),
        )


@contextmanager
def _cut(folder: Path) -> Iterator[Outage]:
    """The link is cut in the kernel: every packet to and from the server is dropped, and no end is told of it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server = services.start_sshd()
    options = {
        "type": "sftp", "host": server.host, "port": str(server.port), "user": server.user, "root": str(server.root),
        "key_file": str(server.key), "known_hosts": str(server.known_hosts), "idle_timeout": "3",
        "connect_timeout": "3",
    }  # fmt: skip
    rules = "add table inet drill\nadd chain inet drill cut { type filter hook input priority 0; }\n"
    rules += "".join(f"add rule inet drill cut tcp {end} {server.port} drop\n" for end in ("dport", "sport"))
    try:
        site = DrillSite(folder / "site", "", dict(SETTINGS), {"archive": options}, {"archive": server.root})
        yield site, lambda: _packets(rules), lambda: _packets("delete table inet drill\n")
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def _packets(rules: str) -> None:
    """Change the rules for packets of this process's own network."""
    subprocess.run([services.find_program("nft"), "-f", "-"], input=rules, check=True, text=True)


KINDS: Mapping[str, Callable[[Path], AbstractContextManager[Outage]]] = {
    "full": _full, "read-only": _read_only, "vanished": _vanished, "cut": _cut, "silent": _silent, "slow": _slow,
}  # fmt: skip

_OWN_NETWORK = frozenset({"cut"})


def run(kind: str, folder: Path, *, seconds: float, seed: int, times: int = 1, program: Sequence[str] = ()) -> Result:
    """Run one kind of outage so many times, each of so many seconds, in namespaces of its own."""
    begun = time.monotonic()
    failures: list[str] = []
    slowest = 0.0
    for number in range(times):
        place = folder / f"{kind}{number}"
        place.mkdir()
        words = [kind, str(place), str(seconds), str(seed + number), *program]
        found = apart.run("tests.torture.outages", words, network=kind in _OWN_NETWORK)
        failures += found["failures"]
        slowest = max(slowest, found["resumed"])
    facts = {"slowest resumption s": round(slowest, 1), "seed": seed}
    return Result(f"outage: {kind}", "outages", times, tuple(failures), time.monotonic() - begun, facts)


def _drill(kind: str, folder: Path, seconds: float, seed: int, program: Sequence[str]) -> dict[str, object]:
    chance = random.Random(seed)
    failures: list[str] = []
    with KINDS[kind](folder) as (site, fail, cure), Launcher(program) as launcher:
        for _ in range(2):
            launcher.agent(site.config)
        wait_until(lambda: len(site.rows("SELECT 1 FROM agents WHERE state = 'Running'")) == 2, 20)
        fail()
        site.submit(site.make([f"hit/{number:03d}" for number in range(_FILES)], chance, (80_000, 120_000)))
        time.sleep(chance.uniform(0.5, 1.0))
        site.submit(site.make([f"other/{number:03d}" for number in range(_FILES)], chance, (100, 5000)), "vault")
        others = "SELECT count(*) FROM files f JOIN channels c ON c.id = f.channel_id WHERE target = 'vault' AND {}"
        if not wait_until(lambda: site.rows(others.format("state = 'Done'"))[0][0] == _FILES, _OTHERS, 0.1):
            failures.append(f"{kind}: another channel was held back for more than {_OTHERS} s")
        time.sleep(seconds)
        cure()
        begun = time.monotonic()
        if not wait_until(lambda: site.open_files() == 0, _CURED, 0.1):
            failures.append(f"{kind}: not resumed within {_CURED} s of the cure: {site.log()[-1500:]}")
        resumed = time.monotonic() - begun
        failures += [f"{kind}: {finding}" for finding in site.check()]
    return {"failures": failures, "resumed": resumed}


def main() -> None:
    """Run one outage in this process and print what was found as JSON."""
    kind, folder, seconds, seed, *program = sys.argv[1:]
    apart.end_with_parent()
    found = _drill(kind, Path(folder), float(seconds), int(seed), program)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
