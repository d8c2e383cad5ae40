"""Who may come in: the users file, read anew when it changes, and each request's proof, good for one time."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from dtscore.config import read_secret
from dtscore.errors import ConfigurationError, CredentialsError
from dtsd.server.nonce_file import NonceFile
from dtsnet.credentials import Signed, User, read_users, sign_answer
from dtsnet.nonces import Nonces

log = structlog.get_logger()


class Users:
    """The users of a site; a changed file counts from the next call on, a broken one is logged and does not."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises ConfigurationError where it is open to others, wrong, or names no admin."""
        self._path = path
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._users = load_users(path)

    def get(self, name: str) -> User | None:
        """Return a user, None where there is none of that name."""
        stamp = self._look()
        if stamp != self._stamp:
            with self._lock:
                self._stamp = stamp
                try:
                    self._users = load_users(self._path)
                except ConfigurationError as error:
                    log.error("the changed users file is not taken", error=error.message, hint=error.hint)
        return self._users.get(name)

    def _look(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self._path)
        except OSError:
            return 0, 0, 0
        return status.st_mtime_ns, status.st_ino, status.st_size


def load_users(path: Path) -> dict[str, User]:
    """Return the users in a file of mode 0600; raises ConfigurationError."""
    if not path.exists():
        raise ConfigurationError(f"there is no users file {path}", "make one: dtsd user add NAME admin")
    return read_users(read_secret(path), str(path))


@dataclass(frozen=True, slots=True)
class Admission:
    """A user who was let in, and what of the request an answer must be signed for; None with a certificate."""

    user: User
    nonce: str | None

    def sign(self, body: bytes) -> str | None:
        """Return the signature of an answer, None where a certificate said who calls."""
        return sign_answer(self.user.secret, self.nonce, body) if self.nonce is not None else None


class Guard:
    """Checks every request before anything in its body is looked at."""

    def __init__(self, users: Users, window: Callable[[], float], memory: Path | None = None) -> None:
        """`window` gives the seconds that clocks may be apart; `memory` is a file that outlives the daemon."""
        self.users = users
        self._nonces = Nonces(window)
        self._file = NonceFile(memory, self._nonces) if memory is not None else None
        self._nobody = secrets.token_bytes(32)

    def look(self, headers: Mapping[str, str]) -> Signed:
        """Return who claims to call, before the body is read; CredentialsError where it cannot be right."""
        signed = Signed.read(headers)
        self._nonces.check_time(signed.time)
        return signed

    def admit(self, signed: Signed, body: bytes) -> Admission:
        """Let a request in, once; raises CredentialsError, which does not say whether user or secret was wrong."""
        user = self.users.get(signed.user)
        secret = user.secret if user is not None and user.secret else self._nobody
        if not signed.is_by(secret, body) or user is None or not user.secret:
            raise CredentialsError("user or secret is wrong", "is the secret the one in the daemon's users file?")
        self._nonces.take(signed.user, signed.time, signed.nonce)
        if self._file is not None:
            self._file.keep(signed.user, signed.time, signed.nonce)
        return Admission(user, signed.nonce)

    def admit_certificate(self, name: str) -> Admission:
        """Let in the user whom a client certificate names, which TLS has checked; raises CredentialsError."""
        user = self.users.get(name)
        if user is None:
            raise CredentialsError(f"the certificate's name {name!r:.80} is no user here", "dtsd user add NAME ROLE")
        return Admission(user, None)

    def close(self) -> None:
        """Close the file of nonces."""
        if self._file is not None:
            self._file.close()
