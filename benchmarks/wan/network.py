"""Two network namespaces with a long-distance line between them, made of `wan.c` and nothing else."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from benchmarks.children import ROOT

Side = Literal["a", "b"]
ADDRESSES: Mapping[Side, str] = {"a": "10.77.0.1", "b": "10.77.0.2"}
"""Where the two ends are; only they see these addresses."""

SOURCE = Path(__file__).parent / "wan.c"
GIGABIT = 1e9
FRAMING = 38
"""Bytes that the line spends on each segment beside the IP packet: Ethernet's preamble, header, check sequence, gap."""

MTU = 1500
CONGESTION = "cubic"
"""What connections use that do not choose: what nearly every distribution has, whatever this machine does."""

_SETTINGS = Path("/proc/sys/net")
_PREFIX = "dtswan"
_LEAST_QUEUE = 1 << 20
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Connection:
    """A line: round trip in milliseconds, probability that a segment is lost (each way), bits a second.

    `queue` is the number of bytes that the router before the line holds.
    """

    rtt: float
    loss: float
    rate: float = GIGABIT
    queue: int = 0

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.rtt:g} ms, {self.loss * 100:g} % loss"

    @property
    def bytes_queued(self) -> int:
        """What the router holds: as told, or as much as the line does in a round trip, and 1 MiB at least."""
        return self.queue or max(_LEAST_QUEUE, int(self.rate / 8 * self.rtt / 1e3))

    @property
    def most(self) -> float:
        """Bytes a second of TCP payload that the line can carry, with time stamps in every segment."""
        return self.rate / 8 * (MTU - 52) / (MTU + FRAMING)


def compile_line(folder: Path) -> Path:
    """Compile the emulator into a folder; return the program. RuntimeError with what the compiler says."""
    program = folder / "wan"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-std=gnu11", "-o", str(program), str(SOURCE), "-lm"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{SOURCE.name} does not compile:\n{done.stderr[-2000:]}")
    return program


class Network:
    """Two ends, `a` and `b`, and the line between them. Needs root. What it makes goes when it is closed.

    A run that was killed leaves its namespaces behind: the next one removes them, as their names tell whose they were.
    """

    def __init__(self, *, nice: int = -5) -> None:
        """Make the namespaces and start the line, without delay or limit; `nice` is the line's place in the queue."""
        _sweep()
        self._folder = tempfile.TemporaryDirectory(prefix="dts-wan-")
        name = f"{os.getpid()}-{next(_numbers)}"
        self._spaces = {side: f"{_PREFIX}-{name}-{side}" for side in ADDRESSES}
        devices: dict[Side, str] = {side: f"wan{name}{side}" for side in ADDRESSES}
        self._line: subprocess.Popen[str] | None = None
        try:
            program = compile_line(Path(self._folder.name))
            command = ["nice", "-n", str(nice), str(program), *devices.values()]
            pipe = subprocess.PIPE
            # A session of its own: an interrupt from the keyboard must not end the line before what uses it.
            self._line = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
            self._ask("counters")
            for side, space in self._spaces.items():
                _ip("netns", "add", space)
                _ip("link", "set", devices[side], "netns", space)
                self._set_up(side, devices[side])
        except BaseException:
            self.close()
            raise

    def _set_up(self, side: Side, device: str) -> None:
        """Give an end its address, and TCP as distributions have it: CUBIC. No turn learns from the one before."""
        self._write(side, "ipv6/conf/all/disable_ipv6", "1")  # its neighbours' greetings would meet losses of others
        _ip("-n", self._spaces[side], "link", "set", "lo", "up")
        peer = ADDRESSES["b" if side == "a" else "a"]
        _ip("-n", self._spaces[side], "address", "add", ADDRESSES[side], "peer", peer, "dev", device)
        _ip("-n", self._spaces[side], "link", "set", device, "mtu", str(MTU), "txqueuelen", "20000", "up")
        with _allowed(CONGESTION):
            self._write(side, "ipv4/tcp_congestion_control", CONGESTION)
        self._write(side, "ipv4/tcp_no_metrics_save", "1")

    def _write(self, side: Side, name: str, value: str) -> None:
        if (_SETTINGS / name).exists():
            self.run(side, ["sh", "-c", f"echo {value} >{_SETTINGS / name}"])

    def connect(self, connection: Connection, seed: int) -> None:
        """Make the line what a connection says; whatever was on its way is lost, the counters begin anew."""
        delay = int(connection.rtt / 2 * 1e6)
        self._ask(f"line {connection.rate} {delay} {connection.loss!r} {connection.bytes_queued} {seed}")

    def counters(self) -> dict[Side, dict[str, int]]:
        """Return what the line has counted, by the side where it came from."""
        a, b = self._ask("counters")
        return {"a": a, "b": b}

    def _ask(self, command: str) -> Any:
        line = self._line
        assert line is not None and line.stdin is not None and line.stdout is not None
        try:
            line.stdin.write(command + "\n")
            line.stdin.flush()
            answer = line.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the line has ended with {line.wait()}; it needs root and /dev/net/tun")
        return json.loads(answer)

    def inside(self, side: Side, command: Sequence[str]) -> list[str]:
        """Return a command that runs another one at one end."""
        return ["nsenter", f"--net=/run/netns/{self._spaces[side]}", "--", *command]

    def run(self, side: Side, command: Sequence[str]) -> str:
        """Run a command at one end; return what it prints. RuntimeError with its stderr when it fails."""
        done = subprocess.run(self.inside(side, command), check=False, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{list(command)[:4]} failed with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def close(self) -> None:
        """End all processes at the ends, remove the namespaces and end the line."""
        for space in self._spaces.values():
            _remove(space)
        if self._line is not None:
            assert self._line.stdin is not None and self._line.stdout is not None
            try:
                self._line.stdin.close()
            except BrokenPipeError:
                pass  # it has ended already
            self._line.wait()
            self._line.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Network:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove everything."""
        self.close()


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def _allowed(congestion: str) -> Iterator[None]:
    """Let a namespace take a congestion control that only root may choose on this machine; then as it was."""
    setting = _SETTINGS / "ipv4/tcp_allowed_congestion_control"
    before = setting.read_text()
    if congestion in before.split():
        yield
        return
    setting.write_text(f"{before.strip()} {congestion}")
    try:
        yield
    finally:
        setting.write_text(before)


def _spaces() -> list[str]:
    """Return the namespaces of all runs, this and others."""
    return re.findall(rf"^({_PREFIX}-\d+-\d+-[ab])\b", _ip("netns", "list"), re.MULTILINE)


def _remove(space: str) -> None:
    """End what runs in a namespace, which is nobody's but ours, and remove it."""
    if space not in _spaces():
        return
    for number in _ip("netns", "pids", space).split():
        try:
            os.kill(int(number), 9)
        except ProcessLookupError:
            pass  # it has ended by itself meanwhile
    _ip("netns", "del", space)


def _sweep() -> None:
    """Remove the namespaces of runs that are no more."""
    for space in _spaces():
        if not Path(f"/proc/{space.split('-')[1]}").exists():
            _remove(space)
