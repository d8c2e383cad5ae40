"""A small site for tests: a configuration, a database and storage elements in a folder of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents import runner
from catalog import store as catalog
from catalog.records import Entry
from dtscore.config import Config, load
from dtscore.database import Database
from reqdb import store
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from tests.services import S3Server, SshServer

QUICK: Mapping[str, str] = {
    "agents.poll_interval": "0.3 s",
    "agents.heartbeat": "0.3 s",
    "agents.lease": "3 s",
    "agents.grace": "5 s",
    "retry.base": "0.1 s",
    "retry.longest": "0.5 s",
    "retry.outage_longest": "0.5 s",
    "retry.attempts": "3",
    "timeout.base": "60 s",
}


@dataclass
class Site:
    """The site of one test; `local`, `archive` and `vault` are file elements."""

    folder: Path
    url: str
    elements: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the folders and write the configuration."""
        for name in ("local", "archive", "vault"):
            (self.folder / name).mkdir(parents=True)
            self.elements[name] = {"type": "file", "root": str(self.folder / name)}
        self.settings = {**QUICK, **self.settings}
        self.write()

    @property
    def path(self) -> Path:
        """The configuration file."""
        return self.folder / "etc" / "dts.ini"

    def write(self, **settings: str) -> None:
        """Write dts.ini anew; keyword arguments change settings, as in agents__lease='1 s'."""
        self.settings.update({key.replace("__", "."): value for key, value in settings.items()})
        sections: dict[str, dict[str, str]] = {"database": {"url": self.url}}
        for name, value in self.settings.items():
            section, _, key = name.rpartition(".")
            sections.setdefault(section, {})[key] = value
        sections.update({f"se.{name}": options for name, options in self.elements.items()})
        lines = [f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()) for name, keys in sections.items()]
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("\n".join(lines))

    def add(self, name: str, **options: str) -> None:
        """Add a storage element and write the configuration; a file element's folder is made."""
        if options.setdefault("type", "file") == "file":
            options.setdefault("root", str(self.folder / name))
            Path(options["root"]).mkdir(exist_ok=True)
        self.elements[name] = options
        self.write()

    def add_sftp(self, name: str, server: SshServer, **options: str) -> None:
        """Add an element on a real SSH server."""
        known = {
            "type": "sftp", "host": server.host, "port": str(server.port), "user": server.user,
            "key_file": str(server.key), "known_hosts": str(server.known_hosts), "root": str(server.root),
        }  # fmt: skip
        self.add(name, **{**known, **options})

    def add_s3(self, name: str, server: S3Server) -> None:
        """Add an element on a real S3 endpoint."""
        secrets = {}
        for key, secret in (("key_file", server.access_key), ("secret_file", server.secret_key)):
            path = self.folder / f"{name}.{key}"
            path.write_text(secret)
            path.chmod(0o600)
            secrets[key] = str(path)
        self.add(
            name, type="fsspec", url=f"s3://{server.bucket}/dts", option_endpoint_url=server.endpoint,
            option_client_kwargs='{"region_name": "us-east-1"}', **secrets,
        )  # fmt: skip

    @property
    def config(self) -> Config:
        """The configuration as the agents read it."""
        return load(self.path)

    def database(self) -> Database:
        """A connection of the test's own."""
        return Database(self.config.database.url)

    def make(self, name: str, content: bytes, element: str = "local") -> Path:
        """Put a file on a file element."""
        path = self.folder / element / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def submit(self, *operations: OperationSpec, **attributes: Any) -> int:
        """Submit a request; return its id."""
        spec = RequestSpec(tuple(operations), **attributes)
        database = self.database()
        try:
            return database.run(lambda connection: store.submit(connection, spec, owner="test")).id
        finally:
            database.close()

    def once(self, *names: str) -> Counter[str]:
        """Let agents do all work there is now."""
        return runner.once(self.config, names or ("transfer", "register", "remove", "verify"))

    def settle(self, request_id: int, *names: str, seconds: float = 20.0) -> str:
        """Run agents again and again, as cron does, until a request has ended; return its state."""
        deadline = time.monotonic() + seconds
        while (state := self.state(request_id)) not in ("Done", "Failed", "Cancelled"):
            assert time.monotonic() < deadline, f"{state} after {seconds} s: {self.rows('SELECT * FROM files')}"
            self.once(*names)
            time.sleep(0.1)
        return state

    def replicas(self, lfn: str) -> dict[str, str]:
        """Return the states of a file's replicas by element."""
        entry = self.entry(lfn)
        return {replica.element: replica.state for replica in entry.replicas} if entry else {}

    def failure(self) -> tuple[str, str, int]:
        """Return error class, error and attempts of the only file that failed."""
        (row,) = self.rows("SELECT error_class, error, attempts FROM files WHERE state = 'Failed'")
        return row[0], row[1], row[2]

    def dying(self, module: str, name: str, *agents: str) -> None:
        """Run agents once in a process that is killed (SIGKILL) at its first call of a function of a module."""
        program = (
            "import importlib, os, signal, sys\n"
            "from pathlib import Path\n"
            "from agents import runner\n"
            "from dtscore.config import load\n"
            f"module = importlib.import_module({module!r})\n"
            f"setattr(module, {name!r}, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))\n"
            f"runner.once(load(Path({str(self.path)!r})), {agents!r})\n"
        )
        done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    def rows(self, query: str) -> list[Any]:
        """Return the rows of a plain SQL query."""
        database = self.database()
        try:
            with database.read() as connection:
                return list(connection.exec_driver_sql(query).all())
        finally:
            database.close()

    def state(self, request_id: int) -> str:
        """Return a request's state."""
        found: str = self.rows(f"SELECT state FROM requests WHERE id = {int(request_id)}")[0][0]
        return found

    def entry(self, lfn: str) -> Entry | None:
        """Return what the catalog knows of a file."""
        database = self.database()
        try:
            with database.read() as connection:
                return catalog.lookup(connection, [lfn]).get(lfn)
        finally:
            database.close()

    def start(self, *names: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start `dts-agent run` as a process of its own; its log goes to agent.log."""
        command = [sys.executable, "-m", "agents.cli", "run", "--config", str(self.path), *names]
        with (self.folder / "agent.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})})

    def wait(self, request_id: int, *states: str, seconds: float = 30.0) -> str:
        """Wait until a request has one of these states (Done, Failed or Cancelled if none is given); return it."""
        wanted = states or ("Done", "Failed", "Cancelled")
        until(lambda: self.state(request_id) in wanted, seconds, lambda: self.log()[-3000:])
        return self.state(request_id)

    def log(self) -> str:
        """Return what the agents logged."""
        path = self.folder / "agent.log"
        return path.read_text() if path.exists() else ""


def until(condition: Callable[[], bool], seconds: float, story: Callable[[], str] = str) -> None:
    """Wait until a condition holds; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen within {seconds} s\n{story()}")
        time.sleep(0.05)


def transfer(files: Sequence[FileSpec], *targets: str, source: str | None = "local", **options: str) -> OperationSpec:
    """Return a transfer operation."""
    pairs = tuple(sorted(options.items()))
    return OperationSpec("transfer", tuple(files), source, targets or ("archive",), None, pairs)


def operation(kind: str, lfns: Sequence[str], *targets: str, **options: str) -> OperationSpec:
    """Return another operation on files given by name; `remove_last_copy` stands for remove-last-copy."""
    pairs = tuple(sorted((key.replace("_", "-"), value) for key, value in options.items()))
    return OperationSpec(kind, tuple(FileSpec(lfn) for lfn in lfns), None, targets, None, pairs)


def put(site: Site, *names: str, content: bytes = b"pixels") -> list[FileSpec]:
    """Make files on `local` and return their specs: LFN /night/NAME."""
    for name in names:
        site.make(f"night/{name}", content + name.encode())
    return [FileSpec(f"/night/{name}", f"night/{name}") for name in names]
