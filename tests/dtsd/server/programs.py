"""The program `dtsd` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtsd.site import create_site
from dtsnet.rpc import Address, Remote

COMMAND = [sys.executable, "-m", "dtsd.server.cli"]


@dataclass
class Program:
    """A site whose daemon is a process."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, folder: Path, extra: str = "") -> Program:
        """Make a site on free ports; `extra` are lines of [dtsd]."""
        site = create_site(folder)
        ports = free_ports(3)
        keys = ("port", "data_port", "monitor_port")
        lines = [f"{key} = {port}" for key, port in zip(keys, ports, strict=True)]
        head = "\n".join(["[dtsd]", *lines, extra, ""])
        text = site.config.read_text()
        site.config.write_text(text.replace("[dtsd]\n", head).replace(":7740/", f":{ports[0]}/"))
        return cls(folder, ports[0])

    def start(self, **options: Any) -> Program:
        """Start it and wait until it answers."""
        with (self.folder / "out").open("ab") as out:
            command = [*COMMAND, "--config", str(self.folder), "run"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=out, **options)
        self.wait()
        return self

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 60
        while True:
            try:
                assert self.remote(timeout=10).call("ping") == "pong"
                return
            except Exception:
                if time.monotonic() > deadline or (self.process is not None and self.process.poll() is not None):
                    raise AssertionError(self.output()) from None
                time.sleep(0.05)

    def output(self) -> str:
        """Return what it said."""
        return (self.folder / "out").read_text()

    @property
    def secret(self) -> bytes:
        """The admin's secret."""
        return (self.folder / "etc" / "dtsd.secret").read_bytes().strip()

    def remote(self, timeout: float = 60.0) -> Remote:
        """Call it as admin."""
        return Remote(Address(f"http://127.0.0.1:{self.port}/RPC2", "admin", self.secret, timeout=timeout))

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody has just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run(folder: Path, *words: str, fds: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
    """Run `dtsd WORDS` for a site to its end."""
    command = [*COMMAND, "--config", str(folder), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, pass_fds=fds,
                          stdin=subprocess.DEVNULL)  # fmt: skip


def set_key(folder: Path, key: str, value: str) -> None:
    """Set a key of [dtsd] in a site's configuration."""
    ini = folder / "etc" / "dts.ini"
    text = re.sub(rf"(?m)^{key} = .*\n", "", ini.read_text())
    ini.write_text(text.replace("[dtsd]\n", f"[dtsd]\n{key} = {value}\n"))


def own_environment() -> dict[str, str]:
    """Return the environment without what would tell of sockets that were passed."""
    return {key: value for key, value in os.environ.items() if not key.startswith("LISTEN_")}
