"""Fixtures of all rooms: databases of both kinds, a real OpenSSH server, a real S3 endpoint."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dtscore.database import Database
from tests import services

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _no_outside_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the configuration of whoever runs the tests out of them."""
    monkeypatch.delenv("DTS_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[services.PostgresServer]:
    """One PostgreSQL server for the whole run, started by the first test that needs it."""
    server = services.PostgresServer()
    try:
        server.make_template()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SQLite file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    services.create_tables(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A SQLite database of this test alone, with all tables."""
    path = tmp_path / "dts.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres_server: services.PostgresServer) -> Iterator[str]:
    """A PostgreSQL database of this test alone, with all tables."""
    url = postgres_server.make_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """Run the test on both databases."""
    name: str = request.param
    return name


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest) -> str:
    """A database of this test alone with all tables, on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue("sqlite_url" if backend == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The open database of this test, on SQLite and on PostgreSQL."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def empty_database_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table, on SQLite and on PostgreSQL."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: services.PostgresServer = request.getfixturevalue("postgres_server")
    url = server.make_database(empty=True)
    yield url
    server.drop_database(url)


@pytest.fixture(scope="session")
def ssh_server() -> Iterator[services.SshServer]:
    """One OpenSSH server for the whole run."""
    server = services.start_sshd()
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def sshd(ssh_server: services.SshServer) -> services.SshServer:
    """The OpenSSH server with an empty folder of this test alone; running, even if the last test stopped it."""
    if not ssh_server.running:
        ssh_server.start()
    return ssh_server.with_root(ssh_server.folder / "files" / f"test-{next(_numbers)}")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[services.S3Server]:
    """One S3 endpoint for the whole run."""
    server = services.start_s3()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: services.S3Server) -> services.S3Server:
    """The S3 endpoint with an empty bucket of this test alone."""
    return s3_server.with_bucket(f"test-{next(_numbers)}")


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write a file below the test's folder, with the folders above it."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write
