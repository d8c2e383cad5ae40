"""TLS: off this host nothing goes without it, and a client certificate says who somebody is."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dtscore import logging
from dtscore.config import load
from dtscore.errors import ConfigurationError, CredentialsError, PermissionRefusedError, StreamLostError
from dtsd.server.daemon import Daemon
from dtsd.server.looking import finding
from dtsd.server.tls import is_loopback, make_certificate, make_context
from dtsd.server.users import add_user
from dtsd.site import create_site
from dtsnet.rpc import Address, Remote
from tests.dtsd.server.running import FREE_PORTS, Running, receive_all, running

ANY = "0.0.0.0"  # noqa: S104  # what is tested is that TLS is required for it


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A daemon's certificate, and two of a client: one that the daemon trusts, and one that it does not."""
    folder = tmp_path_factory.mktemp("keys")
    for name, hosts in (
        ("dtsd", ["localhost", "127.0.0.1"]),
        ("cam", ["cam"]),
        ("admin", ["admin"]),
        ("evil", ["admin"]),
    ):
        make_certificate(folder / f"{name}.crt", folder / f"{name}.key", hosts, 30)
    (folder / "clients.crt").write_bytes((folder / "cam.crt").read_bytes() + (folder / "admin.crt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def served(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon that speaks TLS on all addresses and trusts client certificates; cam has no secret."""
    folder: Path = tmp_path_factory.mktemp("tls")
    logging.set_up("error", "console", folder / "log")
    settings = {"host": ANY, "certificate_file": str(keys / "dtsd.crt"), "key_file": str(keys / "dtsd.key"),
                "client_ca": str(keys / "clients.crt")}  # fmt: skip
    with running(folder / "site", **settings) as one:
        add_user(one.folder / "etc" / "dtsd.users", "cam", "transfer", certified=True)
        yield one


def secured(served: Running, keys: Path, host: str = "127.0.0.1") -> Address:
    """Return the daemon's address by https."""
    url = f"https://{host}:{served.daemon.port}/RPC2"
    return replace(served.address(), url=url, ca_file=keys / "dtsd.crt")


def test_a_signed_call_over_tls(served: Running, keys: Path) -> None:
    """By name and by address, many times on one connection."""
    for host in ("127.0.0.1", "localhost"):
        remote = Remote(secured(served, keys, host))
        assert [remote.call("ping") for _ in range(20)] == ["pong"] * 20
        remote.close()


def test_a_daemon_that_nobody_vouches_for(served: Running, keys: Path) -> None:
    """Another certificate, another name, and the system's authorities: the caller says nothing to it."""
    for address in (
        replace(secured(served, keys), ca_file=keys / "evil.crt"), replace(secured(served, keys), ca_file=None),
        secured(served, keys, "127.0.0.2"),
    ):  # fmt: skip
        with pytest.raises(CredentialsError, match="certificate"):
            Remote(address).call("ping")


def certified(served: Running, keys: Path, name: str) -> Remote:
    """Call with a client certificate and no signature."""
    address = secured(served, keys)
    return Remote(
        Address(
            address.url, ca_file=address.ca_file, certificate_file=keys / f"{name}.crt", key_file=keys / f"{name}.key"
        )
    )


def test_a_client_certificate(served: Running, keys: Path) -> None:
    """Its CN is the user, with that user's role; one that nobody vouches for is not let in."""
    cam = certified(served, keys, "cam")
    found = cam.call("whoami")
    assert isinstance(found, dict)
    assert (found["user"], found["role"]) == ("cam", "transfer")
    with pytest.raises(PermissionRefusedError):
        cam.call("shutdown")
    assert cam.call("mkdir", "by-cam") is True
    with pytest.raises((StreamLostError, CredentialsError)):
        certified(served, keys, "evil").call("ping")
    address = secured(served, keys)
    with pytest.raises(CredentialsError):
        Remote(Address(address.url, ca_file=address.ca_file)).call("ping")


def test_one_who_has_no_secret_cannot_sign(served: Running, keys: Path) -> None:
    """Neither with an empty secret nor with the word that stands for it."""
    for secret in (b"certificate", b"\0"):
        with pytest.raises(CredentialsError, match="user or secret"):
            Remote(replace(secured(served, keys), user="cam", secret=secret)).call("ping")


def test_plain_speech_on_a_port_for_tls(served: Running) -> None:
    """It is not answered in the clear."""
    with served.connect() as connection:
        connection.sendall(b"POST /RPC2 HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert b"HTTP" not in receive_all(connection)
    with pytest.raises(StreamLostError):
        Remote(served.address()).call("ping")


def test_half_a_handshake(served: Running, keys: Path) -> None:
    """Connections that never end their handshake do not keep others out."""
    silent = [served.connect() for _ in range(40)]
    for connection in silent:
        connection.sendall(b"\x16\x03\x01")
    assert Remote(secured(served, keys)).call("ping") == "pong"
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("host", [ANY, "::", "192.0.2.1", "127.0.0.1", "localhost", "::1"])
def test_what_is_loopback(tmp_path: Path, host: str) -> None:
    """Off loopback a certificate is needed, and so is a key that only we can read."""
    site = create_site(tmp_path / "site")
    config = load(site.config, {**FREE_PORTS, ("dtsd", "host"): host})
    if is_loopback(host):
        assert host in ("127.0.0.1", "localhost", "::1")
        assert make_context(config.dtsd) is None
        return
    with pytest.raises(ConfigurationError, match="not loopback"):
        Daemon(config)


def test_a_key_that_others_may_read(tmp_path: Path, keys: Path) -> None:
    """It is refused, and a missing one too."""
    key = tmp_path / "open.key"
    key.write_bytes((keys / "dtsd.key").read_bytes())
    key.chmod(0o644)
    site = create_site(tmp_path / "site")
    flags = {**FREE_PORTS, ("dtsd", "certificate_file"): str(keys / "dtsd.crt"), ("dtsd", "key_file"): str(key)}
    with pytest.raises(ConfigurationError, match="0644"):
        Daemon(load(site.config, flags))
    key.unlink()
    with pytest.raises(ConfigurationError, match="key_file"):
        Daemon(load(site.config, flags))


def test_the_certificate_is_made_once(keys: Path) -> None:
    """OpenSSL reads it, its key is ours alone, and it is not overwritten."""
    text = subprocess.run(["openssl", "x509", "-in", str(keys / "dtsd.crt"), "-noout", "-text"], check=True,
                          capture_output=True, text=True).stdout  # fmt: skip
    assert "DNS:localhost" in text
    assert "IP Address:127.0.0.1" in text
    assert (keys / "dtsd.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigurationError, match="exist"):
        make_certificate(keys / "dtsd.crt", keys / "dtsd.key", ["x"], 1)


def test_the_doctor_asks_the_daemon(served: Running, tmp_path: Path) -> None:
    """It says that a daemon answers, that none does, and why one cannot start."""
    state, sentence, _ = finding(load(served.folder, {("dtsd", "port"): str(served.daemon.port), **{
        ("dtsd", key): str(getattr(served.daemon.site.config.dtsd, key))
        for key in ("host", "certificate_file", "key_file", "client_ca")
    }}))  # fmt: skip
    assert (state, "answers" in sentence) == ("ok", True), sentence
    site = create_site(tmp_path / "site")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    assert finding(load(site.config, {("dtsd", "port"): port}))[:2] == ("warn", f"no dtsd answers on 127.0.0.1:{port}")
    (site.folder / "etc" / "dtsd.users").chmod(0o644)
    assert "cannot start" in finding(load(site.config))[1]
