"""A daemon in this process, and raw requests to it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dtscore.config import load
from dtsd.server.daemon import Daemon
from dtsd.server.users import add_user
from dtsd.site import create_site
from dtsnet.credentials import ROLES, Role, sign
from dtsnet.rpc import Address, Remote
from dtsnet.xmlrpc import Value, write_call

FREE_PORTS = {("dtsd", "port"): "0", ("dtsd", "data_port"): "0", ("dtsd", "monitor_port"): "0"}


@dataclass(frozen=True)
class Running:
    """A daemon that serves, the folder of its site, and the secret of one user of each role, named as the role."""

    daemon: Daemon
    folder: Path
    secrets: Mapping[str, bytes]

    @property
    def root(self) -> Path:
        """What callers see."""
        return self.folder / "data"

    def address(self, role: Role = "admin", *, timeout: float = 60.0) -> Address:
        """Where it is, for the user with a role."""
        return Address(f"http://127.0.0.1:{self.daemon.port}/RPC2", role, self.secrets[role], timeout=timeout)

    def remote(self, role: Role = "admin") -> Remote:
        """Call as the user with a role."""
        return Remote(self.address(role))

    def connect(self) -> socket.socket:
        """Return a plain connection."""
        return socket.create_connection(("127.0.0.1", self.daemon.port), timeout=30)

    def request(self, body: bytes, **changed: str) -> bytes:
        """Return a request signed by admin; `changed` replaces headers by name in lower case, '' leaves one out."""
        headers = {"Host": "test", "Content-Type": "text/xml", "Content-Length": str(len(body))}
        headers |= sign("admin", self.secrets["admin"], body).headers()
        for name, value in changed.items():
            known = name.lower().replace("_", "-")
            headers = {key: one for key, one in headers.items() if key.lower() != known}
            if value:
                headers[known] = value
        return write_request(headers, body)

    def call(self, method: str, *arguments: Value, **changed: str) -> bytes:
        """Make a call as admin by hand, and return the whole answer."""
        return self.say(self.request(write_call(method, arguments), **changed))

    def say(self, raw: bytes) -> bytes:
        """Send bytes, say that nothing more comes, and return all that is answered."""
        with self.connect() as connection:
            try:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has answered already
            return receive_all(connection)


def write_request(headers: Mapping[str, str], body: bytes, first: str = "POST /RPC2 HTTP/1.1") -> bytes:
    """Return a request as bytes."""
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + body


def receive_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes or breaks off."""
    data = bytearray()
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return bytes(data)


def status_of(answer: bytes) -> int:
    """Return the HTTP status of an answer, 0 where there was none."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Running]:
    """Make a site and serve it; `settings` are keys of [dtsd]."""
    site = create_site(folder)
    secrets: dict[str, bytes] = {role: _secret(folder, role) for role in ROLES}
    flags = {**FREE_PORTS, **{("dtsd", key): value for key, value in settings.items()}}
    daemon = Daemon(load(site.config, flags))
    thread = threading.Thread(target=daemon.run, name="daemon")
    thread.start()
    try:
        yield Running(daemon, folder, secrets)
    finally:
        daemon.stop()
        thread.join(60)
        assert not thread.is_alive()


def _secret(folder: Path, role: Role) -> bytes:
    if role == "admin":
        return (folder / "etc" / "dtsd.secret").read_bytes().strip()
    return add_user(folder / "etc" / "dtsd.users", role, role).encode()


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
