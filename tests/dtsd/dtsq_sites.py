"""A site with a queue for the tests of dtsq, and dtsq itself as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.agents.sites import Site, until

PROGRAM = [sys.executable, "-m", "dtsd.dtsq"]
QUEUE = {"queue.des.target": "archive", "queue.des.reserve": "0"}


def queue_site(folder: Path, url: str, **settings: str) -> Site:
    """Return a site whose queue `des` brings files from `local` to `archive`."""
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return Site(folder, url, settings={**QUEUE, **named})


def dtsq(site: Site, *words: object, text: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    """Run dtsq to its end."""
    command = [*PROGRAM, "--config", str(site.path), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, input=text, timeout=60, check=False, **more)


def children(site: Site) -> list[int]:
    """Return the processes that work for dtsq at a site."""
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0") if name.isdigit() else []
        except OSError:
            continue
        if b"dtsd.dtsq_child" in words and os.fsencode(site.path) in words:
            found.append(int(name))
    return found


def kill_children(site: Site) -> int:
    """Kill (SIGKILL) the processes that work for dtsq at a site; return how many there were."""
    found = children(site)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    until(lambda: not children(site), 10)
    return len(found)


def token(path: Path) -> dict[str, Any]:
    """Return the token of a file."""
    found: dict[str, Any] = json.loads(path.with_name(f"{path.name}.dtsq").read_text())
    return found


def has_token(path: Path) -> bool:
    """Whether a file has its token."""
    return path.with_name(f"{path.name}.dtsq").exists()


def wait_for_tokens(site: Site, paths: Sequence[Path], seconds: float = 60.0) -> None:
    """Wait until each file has its token."""
    until(lambda: all(has_token(path) for path in paths), seconds, lambda: story(site))


def story(site: Site) -> str:
    """Return what dtsq and its children logged."""
    folder = site.folder / "var" / "dtsq"
    return "\n".join((folder / name).read_text()[-4000:] for name in ("log", "worker.log") if (folder / name).exists())


def end_children(site: Site) -> None:
    """Let the processes that work for dtsq at a site end."""
    for pid in children(site):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while children(site) and time.monotonic() < deadline:
        time.sleep(0.1)
    kill_children(site)
