"""The path between two sites: what the kernel knows of it, and what a sender makes of that.

How many streams, which congestion control, which buffers, how long the pieces: all of it follows from the round-trip
time and from what more streams bring. Each decision is kept as a sentence, what and why, for logs and for operators.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dtsnet.frames import LONGEST_CHUNK

MOST_STREAMS = 16

CHUNK = 4 * 1024 * 1024
"""Bytes of a piece, on most paths."""

_NEAR, _FAR, _FARTHER = 0.0005, 0.005, 0.02
"""Seconds of round trip up to which it is the same room, and from which on a lost packet costs long, and very long."""

_NEAR_BUFFER = 1024 * 1024
"""Bytes of send buffer in the same room: enough there, and what is on the way stays in the processor's cache."""

_EXPECTED = 125e6
"""Bytes a second that a path is taken for before anything has been measured: 1 Gbit/s."""

_SLACK = 1.5
"""So much more is kept on the way than fills a path: an end may be late, or a lost segment on its way again."""

_GAIN = 1.1
"""More streams are kept when they bring so much more, in one of so many looks."""
_LOOKS = 3

_HELD_UP, _LOSS = 0.2, 1e-5
"""More streams are tried when buffers are in the way for so much of the time, or so many segments are lost."""

_BYTES_OF_INFO = 232


@dataclass(frozen=True, slots=True)
class Measured:
    """What the kernel knows of a connection: seconds, bytes, bytes a second, and segments sent and sent again."""

    rtt: float
    least_rtt: float
    window: int
    rate: float
    segments: int
    repeated: int
    held_up: float
    """The part of the time with something to send in which a buffer, here or there, and not the path was in the way."""


def measure(connection: socket.socket) -> Measured | None:
    """Return TCP_INFO of a connection, None where it is no TCP connection or the kernel does not tell."""
    raw = _information(connection)
    if len(raw) < 168:
        return None
    (segment_size,) = struct.unpack_from("=I", raw, 16)
    rtt, window = struct.unpack_from("=I", raw, 68)[0], struct.unpack_from("=I", raw, 80)[0]
    repeated, segments = struct.unpack_from("=I", raw, 100)[0], struct.unpack_from("=I", raw, 136)[0]
    least, rate = struct.unpack_from("=I", raw, 148)[0], struct.unpack_from("=Q", raw, 160)[0]
    busy, by_window, by_buffer = struct.unpack_from("=3Q", raw, 168) if len(raw) >= 192 else (0, 0, 0)
    held_up = (by_window + by_buffer) / busy if busy else 0.0
    known = least not in (0, 0xFFFFFFFF)
    trips = rtt / 1e6, (least if known else rtt) / 1e6
    return Measured(*trips, window * segment_size, float(rate), segments, repeated, held_up)


def departed(connection: socket.socket) -> int | None:
    """Return the bytes that have left the host on a connection, each counted once; None where nobody knows."""
    raw = _information(connection)
    if len(raw) < 216:
        return None
    sent, again = struct.unpack_from("=2Q", raw, 200)
    return int(sent - again)


def _information(connection: socket.socket) -> bytes:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return b""
    try:
        return socket.socket.getsockopt(connection, socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_OF_INFO)
    except OSError:
        return b""


def _numbers(name: str) -> list[int]:
    """Return the numbers of a setting of the kernel's network, none where it cannot be read."""
    try:
        return [int(word) for word in Path("/proc/sys/net", name).read_text().split()]
    except (OSError, ValueError):
        return []


def most_in_flight() -> int:
    """Return the bytes that the kernel lets one connection have on the way by itself (net.ipv4.tcp_wmem)."""
    return (_numbers("ipv4/tcp_wmem") or [4 << 20])[-1]


@dataclass(frozen=True, slots=True)
class Decision:
    """Something that was chosen, why, and how many seconds after the beginning; `str()` is a sentence."""

    at: float
    what: str
    why: str

    def __str__(self) -> str:
        """Return what and why."""
        return f"{self.what}: {self.why}"


