"""Secrets, proofs and allow lists: what is weak is refused before anything listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtscore.errors import ConfigurationError
from imagebuilder import auth
from imagebuilder.auth import Secret
from imagebuilder.wire import WireError


def _secret_file(tmp_path: Path, content: str, mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "content", ["", "\n", "short", "x" * 40, "password12345678", "ChangeMe-ChangeMe!", "0123456789abcdef"]
)
def test_an_empty_short_or_default_secret_is_refused(tmp_path: Path, content: str) -> None:
    """A secret that could be guessed is a mistake of the configuration, with a command that makes a good one."""
    with pytest.raises(ConfigurationError) as caught:
        auth.load_secret(_secret_file(tmp_path, content))
    assert "urandom" in caught.value.hint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o700])
def test_a_secret_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Only modes 0600 and 0400 keep a secret."""
    with pytest.raises(ConfigurationError, match="mode"):
        auth.load_secret(_secret_file(tmp_path, "kX9-very.good/key7", mode))


def test_a_good_secret_is_never_shown(tmp_path: Path) -> None:
    """It is loaded without its line break and stays out of repr."""
    secret = auth.load_secret(_secret_file(tmp_path, "kX9-very.good/key7\n"))
    assert secret.value == b"kX9-very.good/key7"
    assert "kX9" not in repr(secret)


def test_a_proof_counts_for_one_side_of_one_conversation_only() -> None:
    """Another role, nonce, camera, PAN or secret needs another proof: none can be replayed or mirrored."""
    secret, said = Secret(b"kX9-very.good/key7"), ("a" * 64, "b" * 64, "decam", "pan1")
    proof = secret.proof("pan", *said)
    assert secret.accepts(proof, "pan", *said)
    assert not secret.accepts(proof, "node", *said)
    assert not Secret(b"kX9-very.good/key8").accepts(proof, "pan", *said)
    assert not secret.accepts("", "pan", *said)
    assert not secret.accepts("ö" * 64, "pan", *said)
    for at in range(4):
        changed = [*said[:at], "c" * 64, *said[at + 1 :]]
        assert not secret.accepts(proof, "pan", *changed)


def test_nonces_are_random_and_checked() -> None:
    """Ours never repeat; theirs are 64 hexadecimal digits or end the connection."""
    assert len({auth.new_nonce() for _ in range(100)}) == 100
    auth.check_nonce(auth.new_nonce())
    for bad in ("", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"):
        with pytest.raises(WireError) as caught:
            auth.check_nonce(bad)
        assert caught.value.fatal


def test_peers_are_networks() -> None:
    """Addresses of both families, and IPv4 as a socket for both shows it; a bad network is named."""
    networks = auth.parse_networks("127.0.0.0/8, 10.1.2.3 ::1")
    for good in ("127.0.0.1", "10.1.2.3", "::1", "::ffff:127.0.0.9"):
        assert auth.is_allowed(good, networks)
    for bad in ("10.1.2.4", "::2", "::ffff:10.9.9.9", "fe80::1%eth0"):
        assert not auth.is_allowed(bad, networks)
    assert not auth.is_allowed("127.0.0.1", auth.parse_networks(""))
    with pytest.raises(ConfigurationError, match=r"10\.1\.2\.3/24"):
        auth.parse_networks("10.1.2.3/24")
