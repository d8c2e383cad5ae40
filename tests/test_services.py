"""The servers that all other tests stand on."""

from __future__ import annotations

import urllib.request

import paramiko
import pytest
import sqlalchemy as sa

from dtscore.database import Database, metadata
from tests import services


@pytest.mark.parametrize("number", range(2))
def test_each_test_has_a_database_of_its_own(database: Database, number: int) -> None:
    """All tables are there, and nothing of another test is left."""
    with database.write() as connection:
        names = set(sa.inspect(connection).get_table_names())
        assert names >= set(metadata.tables)
        assert "left_over" not in names
        connection.exec_driver_sql(f"CREATE TABLE left_over AS SELECT {number} AS n")


def test_an_empty_database_is_empty(empty_database_url: str) -> None:
    """Migrations start from nothing."""
    database = Database(empty_database_url)
    with database.read() as connection:
        assert sa.inspect(connection).get_table_names() == []
    database.close()


def test_sshd_lets_our_key_in(sshd: services.SshServer) -> None:
    """The OpenSSH server knows our key, we know its host key, and its SFTP writes into the test's folder."""
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(sshd.known_hosts))
        client.connect(sshd.host, sshd.port, sshd.user, key_filename=str(sshd.key), allow_agent=False)
        with client.open_sftp() as sftp, sftp.open(f"{sshd.root}/a", "wb") as stream:
            stream.write(b"hello")
    assert (sshd.root / "a").read_bytes() == b"hello"


def test_sshd_comes_back_after_an_outage(sshd: services.SshServer) -> None:
    """A test may stop the server and start it again on the same port."""
    sshd.stop()
    assert not services._answers(sshd.port)
    sshd.start()
    assert services._answers(sshd.port)


def test_s3_has_an_empty_bucket(s3: services.S3Server) -> None:
    """The endpoint answers over HTTP and the bucket exists."""
    with urllib.request.urlopen(f"{s3.endpoint}/{s3.bucket}", timeout=10) as answer:
        assert b"<Contents>" not in answer.read()
