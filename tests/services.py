"""Real servers for the tests: PostgreSQL, OpenSSH and an S3 endpoint, each on loopback or a socket of its own.

`script/install-services` installs what is missing; a test never skips because a server is absent.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

import accounting.models
import catalog.models
import imagebuilder.models
import reqdb.models
from dtscore.database import Database, metadata

ROOMS_WITH_TABLES = (reqdb.models, catalog.models, accounting.models, imagebuilder.models)
_TEMPLATE = "dts_template"
_START_SECONDS = 30.0


class ServiceMissingError(RuntimeError):
    """A server program that the tests need is not installed."""


def find_program(name: str, *folders: str) -> str:
    """Return the path of a server's program; ServiceMissingError says how to install it."""
    places = [str(path) for folder in folders for path in sorted(Path("/").glob(folder.lstrip("/")), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise ServiceMissingError(f"{name} is not installed; run: script/install-services")
    return found


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on.

    Below the range from which the system hands ports out itself: while a server of ours is stopped, nobody is given
    its port.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def create_tables(url: str) -> None:
    """Make all tables and views of all rooms in an empty database, from the models and not by migrations."""
    database = Database(url)
    with database.engine().begin() as connection:
        metadata.create_all(connection)
    database.close()


def _wait(what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def stop_process(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Ask one of our own child processes to end, and make it end after ten seconds."""
    process.send_signal(number)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class PostgresServer:
    """A PostgreSQL cluster in a folder of its own, reached through a unix socket.

    It does not wait for the disk (`fsync=off`): the tests that prove durability start one with `durable=True`.
    """

    def __init__(self, *, durable: bool = False, settings: Sequence[str] = ()) -> None:
        """Make the cluster's folder under a short path (a socket's path has at most 107 bytes) and start the server."""
        self._numbers = itertools.count(1)
        self._binaries = Path(find_program("initdb", "/usr/lib/postgresql/*/bin")).resolve().parent
        self.folder = Path(tempfile.mkdtemp(prefix="dts-pg-", dir="/tmp"))
        self._as_user: Sequence[str] = ()
        self.user = getpass.getuser()
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self.user = "postgres"
            account = pwd.getpwnam(self.user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            ids = (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups")
            self._as_user = (find_program("setpriv"), *ids, "--")
        quick = [] if durable else ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        self._settings = [*quick, *settings]
        self._initialize()
        self.process = self.start()

    def _initialize(self) -> None:
        command = [*self._as_user, str(self._binaries / "initdb"), "-D", str(self.folder / "data"), "--no-sync"]
        command += ["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-U", self.user, "--no-instructions"]
        done = subprocess.run(command, check=False, capture_output=True, cwd="/", text=True)
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server on its folder and wait until it answers (also after `stop`, for tests of an outage)."""
        settings = [*self._settings, "listen_addresses=", "max_connections=200", "shared_buffers=128MB", "timezone=UTC"]
        command = [*self._as_user, str(self._binaries / "postgres"), "-D", str(self.folder / "data")]
        command += ["-k", str(self.folder), *(word for setting in settings for word in ("-c", setting))]
        log = self.folder / "log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd="/", start_new_session=True)
        _wait("PostgreSQL", self._is_ready, self.process, log)
        return self.process

    def _is_ready(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def stop(self) -> None:
        """Stop the server at once (immediate clients' errors), keeping its data."""
        stop_process(self.process, signal.SIGINT)

    def remove(self) -> None:
        """Stop the server and delete its data."""
        stop_process(self.process, signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, name: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """Return an autocommit connection of the administrator to one database."""
        return psycopg.connect(host=str(self.folder), user=self.user, dbname=name, autocommit=True, connect_timeout=5)

    def url(self, name: str) -> str:
        """Return the SQLAlchemy URL of one database."""
        return f"postgresql+psycopg://{self.user}@/{name}?host={self.folder}"

    def _execute(self, statement: str) -> None:
        with self.connect() as connection:
            connection.execute(statement.encode())

    def make_template(self) -> None:
        """Make the database with all tables that `make_database` copies."""
        self._execute(f"CREATE DATABASE {_TEMPLATE}")
        create_tables(self.url(_TEMPLATE))

    def make_database(self, *, empty: bool = False) -> str:
        """Return the URL of a new database, with all tables unless `empty`."""
        name = f"test_{next(self._numbers)}"
        source = "template0" if empty else _TEMPLATE
        self._execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY file_copy")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database that `make_database` made, whoever is still connected."""
        name = url.rpartition("/")[0].rpartition("/")[2] if "?" not in url else url.partition("?")[0].rpartition("/")[2]
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


_SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
Subsystem sftp internal-sftp
MaxStartups 200
MaxSessions 200
LogLevel VERBOSE
"""


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running OpenSSH server: where it is, whom it lets in, and the folder for this test's files."""

    host: str
    port: int
    user: str
    root: Path
    key: Path
    known_hosts: Path
    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    def start(self) -> None:
        """Start the server and wait until it answers (also after `stop`, for tests of an outage)."""
        log = self.folder / "log"
        command = [find_program("sshd"), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with log.open("ab") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        self.running[:] = [process]
        _wait("sshd", lambda: _answers(self.port), process, log)

    def stop(self) -> None:
        """Stop the server and every connection that it serves."""
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # the group that we made for it: the listener and its sessions
            process.wait(timeout=10)
        self.running.clear()

    def with_root(self, root: Path) -> SshServer:
        """Return the same server with another folder for files."""
        root.mkdir(parents=True, exist_ok=True)
        return replace(self, root=root)


def start_sshd() -> SshServer:
    """Make keys, known hosts and configuration in a new folder, and start an OpenSSH server on loopback."""
    folder = Path(tempfile.mkdtemp(prefix="dts-ssh-", dir="/tmp"))
    if os.geteuid() == 0:  # where Debian's sshd drops its privileges
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in ("host_key", "user_key"):
        make_key(folder / name)
    port = free_port()
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    host_key = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key[0]} {host_key[1]}\n")
    (folder / "sshd_config").write_text(_SSHD_CONFIG.format(port=port, folder=folder))
    server = SshServer(
        "127.0.0.1", port, getpass.getuser(), folder / "files", folder / "user_key", folder / "known_hosts", folder
    )
    server.root.mkdir()
    server.start()
    return server


def make_key(path: Path) -> None:
    """Make an Ed25519 key pair without a passphrase: `path` (mode 0600) and `path`.pub."""
    command = [find_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 endpoint with a bucket for this test and the credentials that it takes."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes] = field(repr=False)
    folder: Path = field(repr=False)

    def with_bucket(self, bucket: str) -> S3Server:
        """Make another bucket and return the same server with it."""
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"}
        request = urllib.request.Request(f"{self.endpoint}/{bucket}", method="PUT", headers=headers)
        with urllib.request.urlopen(request, timeout=10):
            return replace(self, bucket=bucket)

    def stop(self) -> None:
        """Stop the server; what it held is gone."""
        stop_process(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


def start_s3() -> S3Server:
    """Start a moto server, a process of its own that speaks S3 over HTTP on loopback."""
    folder = Path(tempfile.mkdtemp(prefix="dts-s3-", dir="/tmp"))
    port = free_port()
    log = folder / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    _wait("the S3 endpoint", lambda: _answers(port), process, log)
    return S3Server(f"http://127.0.0.1:{port}", "", "test", "test", process, folder)
