"""A description of the machine that a report was made on."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("sqlalchemy", "psycopg", "paramiko", "lxml", "zlib-ng", "xxhash")
_PEERS = ("pgqueuer", "procrastinate", "huey", "asyncpg", "psycopg")
_PROGRAMS = {
    "rsync": ("rsync", "--version"), "rclone": ("rclone", "version"), "OpenSSH": ("ssh", "-V"),
    "cp": ("cp", "--version"),
}  # fmt: skip


def describe(folder: Path, peers: Path, load: str) -> dict[str, str]:
    """Return what a reader needs to judge the figures; `folder` is where the files lie, `peers` the peers' venv.

    `load` is the load average from before the run.
    """
    disk = shutil.disk_usage(folder)
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": f"{_file_system(folder)}, {disk.free / 2**30:.0f} GiB free",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "PostgreSQL": _postgres(),
        "libraries": ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES),
        "peers": ", ".join(f"{name} {_peer_version(peers, name)}" for name in _PEERS),
        "programs": "; ".join(_first_line(name, command) for name, command in _PROGRAMS.items()),
        "load average before": load,
    }


def load_average() -> str:
    """Return the load average of the last 1, 5 and 15 minutes."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder lies on."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_rest = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _peer_version(peers: Path, name: str) -> str:
    found = sorted(peers.glob(f"lib/python*/site-packages/{name}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").partition("-")[2] if found else "not installed"


def _postgres() -> str:
    for binary in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True):
        return _first_line("", (str(binary), "--version")).strip()
    return "absent"


def _first_line(name: str, command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return f"{name} absent"
    text = done.stdout or done.stderr
    return text.splitlines()[0].strip() if text else f"{name} ?"
