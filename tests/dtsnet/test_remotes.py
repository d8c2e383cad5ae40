"""The daemons of other sites by name, and their addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtscore.config import load
from dtscore.errors import ConfigurationError, NotFoundError, StreamLostError
from dtsnet.remotes import address, remote
from dtsnet.rpc import Address, Remote

SECRET = "Jf8w-2kLq9Zx0Vb7Nm4Rt6Yp1Hs3Dc5Ag"


def site(folder: Path, text: str) -> Path:
    """Write a configuration, and a secret beside it."""
    (folder / "etc").mkdir()
    secret = folder / "etc" / "fnal.secret"
    secret.touch(0o600)
    secret.write_text(f"{SECRET}\n")
    path = folder / "etc" / "dts.ini"
    path.write_text(text)
    return path


@pytest.mark.parametrize("heading", ["remote fnal", "remote.fnal"])
def test_a_remote_by_name(tmp_path: Path, heading: str) -> None:
    """Its section says where it is and who we are; the secret is read from its file, and shown nowhere."""
    keys = "url = https://dts.fnal.gov:7740/RPC2\nuser = ctio\nsecret_file = etc/fnal.secret\ntimeout = 5 s\n"
    text = f"[{heading}]\n{keys}"
    config = load(site(tmp_path, text))
    found = address(config, "fnal")
    assert (found.host, found.port, found.path, found.is_tls) == ("dts.fnal.gov", 7740, "/RPC2", True)
    assert (found.user, found.secret, found.timeout, found.label) == ("ctio", SECRET.encode(), 5.0, "fnal")
    assert SECRET not in repr(found) + repr(config) + repr(config.rows)
    with pytest.raises(NotFoundError, match="fnel"):
        remote(config, "fnel")


@pytest.mark.parametrize(
    "text", ["[remote a]\nuser = x\n", "[remote a]\nurl = https://x\nsecret_file = s\n",
             "[remote a]\nurl = https://x\ncertificate_file = c\n", "[remote a]\nurl = https://x\nurls = 1\n"],
)  # fmt: skip
def test_sections_that_are_wrong(tmp_path: Path, text: str) -> None:
    """A remote without url, a secret without user, half a certificate, an unknown key."""
    with pytest.raises(ConfigurationError):
        load(site(tmp_path, text))


def test_a_secret_that_others_may_read(tmp_path: Path) -> None:
    """It is refused before anything is said to anybody."""
    config = load(site(tmp_path, "[remote a]\nurl = http://x\nuser = b\nsecret_file = etc/fnal.secret\n"))
    (tmp_path / "etc" / "fnal.secret").chmod(0o640)
    with pytest.raises(ConfigurationError, match="0640"):
        remote(config, "a")


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://a b", "http://x:99999/RPC2", "https://x:/", "x:7740"]
)
def test_urls_that_are_none(url: str) -> None:
    """They are refused when a call is made at the latest."""
    with pytest.raises((ConfigurationError, StreamLostError)) as caught:
        Remote(Address(url, timeout=1)).call("ping")
    assert isinstance(caught.value, ConfigurationError)


def test_parts_of_an_address() -> None:
    """Port and path have defaults; IPv6 stands in brackets."""
    found = Address("http://[::1]")
    assert (found.host, found.port, found.path, found.is_tls) == ("::1", 7740, "/RPC2", False)


def test_nobody_there() -> None:
    """A port on which nobody listens is a lost stream that names where."""
    with pytest.raises(StreamLostError, match="there"):
        Remote(Address("http://127.0.0.1:1/RPC2", label="there", timeout=5)).call("ping")
