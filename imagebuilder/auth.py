"""Who may talk to a node: peers of the allow list, after both sides proved that they know the shared secret."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal, TypeAlias

from dtscore.config import read_secret
from dtscore.errors import ConfigurationError
from imagebuilder.wire import WireError

Network: TypeAlias = IPv4Network | IPv6Network
Role: TypeAlias = Literal["node", "pan"]

SHORTEST_SECRET = 16
_FEWEST_CHARACTERS = 6
_DEFAULTS = ("secret", "password", "changeme", "change-me", "default", "example", "0123456789", "1234567890", "abcdef")
_NONCE = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Secret:
    """The secret that a site's PANs, nodes and supervisors share; it is kept out of `repr`."""

    value: bytes = field(repr=False)

    def proof(self, role: Role, client_nonce: str, server_nonce: str, camera: str, pan: str) -> str:
        """Return what only a holder of the secret can say: HMAC-SHA256 in hex over role, both nonces, camera, PAN."""
        said = "\n".join((role, client_nonce, server_nonce, camera, pan)).encode()
        return hmac.new(self.value, said, sha256).hexdigest()

    def accepts(self, proof: str, role: Role, client_nonce: str, server_nonce: str, camera: str, pan: str) -> bool:
        """Whether a peer's proof is right; takes the same time for every wrong one."""
        expected = self.proof(role, client_nonce, server_nonce, camera, pan)
        return hmac.compare_digest(expected.encode(), proof.encode())


def load_secret(path: Path) -> Secret:
    """Read the secret from a file of mode 0600; ConfigurationError when it is open to others, empty, short, a default.

    A node shows a proof to whoever says hello, so that a short secret could be guessed from it.
    """
    value = read_secret(path)
    hint = f"make one with: (umask 077; head -c 32 /dev/urandom | base64 > {path})"
    if len(value) < SHORTEST_SECRET:
        what = f"the secret in {path} has {len(value)} characters; at least {SHORTEST_SECRET} are needed"
        raise ConfigurationError(what, hint)
    lowered = value.lower()
    if len(set(lowered)) < _FEWEST_CHARACTERS or any(word in lowered for word in _DEFAULTS):
        raise ConfigurationError(f"the secret in {path} can be guessed", hint)
    return Secret(value.encode())


def new_nonce() -> str:
    """Return 32 random bytes in hex."""
    return secrets.token_hex(32)


def check_nonce(nonce: str) -> str:
    """Return a peer's nonce unchanged, or raise a fatal WireError `bad-value`."""
    if not _NONCE.match(nonce):
        raise WireError("bad-value", "a nonce is not 64 hexadecimal digits", "send 32 random bytes in hex", fatal=True)
    return nonce


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of an allow list such as '10.1.2.0/24, ::1', or raise ConfigurationError."""
    found = []
    for word in text.replace(",", " ").split():
        try:
            found.append(ip_network(word))
        except ValueError as error:
            raise ConfigurationError(f"{word!r} is not a network: {error}", "write it like 10.1.2.0/24") from error
    return tuple(found)


def is_allowed(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address lies in one of the networks; IPv4 in IPv6's clothes counts as IPv4."""
    peer = ip_address(address.partition("%")[0])
    plain = getattr(peer, "ipv4_mapped", None) or peer
    return any(plain in network for network in networks)
