"""One fixture gives each element in turn: a folder, a real SSH server, memory, a real S3 endpoint and a real daemon."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.element import StorageElement
from storage.file import FileElement
from storage.registry import make
from tests.daemons import Daemon, make_authority
from tests.services import S3Server, SshServer

KINDS = ("file", "sftp", "sftp-paramiko", "memory", "s3", "dts", "dts-tls")


@dataclass(frozen=True, slots=True)
class Settings:
    """An element's settings as a configuration would give them."""

    name: str
    type: str
    options: dict[str, str] = field(default_factory=dict)


def sftp_settings(server: SshServer, root: Path, **more: str) -> Settings:
    """Return the settings of an element on the SSH server."""
    options = {
        "host": server.host, "port": str(server.port), "user": server.user, "key_file": str(server.key),
        "root": str(root), "known_hosts": str(server.known_hosts), **more,
    }  # fmt: skip
    return Settings("far", "sftp", options)


def s3_settings(server: S3Server, folder: Path, **more: str) -> Settings:
    """Return the settings of an element on the S3 endpoint; the secrets go into private files."""
    options = {"url": f"s3://{server.bucket}/dts", "option_endpoint_url": server.endpoint}
    for key, secret in (("key_file", server.access_key), ("secret_file", server.secret_key)):
        path = folder / f"{key}-{uuid.uuid4().hex}"
        path.write_text(secret + "\n")
        path.chmod(0o600)
        options[key] = str(path)
    options["option_client_kwargs"] = json.dumps({"region_name": "us-east-1"})
    return Settings("cloud", "fsspec", {**options, **more})


def dts_settings(daemon: Daemon, name: str = "site", **more: str) -> Settings:
    """Return the settings of an element on a daemon."""
    return Settings(name, "dts", {"remote": daemon.name, **daemon.as_remote(), "patience": "10 s", **more})


@pytest.fixture(scope="session")
def dtsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on loopback."""
    daemon = Daemon(tmp_path_factory.mktemp("dtsd") / "site").start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def dtsd_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on loopback whose calls and data go over TLS."""
    folder = tmp_path_factory.mktemp("dtsd-tls")
    ca, certificate, key = make_authority(folder / "ca", ["127.0.0.1"])
    daemon = Daemon(
        folder / "site", settings={"data_tls": "yes"}, certificate=(certificate, key), ca_file=ca
    )  # fmt: skip
    yield daemon.start()
    daemon.stop()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Run the test on each kind of element."""
    name: str = request.param
    return name


@pytest.fixture
def element(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageElement]:
    """An empty element of each kind."""
    if kind == "file":
        (tmp_path / "element").mkdir()
        settings = Settings("near", "file", {"root": str(tmp_path / "element")})
    elif kind.startswith("sftp"):
        server: SshServer = request.getfixturevalue("sshd")
        settings = sftp_settings(server, server.root, transport="paramiko" if kind.endswith("paramiko") else "ssh")
    elif kind.startswith("dts"):
        daemon: Daemon = request.getfixturevalue("dtsd_tls" if kind == "dts-tls" else "dtsd")
        settings = dts_settings(daemon, folder=f"x{uuid.uuid4().hex}")
    elif kind == "s3":
        settings = s3_settings(request.getfixturevalue("s3"), tmp_path)
    else:
        settings = Settings("brief", "fsspec", {"url": f"memory://{uuid.uuid4().hex}"})
    made = make(settings)
    yield made
    made.close()


@pytest.fixture
def source(tmp_path: Path) -> FileElement:
    """An empty file element to send from."""
    (tmp_path / "source").mkdir()
    return FileElement("source", str(tmp_path / "source"))


Put = Callable[[StorageElement, str, bytes], None]


@pytest.fixture
def put() -> Put:
    """Write a file on an element by its own means."""

    def write(element: StorageElement, path: str, content: bytes) -> None:
        writer = element.create(path, len(content))
        try:
            writer.write(memoryview(content))
            writer.sync()
        finally:
            writer.close()

    return write