class Tuner:
    """Chooses for one session: how many streams, what each one's socket is told, how long the pieces are."""

    def __init__(self, asked: int, limit: float = 0.0, most: int = MOST_STREAMS) -> None:
        """`asked` streams, 0: as many as suit the path and at most `most`.

        `limit` bytes a second are let through (0: any number).
        """
        self._most = most
        self.chunk = CHUNK
        self.streams = asked or 1
        self.decisions: list[Decision] = []
        self._fixed = asked > 0
        self._limit = limit
        self._begun = time.monotonic()
        self._known = self._bbr = False
        self._lock = threading.Lock()
        self._trial: _Trial | None = None
        self._window = 1.0
        self._mark = (self._begun, 0)
        self._last = 0.0
        self._settled = asked > 0

    def _decide(self, what: str, why: str) -> None:
        self.decisions.append(Decision(time.monotonic() - self._begun, what, why))

    def prepare(self, connection: socket.socket) -> None:
        """Tell a new connection's socket what suits its path; the first one decides how the session begins."""
        path = measure(connection)
        if path is None:
            return
        with self._lock:
            if path.least_rtt >= _FAR:
                self._bbr = _use_bbr(connection)
            elif path.least_rtt < _NEAR:
                socket.socket.setsockopt(connection, socket.SOL_SOCKET, socket.SO_SNDBUF, _NEAR_BUFFER)
            if not self._known:
                self._known = True
                self._begin(path.least_rtt)

    def _begin(self, trip: float) -> None:
        shown = f"a round trip takes {trip * 1000:.3g} ms"
        near, far = trip < _NEAR, trip >= _FAR
        if self._bbr:
            self._decide("congestion control bbr", f"{shown}, and on a long path each lost packet costs cubic long")
        elif far:
            self._decide("congestion control as the system has it", f"{shown}, but the kernel does not offer bbr")
        if near:
            self._decide("a send buffer of 1 MiB", f"{shown}: it is enough, and stays in the processor's cache")
        else:
            self._decide("socket buffers as the kernel tunes them", "a fixed size is too small or overflows queues")
        if self._fixed:
            self._decide(_streams(self.streams), "so many were asked for")
        else:
            count, why = _first_streams(trip, self._limit, bbr=self._bbr)
            self.streams = min(count, self._most)
            self._decide(_streams(self.streams), f"{shown}: {why}")
        self._settled = self._fixed or not far or bool(self._limit)
        self._window = max(0.5, 10 * trip)
        each = 2 * _NEAR_BUFFER if near else most_in_flight()
        self.chunk = min(max(CHUNK, each), LONGEST_CHUNK)
        self._decide(f"pieces of {self.chunk >> 20} MiB", f"no more than {each >> 20} MiB of a stream are on the way")

    def step(self, confirmed: int, connections: Sequence[socket.socket], *, more: bool = True) -> None:
        """Look at the bytes confirmed so far, and try more streams or settle; `more`: there is more to send."""
        now = time.monotonic()
        since, before = self._mark
        if self._settled or not self._known or now - since < self._window:
            return
        self._mark = (now, confirmed)
        rate, last = (confirmed - before) / (now - since), self._last
        self._last = rate
        if not more or not rate:
            return
        if self._trial is not None:
            self._judge(self._trial, rate)
        elif last and rate < _GAIN * last:  # it does not rise by itself any more
            self._try(max(rate, last), [path for one in connections if (path := measure(one)) is not None])

    def _try(self, rate: float, paths: list[Measured]) -> None:
        held_up = sum(path.held_up for path in paths) / max(len(paths), 1)
        lost = sum(path.repeated for path in paths) / max(sum(path.segments for path in paths), 1)
        hampered = held_up > _HELD_UP or (lost > _LOSS and not self._bbr)
        self._settled = self.streams >= self._most or not hampered
        if self._settled:
            self._decide(_streams(self.streams), f"they bring {_shown(rate)}, and it is the path that sets the limit")
            return
        why = "their buffers are in the way" if held_up > _HELD_UP else f"{lost:.2%} are lost"
        self._trial = _Trial(self.streams, rate)
        self.streams = min(2 * self.streams, self._most)
        self._decide(_streams(self.streams), f"{self._trial.streams} bring {_shown(rate)}, and {why}")

    def _judge(self, trial: _Trial, rate: float) -> None:
        """Keep more streams as soon as they bring more; give them up when they do not in three looks."""
        trial.looks += 1
        trial.best = max(trial.best, rate)
        if trial.best >= _GAIN * trial.rate:
            self._decide(_streams(self.streams), f"they bring {_shown(trial.best)} where {_shown(trial.rate)} were")
        elif trial.looks < _LOOKS:
            return
        else:
            self._decide(_streams(trial.streams), f"{self.streams} bring {_shown(trial.best)} and no more")
            self.streams = trial.streams
            self._settled = True
        self._trial = None
        self._last = 0.0


@dataclass(slots=True)
class _Trial:
    """More streams on trial: how many and how fast it was before, and how fast it became."""

    streams: int
    rate: float
    looks: int = 0
    best: float = 0.0


def _use_bbr(connection: socket.socket) -> bool:
    try:
        socket.socket.setsockopt(connection, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    except OSError:
        return False
    return True


def _first_streams(trip: float, limit: float, *, bbr: bool) -> tuple[int, str]:
    """Return with how many streams to begin, and why."""
    wanted = min(limit, _EXPECTED) if limit else _EXPECTED
    if trip < _FAR:
        return (1, "the limit needs no more") if limit and limit < _EXPECTED else (2, "it is near, and two take turns")
    each = 0.65 * most_in_flight()
    count = min(max(int(_SLACK * wanted * trip / each) + 1, 1 if limit else 2), MOST_STREAMS)
    if bbr:
        return count, f"{_shown(wanted)} need so many, with {each / 1e6:.2g} MB of each on the way"
    hiding = MOST_STREAMS if trip >= _FARTHER else MOST_STREAMS // 2
    return max(hiding, count), "without bbr a lost packet halves one stream, and many hardly notice"


def _streams(count: int) -> str:
    return f"{count} stream{'s' if count > 1 else ''}"


def _shown(rate: float) -> str:
    return f"{rate / 1e6:,.3g} MB/s"
