"""Row 5: the `sftp` element against OpenSSH's sftp, rclone and plain paramiko, on a real server on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.bench import Bench
from benchmarks.children import crew, ours, span
from benchmarks.report import Line, against
from benchmarks.rows.moving import Load, dts, peer
from benchmarks.sites import Site, make_files, settle
from benchmarks.turns import in_turn
from tests.services import SshServer

Way = Literal["put", "get"]
_ONE: Mapping[str, float | None] = {"sftp": 0.9, "paramiko": 2.0, "rclone": None}
_MANY: Mapping[str, float | None] = {"sftp": 2.0, "rclone": 1.5}


def measure(bench: Bench) -> list[Line]:
    """Measure one large file and many middling ones, each way."""
    lines: list[Line] = []
    both: tuple[Way, ...] = ("put", "get")
    for files, mebibytes, targets in ((1, bench.size(1024, 128, 4), _ONE), (bench.size(2000, 200, 8), 1, _MANY)):
        source = bench.new_folder("sftp")
        load = Load(source, make_files(source, files, mebibytes << 20))
        for way in bench.size(both, both, both[:1] if files == 1 else both[1:]):
            lines += _one_way(bench, load, way, targets)
        shutil.rmtree(source)
    return lines


def _one_way(bench: Bench, load: Load, way: Way, targets: Mapping[str, float | None]) -> list[Line]:
    """Return the lines of one load one way."""
    known: dict[str, Callable[[], float]] = {
        "sftp": partial(peer, bench, load, partial(_sftp, bench.sshd), stdin=_batch(load, way)),
        "rclone": partial(peer, bench, load, partial(_rclone, bench.sshd, load, way)),
        "paramiko": partial(_paramiko, bench, load, way),
    }
    names = ["sftp"] if bench.level == "tiny" else list(targets)
    subjects = {"dts": partial(dts, bench, load, partial(_elements, bench, load, way))}
    found = in_turn({**subjects, **{name: known[name] for name in names}}, bench.repeats)
    count, size = len(load.names), load.size / 1e6
    what = f"{way}, {count:,} file{'s' if count > 1 else ''} of {load.size // count >> 20:,} MiB"
    speed = found["dts"].inverse(size)
    return [against(5, what, "MB/s", speed, (name, found[name].inverse(size)), "≥", targets[name]) for name in names]


def _elements(bench: Bench, load: Load, way: Way, site: Site, target: Path) -> None:
    """Name the two ends: the server's is an `sftp` element, the other one a `file` element."""
    if way == "put":
        site.add_file("source", load.folder)
        site.add_sftp("target", bench.sshd, target)
    else:
        site.add_sftp("source", bench.sshd, load.folder)
        site.add_file("target", target)


def _sftp(server: SshServer, _target: Path) -> Sequence[str]:
    options = ["-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    return ["sftp", "-q", "-F", "none", "-b", "-", "-P", str(server.port), "-i", str(server.key), *options,
            f"{server.user}@{server.host}"]  # fmt: skip


def _batch(load: Load, way: Way) -> str:
    """Return the batch of OpenSSH's sftp; `{target}` stands for the folder to fill."""
    if len(load.names) == 1:
        return f"{way} {load.folder / load.names[0]} {{target}}/{load.names[0]}\n"
    return f"{way} -R {load.folder}/* {{target}}/\n"


def _rclone(server: SshServer, load: Load, way: Way, target: Path) -> Sequence[str]:
    """Return the command of rclone at its fastest: without a shell, since it would start md5sum for each file."""
    remote = f":sftp,host={server.host},port={server.port},user={server.user},key_file={server.key},shell_type=none:"
    ends = [str(load.folder), f"{remote}{target}"] if way == "put" else [f"{remote}{load.folder}", str(target)]
    return ["rclone", "copy", *ends]


def _paramiko(bench: Bench, load: Load, way: Way) -> float:
    target = bench.new_folder("paramiko")
    settle()
    server, name = bench.sshd, load.names[0]
    where = [str(server.port), server.user, str(server.key), str(server.known_hosts)]
    seconds = span(crew([ours("plain_paramiko", way, *where, str(load.folder / name), str(target / name))]))
    load.check(target)
    shutil.rmtree(target)
    return seconds
