"""Hosts of their own on this one: network namespaces on a bridge, with firewalls, for tests of several sites (root)."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@dataclass
class Network:
    """Hosts `a`, `b`, … with the addresses 10.99.N.1, 10.99.N.2, …, each in a network namespace, joined by a bridge."""

    names: tuple[str, ...]
    made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make it; the names are this process's own, so that several can be there at once."""
        self.mark = f"dts{os.getpid() % 100_000:05d}"
        self.subnet = f"10.99.{os.getpid() % 250}"
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        hub = f"{self.mark}-hub"
        _run("ip", "netns", "add", hub)
        self.made.append(hub)
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names, start=1):
            space = self.space(name)
            _run("ip", "netns", "add", space)
            self.made.append(space)
            _run("ip", "-n", space, "link", "add", "net", "type", "veth", "peer", "name", f"to-{name}", "netns", hub)
            _run("ip", "-n", hub, "link", "set", "dev", f"to-{name}", "master", "bridge", "up")
            _run("ip", "-n", space, "addr", "add", f"{self.subnet}.{number}/24", "dev", "net")
            _run("ip", "-n", space, "link", "set", "net", "up")
            _run("ip", "-n", space, "link", "set", "lo", "up")

    def space(self, name: str) -> str:
        """Return the namespace of a host."""
        return f"{self.mark}-{name}"

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"{self.subnet}.{self.names.index(name) + 1}"

    def inside(self, name: str, work: Callable[[], T]) -> T:
        """Do work on a host: in a thread that is there, as are all the threads that it starts."""
        ended: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with Path("/run/netns", self.space(name)).open("rb") as space:
                    if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                ended.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name=f"on-{name}")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return ended[0]

    def shut(self, name: str, *ports: int) -> None:
        """Let no connection come in to a host but to these ports; what it begins itself goes on."""
        self.open(name)
        allowed = f"tcp dport {{ {', '.join(map(str, ports))} }} accept;" if ports else ""
        rules = f"""table inet dts {{
            chain incoming {{
                type filter hook input priority 0; policy drop;
                iif lo accept; ct state established,related accept; {allowed}
            }}
        }}
        """
        command = ["ip", "netns", "exec", self.space(name), "nft", "-f", "-"]
        subprocess.run(command, input=rules, check=True, capture_output=True, text=True)

    def open(self, name: str) -> None:
        """Let all connections come in to a host."""
        command = ["ip", "netns", "exec", self.space(name), "nft", "delete", "table", "inet", "dts"]
        subprocess.run(command, check=False, capture_output=True)

    def close(self) -> None:
        """Take all away."""
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        self.made.clear()
