"""What the line between the namespaces really does, found without any program that transfers files."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.children import ROOT
from benchmarks.programs.wan_probe import BURST
from benchmarks.wan.network import ADDRESSES, Connection, Network

_ECHOES = 15
DATAGRAMS = 50_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One connection as found: median round trip (ms, idle), datagrams sent and arrived, drops as the line counted."""

    rtt: float
    sent: int
    arrived: int
    counted: int

    @property
    def loss(self) -> float:
        """Share of the datagrams that did not arrive."""
        return 1 - self.arrived / self.sent

    @property
    def honest(self) -> bool:
        """Whether the line counted exactly what did not arrive."""
        return self.counted == self.sent - self.arrived


def measure(network: Network, connection: Connection, seed: int, datagrams: int = DATAGRAMS) -> Measured:
    """Ping, and count the losses among small datagrams from a to b."""
    network.connect(connection, seed)
    found = json.loads(network.run("a", _probe("echo", ADDRESSES["b"], str(_ECHOES))))
    network.connect(connection, seed)
    with _port(network, "count") as (counter, port):
        network.run("a", _probe("datagrams", ADDRESSES["b"], port, str(datagrams)))
        time.sleep(connection.rtt / 2e3 + 0.2)
        arrived, _ = counter.communicate()
    counters = network.counters()["a"]
    counted = counters["lost"] + counters["overflowed"]
    return Measured(statistics.median(found), datagrams // BURST * BURST, int(arrived), counted)


def plain_tcp(network: Network, seconds: float) -> float:
    """Return what one TCP connection from a to b carries on the line as it is, in bytes a second."""
    with _port(network, "sink") as (sink, port):
        network.run("a", _probe("pour", ADDRESSES["b"], port, str(seconds)))
        output, _ = sink.communicate()
    found = json.loads(output)
    return float(found["bytes"] / found["seconds"])


def _probe(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.programs.wan_probe", *arguments]


@contextmanager
def _port(network: Network, probe: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a probe that listens at b and first says its port; see that it ends."""
    command = network.inside("b", _probe(probe, ADDRESSES["b"]))
    pipe = subprocess.PIPE
    running = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    try:
        assert running.stdout is not None
        yield running, running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()
