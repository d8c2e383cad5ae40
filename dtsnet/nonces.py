"""The nonces of requests that were taken, so that none is taken twice: as many as a limit, for as long as a window."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dtscore.errors import CredentialsError

_MOST = 200_000


class Nonces:
    """Refuses what was seen already, what is too old to be remembered, and what is from the future.

    Bounded without forgetting anything that could be played back: when there are too many, those of the oldest second
    are dropped, and from then on requests of that second and before are refused as too old.
    """

    def __init__(
        self, window: Callable[[], float], *, most: int = _MOST, clock: Callable[[], float] = time.time
    ) -> None:
        """A request may be `window()` seconds older or newer than our clock."""
        self._window = window
        self._most = most
        self._clock = clock
        self._seen: dict[int, set[tuple[str, str]]] = {}
        self._count = 0
        self._floor = -1
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many are remembered."""
        return self._count

    def check_time(self, moment: int) -> None:
        """Raise CredentialsError unless a request made at `moment` (s since 1970) could be taken now."""
        now, window = self._clock(), self._window()
        if abs(now - moment) > window or moment <= self._floor:
            what = f"the request is stamped {moment}, and it is {now:.0f} here; {window:g} s apart are allowed"
            raise CredentialsError(what, "set the clocks of both hosts right, and sign each request anew")

    def take(self, user: str, moment: int, nonce: str) -> None:
        """Remember a request whose signature is right; raises CredentialsError where it came before, or is stale."""
        with self._lock:
            self.check_time(moment)
            if not self._add(user, moment, nonce):
                raise CredentialsError("the request has been made before: its nonce was used", "sign each request anew")
            self._forget(int(self._clock() - self._window()) - 1)
            while self._count > self._most and len(self._seen) > 1:
                self._floor = max(self._floor, min(self._seen))
                self._forget(self._floor)

    def restore(self, user: str, moment: int, nonce: str) -> None:
        """Remember what was taken before we were made."""
        with self._lock:
            self._add(user, moment, nonce)

    def refuse_before(self, moment: int) -> None:
        """Refuse what was stamped before a moment, for nobody remembers what was taken then."""
        with self._lock:
            self._floor = max(self._floor, moment - 1)

    def entries(self) -> list[tuple[str, int, str]]:
        """Return user, moment and nonce of all that is remembered and still counts."""
        with self._lock:
            self._forget(int(self._clock() - self._window()) - 1)
            return [(user, moment, nonce) for moment, seen in self._seen.items() for user, nonce in seen]

    def _add(self, user: str, moment: int, nonce: str) -> bool:
        seen = self._seen.setdefault(moment, set())
        if (user, nonce) in seen:
            return False
        seen.add((user, nonce))
        self._count += 1
        return True

    def _forget(self, last: int) -> None:
        """Forget what was stamped at `last` or before, which is not taken any more."""
        for moment in [moment for moment in self._seen if moment <= last]:
            self._count -= len(self._seen.pop(moment))
