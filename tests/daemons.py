"""Real daemons for the tests: each a `dtsd` process with a site of its own, killed and started again at will."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dtscore.errors import DtsError
from dtsnet.rpc import Address, Remote
from tests.services import free_port

HOME = Path(__file__).parents[1]
ROLES = ("read", "transfer", "operate", "admin")
SECRETS = {role: secrets.token_hex(32) for role in ROLES}
_START_SECONDS = 60.0


@dataclass
class Daemon:
    """A site with a daemon; `namespace` is the network namespace that it runs in, `host` its address there."""

    folder: Path
    name: str = "far"
    host: str = "127.0.0.1"
    namespace: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    remotes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    certificate: tuple[Path, Path] | None = None
    ca_file: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    ports: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        """Make the site's folder and its files."""
        self.ports = (free_port(), free_port(), free_port())
        self.root.mkdir(parents=True)
        users = self.folder / "etc" / "dtsd.users"
        users.parent.mkdir(parents=True, exist_ok=True)
        users.touch(0o600)
        users.write_text("".join(f"{role} {role} {secret}\n" for role, secret in SECRETS.items()))
        self.secret_file("transfer")
        self.write()

    @property
    def root(self) -> Path:
        """The folder that callers see."""
        return self.folder / "data"

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "etc" / "dts.ini"

    @property
    def url(self) -> str:
        """Where the daemon answers."""
        return f"http{'s' if self.certificate else ''}://{self.host}:{self.ports[0]}/RPC2"

    def secret_file(self, role: str) -> Path:
        """Write the secret of the user of a role into a file, and return it."""
        path = self.folder / "etc" / f"{role}.secret"
        path.touch(0o600)
        path.write_text(SECRETS[role] + "\n")
        return path

    def write(self) -> None:
        """Write the configuration."""
        mine = {
            "host": self.host, "port": str(self.ports[0]), "data_port": str(self.ports[1]),
            "monitor_port": str(self.ports[2]), "root": str(self.root), "users_file": "etc/dtsd.users",
            "grace": "2 s", **self.settings,
        }  # fmt: skip
        if self.certificate is not None:
            mine |= {"certificate_file": str(self.certificate[0]), "key_file": str(self.certificate[1])}
        sections = {"site": {"name": self.name}, "dtsd": mine, **{f"remote.{k}": v for k, v in self.remotes.items()}}
        lines = [f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()) for name, keys in sections.items()]
        self.config.write_text("\n".join(lines))

    def as_remote(self, role: str = "transfer") -> dict[str, str]:
        """Return what a section [remote NAME] of another site says of this one."""
        found = {"url": self.url, "user": role, "secret_file": str(self.secret_file(role)), "timeout": "20 s"}
        return found | ({"ca_file": str(self.ca_file)} if self.ca_file else {})

    def remote(self, role: str = "transfer") -> Remote:
        """Return the way to the daemon as a user of a role."""
        return Remote(Address(self.url, role, SECRETS[role].encode(), self.ca_file, timeout=30.0, label=self.name))

    def start(self) -> Daemon:
        """Start the daemon and wait until it answers."""
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        command = [*inside, sys.executable, "-m", "dtsd.server.cli", "--config", str(self.config), "run"]
        with (self.folder / "dtsd.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=HOME)
        if not self.namespace:
            self.wait()
        return self

    def wait(self) -> None:
        """Wait until the daemon answers calls from here."""
        remote, deadline = self.remote(), time.monotonic() + _START_SECONDS
        while True:
            try:
                remote.call("ping", timeout=5.0)
                return
            except DtsError as error:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"dtsd did not start: {error.message}\n{self.log()}") from error
                time.sleep(0.02)
            finally:
                remote.close()

    def kill(self) -> None:
        """Kill the daemon with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the daemon as an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log(self) -> str:
        """Return the end of what the daemon logged."""
        path = self.folder / "dtsd.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def left(self) -> list[str]:
        """Return the names of files below the root that are hidden: temporary ones and journals."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob(".*") if path.is_file())


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def make_authority(folder: Path, names: Sequence[str]) -> tuple[Path, Path, Path]:
    """Make a certificate authority and one server certificate for names and addresses: CA, certificate, key."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key, crt, key = (folder / name for name in ("ca.crt", "ca.key", "dtsd.crt", "dtsd.key"))

    def run(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, cwd=folder)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("openssl", "req", "-x509", *curve, "-keyout", str(ca_key), "-out", str(ca), "-days", "3", "-subj", "/CN=tests")
    run("openssl", "req", *curve, "-keyout", str(key), "-out", "dtsd.csr", "-subj", f"/CN={names[0]}")
    kinds = [f"{'IP' if name.replace('.', '').isdigit() else 'DNS'}:{name}" for name in names]
    (folder / "names").write_text(f"subjectAltName={','.join(kinds)}\nbasicConstraints=CA:FALSE\n")
    run("openssl", "x509", "-req", "-in", "dtsd.csr", "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial",
        "-out", str(crt), "-days", "3", "-extfile", "names")  # fmt: skip
    os.chmod(key, 0o600)
    return ca, crt, key
