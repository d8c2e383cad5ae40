"""Row 14: the transport on loopback, one file to a disk and to memory, beside the rsync daemon."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import ROOT, crew, ours, run
from benchmarks.report import Line, against
from benchmarks.rows.moving import Load
from benchmarks.sites import make_files, settle
from benchmarks.turns import Series, in_turn

_MEMORY = Path("/dev/shm")
_CONFIGURATION = """port = {port}
address = 127.0.0.1
use chroot = no
{user}
[bench]
path = {folder}
read only = no
"""


def measure(bench: Bench) -> list[Line]:
    """Measure the disk, then the memory."""
    source = bench.new_folder("source")
    size = bench.size(1024, 1024, 8) << 20
    load = Load(source, make_files(source, 1, size))
    lines = _place(bench, load, "to disk", bench.new_folder("disk"), 0.6)
    with tempfile.TemporaryDirectory(prefix="dts-bench-", dir=_MEMORY) as memory:
        lines += _place(bench, load, "to memory", Path(memory), None)
    shutil.rmtree(source)
    return lines


def _place(bench: Bench, load: Load, where: str, folder: Path, cpu_target: float | None) -> list[Line]:
    cpu: dict[str, list[float]] = {"dts": [], "rsync": []}
    subjects = {
        "dts": partial(_dts, load, folder, cpu["dts"]),
        "rsync": partial(_rsync, load, folder, cpu["rsync"]),
    }
    found = in_turn(subjects, bench.repeats)
    mib = load.size / (1 << 20)
    what = f"{mib:,.0f} MiB {where}, self-tuned"
    note = "synced, verified at both ends; rsync flushes nothing"
    name = "rsync daemon"
    rates = {one: series.inverse(load.size / 1e6) for one, series in found.items()}
    spent = {one: Series(tuple(values)) for one, values in cpu.items()}
    return [
        against(14, what, "MB/s", rates["dts"], (name, rates["rsync"]), "≥", 2.0, note),
        against(14, what, "CPU s, both sides", spent["dts"], (name, spent["rsync"]), "≤", cpu_target),
    ]


def _dts(load: Load, folder: Path, cpu: list[float]) -> float:
    target = folder / "dts"
    target.mkdir()
    pipe = subprocess.PIPE
    receiver = subprocess.Popen(ours("land", str(target)), stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    try:
        assert receiver.stdout is not None
        port, ticket = receiver.stdout.readline().split()
        settle()
        name = load.names[0]
        (sent,) = crew([ours("wan_send", "127.0.0.1", port, ticket, "0", str(load.folder / name))])
        spent, _ = receiver.communicate("")
        cpu.append(float(spent) + sent["cpu"])
        if (target / Path(name).name).stat().st_size != load.size:
            raise RuntimeError("not all bytes arrived")
        seconds: float = sent["ended"] - sent["begun"]
        return seconds
    finally:
        receiver.kill()
        receiver.wait()
        shutil.rmtree(target)


def _rsync(load: Load, folder: Path, cpu: list[float]) -> float:
    target = folder / "rsync"
    target.mkdir()
    settle()
    before = _spent()
    with _daemon(folder, target) as port:
        source, url = str(load.folder / load.names[0]), f"rsync://127.0.0.1:{port}/bench/{load.names[0]}"
        seconds = run(["rsync", "--times", "--whole-file", source, url])
    cpu.append(_spent() - before)
    load.check(target)
    shutil.rmtree(target)
    return seconds


def _spent() -> float:
    """Return the CPU seconds of all children that have ended, their own included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _daemon(folder: Path, target: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    user = "uid = 0\ngid = 0" if os.getuid() == 0 else ""  # as root it would become nobody
    configuration = folder / "rsyncd.conf"
    configuration.write_text(_CONFIGURATION.format(port=port, folder=target, user=user))
    daemon = subprocess.Popen(["rsync", "--daemon", "--no-detach", "--config", str(configuration)])
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        yield port
    finally:
        daemon.terminate()
        daemon.wait()
