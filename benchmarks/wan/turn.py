"""One turn: one program moves one file over the line, or as much of it as it can in the time that it has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

from benchmarks.children import ROOT
from benchmarks.wan.network import Network
from benchmarks.wan.tools import Setting, Tool

_START_SECONDS = 20.0
_PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class Load:
    """The file to move, its size and CRC32C."""

    file: Path
    size: int
    crc: int

    @classmethod
    def make(cls, file: Path, size: int) -> Load:
        """Write a file of random bytes, which nothing can compress."""
        crc = 0
        with file.open("wb") as stream:
            for begin in range(0, size, _PIECE):
                piece = os.urandom(min(_PIECE, size - begin))
                crc = crc32c(piece, crc)
                stream.write(piece)
        return cls(file, size, crc)


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of it: bytes a second for the whole file; bytes that arrived, seconds; whether it was stopped then.

    Of the line, from a to b: bytes in IP packets that it carried, segments that it lost and that found the queue full,
    and the share of what it delivered that left more than a millisecond after its time. `decisions` are our own
    transport's, with the number of streams that it used at the end.
    """

    rate: float
    arrived: int
    seconds: float
    stopped: bool
    carried: int
    lost: int
    overflowed: int
    late: float
    streams: int = 0
    decisions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Sent:
    """How long a client ran; what had arrived after half of its time and at its end if it had to be stopped.

    `streams` and `decisions` are what ours says of itself.
    """

    seconds: float
    half: int = 0
    part: int | None = None
    streams: int = 0
    decisions: Sequence[str] = ()


def whole_rate(size: int, limit: float, half: int, part: int) -> float:
    """Return the bytes a second of a whole file that was stopped at `limit`, if the rest comes as the second half did.

    At the beginning nothing has been lost yet: what a program brought by then over all it had would flatter it.
    `half` and `part`: bytes that had arrived after half of the time and at its end. RuntimeError if nothing had.
    """
    if not part:
        raise RuntimeError(f"nothing arrived within {limit:g} s")
    steady = (part - half) / (limit / 2) if part > half else part / limit
    return size / (limit + (size - part) / steady)


def play(network: Network, setting: Setting, tool: Tool, load: Load, limit: float) -> Turn:
    """Run a program over the line as it is, for `limit` seconds at most; RuntimeError when it fails or bytes differ."""
    _clear(setting.landing)
    with _serving(network, setting, tool) as said:
        before = network.counters()["a"]
        command = tool.send(setting, load.file, said)
        sent = _send(network.inside("a", command), limit, setting.landing, ready=tool.ready)
        found = network.counters()["a"]
    whole = sent.part is None
    if whole:
        _check(setting.landing / load.file.name, load, tool)
    _clear(setting.landing)
    counted = {name: found[name] - before[name] for name in ("bytes", "lost", "overflowed", "late", "runs")}
    rate = load.size / sent.seconds if sent.part is None else whole_rate(load.size, limit, sent.half, sent.part)
    return Turn(
        rate, sent.part or load.size, sent.seconds, not whole, counted["bytes"], counted["lost"], counted["overflowed"],
        counted["late"] / max(counted["runs"], 1), sent.streams, sent.decisions,
    )  # fmt: skip


@contextmanager
def _serving(network: Network, setting: Setting, tool: Tool) -> Iterator[Sequence[str]]:
    """Start the server at b, wait until it listens, and end it with all its children; gives what it said."""
    command = network.inside("b", tool.serve(setting))
    with (setting.folder / "server.log").open("ab") as log:
        pipe = subprocess.PIPE
        server = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=ROOT, start_new_session=True
        )
    try:
        assert server.stdout is not None
        if tool.port:
            _wait_for(network, server, tool.port)
        yield () if tool.port else server.stdout.readline().split()
    finally:
        _end(server)


def _wait_for(network: Network, server: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not network.run("b", ["ss", "-Htln", f"sport = :{port}"]):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{server.args!r} does not listen")
        time.sleep(0.02)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all of its session that are left, among them the children that serve connections."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all have ended
    process.communicate()


def _send(command: Sequence[str], limit: float, landing: Path, *, ready: bool) -> _Sent:
    """Run the client to its end, or for so many seconds; RuntimeError if it fails."""
    pipe = subprocess.PIPE
    client = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        assert client.stdout is not None
        if ready and client.stdout.readline() != "ready\n":
            raise RuntimeError(f"{command[-7:]} did not start: {client.communicate()[1][-2000:]}")
        begun = time.monotonic()
        (output, errors), halves = _run(client, "go\n" if ready else None, limit / 2, landing)
        seconds = time.monotonic() - begun
    finally:
        _end(client)
    if halves:
        return _Sent(limit, halves[0], halves[1])
    if client.returncode:
        raise RuntimeError(f"{command[-7:]} failed with {client.returncode}: {errors[-2000:]}")
    if not ready:
        return _Sent(seconds)
    answer = json.loads(output)
    seconds = answer["ended"] - answer["begun"]
    return _Sent(seconds, streams=answer["streams"], decisions=answer["decisions"])


def _run(
    client: subprocess.Popen[str], word: str | None, half: float, landing: Path
) -> tuple[tuple[str, str], list[int]]:
    """Give a client its word and twice so many seconds; return what it printed.

    For one that is not done by then, return the bytes that had arrived after each half. Its server may remove them when
    the client is ended.
    """
    arrived: list[int] = []
    while len(arrived) < 2:
        try:
            return client.communicate(None if arrived else word, timeout=half), []
        except subprocess.TimeoutExpired:
            arrived.append(_arrived(landing))
    return ("", ""), arrived


def _arrived(landing: Path) -> int:
    """Return the bytes that are there, under whatever name: a file that is not whole may have holes."""
    return sum(path.stat().st_blocks * 512 for path in landing.iterdir())


def _check(file: Path, load: Load, tool: Tool) -> None:
    crc = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            crc = crc32c(piece, crc)
    if crc != load.crc or file.stat().st_size != load.size:
        raise RuntimeError(f"{tool.name}: what arrived is not what was sent")


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
