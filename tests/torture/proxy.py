"""A TCP proxy that does to a connection what bad networks do: flip a bit, go silent, or crawl."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.services import SshServer

_BLOCK = 32_768
_FIRST_BYTES = 3_000
"""What either side of an SSH connection says before all is encrypted: its version, its algorithms, its keys."""


class Proxy:
    """Passes connections on to a port of this host; `mode` is pass, silent or slow."""

    def __init__(self, port: int, seed: int = 0) -> None:
        """Listen on a port of its own."""
        self.mode = "pass"
        self.flip_every = 0
        """Mean number of bytes, of both directions together, between two flipped bits; 0: none."""
        self.flip_first = 0.0
        """The share of connections that are hit within their first bytes, while versions and keys are agreed upon."""
        self.flips = 0
        self.first_flips = 0
        """Those of the flips that came so early."""
        self._goal = port
        self._chance = random.Random(seed)
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def element(self, server: SshServer, folder: Path) -> dict[str, str]:
        """Return the options of an sftp element whose connections go through here; known hosts go to `folder`."""
        known = folder / f"known_hosts.{self.port}"
        known.write_text(server.known_hosts.read_text().replace(f":{server.port} ", f":{self.port} "))
        return {
            "type": "sftp", "host": server.host, "port": str(self.port), "user": server.user, "root": str(server.root),
            "key_file": str(server.key), "known_hosts": str(known), "idle_timeout": "3", "connect_timeout": "3",
        }  # fmt: skip

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._goal), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._sockets += [client, server]
            for source, goal, way in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pass_on, args=(source, goal, way), daemon=True).start()

    def _pass_on(self, source: socket.socket, goal: socket.socket, _way: str) -> None:
        passed = 0
        early = self._chance.randrange(_FIRST_BYTES) if self._chance.random() < self.flip_first / 2 else None
        with contextlib.suppress(OSError, ValueError):
            while True:
                while self.mode == "silent":
                    time.sleep(0.02)
                if not select.select([source], [], [], 0.2)[0]:
                    continue
                if self.mode == "silent":
                    continue
                block = source.recv(2048 if self.mode == "slow" else _BLOCK)
                if not block:
                    break
                if self.mode == "slow":
                    time.sleep(0.1)
                if early is not None and passed <= early < passed + len(block):
                    self.first_flips += 1
                    block = self._flipped(block, early - passed)
                else:
                    block = self._harmed(block)
                goal.sendall(block)
                passed += len(block)
        for one in (source, goal):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _harmed(self, block: bytes) -> bytes:
        if not self.flip_every or self._chance.random() > len(block) / self.flip_every:
            return block
        return self._flipped(block, self._chance.randrange(len(block)))

    def _flipped(self, block: bytes, position: int) -> bytes:
        self.flips += 1
        changed = bytearray(block)
        changed[position] ^= 1 << self._chance.randrange(8)
        return bytes(changed)
