"""Who calls: requests signed with a user's secret, the users of a site, and what each of their roles may do.

A request carries `X-DTS-User`, `X-DTS-Time`, `X-DTS-Nonce` and `X-DTS-Signature`, the HMAC-SHA256 under the user's
secret of "DTS1", user, time, nonce and the SHA-256 of the body, one a line. Its answer carries `X-DTS-Signature` over
"DTS1 answer", the request's nonce and the SHA-256 of the answer's body, so that the caller knows who answered.
docs/dtsd.md has both byte by byte.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, TypeAlias, get_args

from dtscore.errors import ConfigurationError, CredentialsError, UsageError

Role: TypeAlias = Literal["read", "transfer", "operate", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may what those before it may."""

USER, TIME, NONCE, SIGNATURE = "X-DTS-User", "X-DTS-Time", "X-DTS-Nonce", "X-DTS-Signature"

VERSION_HEADER, VERSION = "X-DTS-Version", "1"
"""A caller may say which version of all this it speaks, so that a daemon of another one can say so."""

BY_CERTIFICATE = "certificate"
"""Stands in the users file for the secret of somebody who shows a client certificate and never signs."""

SHORTEST_SECRET = 32
_FEWEST_CHARACTERS = 10
_DEFAULTS = ("secret", "password", "changeme", "change-me", "default", "example", "0123456789", "1234567890")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z")
_SHAPES = {
    USER: _NAME, TIME: re.compile(r"[0-9]{1,12}\Z"), NONCE: re.compile(r"[0-9a-f]{32}\Z"),
    SIGNATURE: re.compile(r"[0-9a-f]{64}\Z"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may call; an empty secret means that only a client certificate will do."""

    name: str
    role: Role
    secret: bytes = field(repr=False)

    def may(self, role: Role) -> bool:
        """Whether the user has at least this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class Signed:
    """What the headers of a request say about who sent it; `time` in seconds since 1970."""

    user: str
    time: int
    nonce: str
    signature: str

    def headers(self) -> dict[str, str]:
        """Return the four headers."""
        return {USER: self.user, TIME: str(self.time), NONCE: self.nonce, SIGNATURE: self.signature}

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> Signed:
        """Return what headers (names in lower case) say; CredentialsError where one is missing or misshapen."""
        found = {}
        for name, shape in _SHAPES.items():
            text = headers.get(name.lower())
            if text is None:
                raise CredentialsError(f"the header {name} is missing", "sign each request: docs/dtsd.md says how")
            if not shape.match(text):
                raise CredentialsError(f"the header {name} is misshapen", "docs/dtsd.md says what it looks like")
            found[name] = text
        return cls(found[USER], int(found[TIME]), found[NONCE], found[SIGNATURE])

    def is_by(self, secret: bytes, body: bytes) -> bool:
        """Whether a holder of the secret signed this body; takes the same time for every wrong signature."""
        return hmac.compare_digest(self.signature, _request_signature(secret, self.user, self.time, self.nonce, body))


def sign(user: str, secret: bytes, body: bytes, *, now: float | None = None, nonce: str = "") -> Signed:
    """Sign a request body; time and nonce are the present and random ones unless they are given."""
    moment, nonce = int(time.time() if now is None else now), nonce or secrets.token_hex(16)
    return Signed(user, moment, nonce, _request_signature(secret, user, moment, nonce, body))


def sign_answer(secret: bytes, nonce: str, body: bytes) -> str:
    """Return the signature of an answer to the request with this nonce, in hex."""
    return _hmac(secret, "DTS1 answer", nonce, sha256(body).hexdigest())


def is_answer(secret: bytes, nonce: str, body: bytes, signature: str) -> bool:
    """Whether an answer was made by a holder of the secret, for the request with this nonce."""
    return hmac.compare_digest(sign_answer(secret, nonce, body).encode(), signature.encode())


def _request_signature(secret: bytes, user: str, moment: int, nonce: str, body: bytes) -> str:
    return _hmac(secret, "DTS1", user, str(moment), nonce, sha256(body).hexdigest())


def _hmac(secret: bytes, *lines: str) -> str:
    return hmac.new(secret, "\n".join(lines).encode(), sha256).hexdigest()


def new_secret() -> str:
    """Return 32 random bytes as text."""
    return secrets.token_urlsafe(32)


def check_secret(secret: str, whose: str) -> bytes:
    """Return a secret as bytes; ConfigurationError where it is empty, short, or can be guessed."""
    hint = "make a new one: dtsd user add NAME ROLE"
    if not secret:
        raise ConfigurationError(f"the secret of {whose} is empty", hint)
    if len(secret) < SHORTEST_SECRET:
        what = f"the secret of {whose} has {len(secret)} characters; at least {SHORTEST_SECRET} are needed"
        raise ConfigurationError(what, hint)
    lowered = secret.lower()
    if len(set(lowered)) < _FEWEST_CHARACTERS or any(word in lowered for word in _DEFAULTS):
        raise ConfigurationError(f"the secret of {whose} can be guessed", hint)
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise ConfigurationError(f"the secret of {whose} holds blanks or strange characters", hint)
    return secret.encode()


def check_user_name(name: str) -> str:
    """Return a user's name unchanged; UsageError where it is none."""
    if not _NAME.match(name):
        raise UsageError(f"{name!r:.80} is not a user's name", "use letters, digits, '_', '.', '@' and '-', at most 64")
    return name


def read_users(text: str, where: str) -> dict[str, User]:
    """Return the users of a users file: a line `NAME ROLE SECRET` each, `#` before comments.

    Raises ConfigurationError, which names the line, for anything else, a name that stands there twice, a secret that
    is empty, short or guessable, and where nobody is an admin.
    """
    users: dict[str, User] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            user = _read_user(line, f"{where}:{number}")
            if user.name in users:
                raise ConfigurationError(f"{where}:{number}: {user.name} stands there twice", "remove one of the lines")
            users[user.name] = user
    if not any(user.role == "admin" for user in users.values()):
        raise ConfigurationError(f"{where} names no admin", "add one: dtsd user add NAME admin")
    return users


def _read_user(line: str, place: str) -> User:
    words = line.split()
    hint = f"write NAME ROLE SECRET, where ROLE is one of {', '.join(ROLES)}"
    if len(words) == 2 and words[1] in ROLES:
        raise ConfigurationError(f"{place}: the secret of {words[0]} is empty", hint)
    if len(words) != 3 or words[1] not in ROLES:
        raise ConfigurationError(f"{place}: this is not a user", hint)
    name, role, secret = words
    try:
        check_user_name(name)
        key = b"" if secret == BY_CERTIFICATE else check_secret(secret, name)
    except (UsageError, ConfigurationError) as error:
        raise ConfigurationError(f"{place}: {error.message}", error.hint) from error
    return User(name, next(one for one in ROLES if one == role), key)
