"""The sites that dtsh talks to: the [remote NAME] sections of the configuration, by name or by host and port."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dtscore.config import Config
from dtscore.errors import NotFoundError, UsageError
from dtscore.inifile import nearest
from dtsnet import remotes
from dtsnet.rpc import Address, Remote


class Sites:
    """Finds sites, and keeps one `Remote` for each."""

    def __init__(self, config: Callable[[], Config], target: str = "") -> None:
        """`config` is read when it is first needed; `target` is the site when none is named."""
        self._config = config
        self._remotes: dict[str, Remote] = {}
        self._lock = threading.Lock()
        self.target = target

    def names(self) -> list[str]:
        """Return the names of all sites."""
        return list(self._config().remotes)

    def name(self, wanted: str = "") -> str:
        """Return the name of a site given by name, HOST or HOST:PORT; '' is the target, or the only site there is.

        Raises UsageError where none is chosen or several are meant, NotFoundError where there is none.
        """
        known = self._config().remotes
        wanted = wanted or self.target
        if wanted in known:
            return wanted
        if not wanted and len(known) == 1:
            return next(iter(known))
        if not wanted:
            shown = ", ".join(known) or "there are none: add a section [remote NAME]"
            raise UsageError("no site is chosen", f"name it with -t, or: target NAME; sites: {shown}")
        return self._at(wanted)

    def _at(self, place: str) -> str:
        """Return the name of the one site at HOST or HOST:PORT."""
        found = [
            name for name, settings in self._config().remotes.items() if place in _places(Address(settings.url))
        ]  # fmt: skip
        if len(found) > 1:
            raise UsageError(f"several sites are at {place}: {', '.join(found)}", "name one of them")
        if not found:
            names = self.names()
            hint = nearest(place, names) if names else f"add a section [remote NAME] to {self._config().path}"
            raise NotFoundError(f"there is no site {place!r}", hint)
        return found[0]

    def remote(self, wanted: str = "") -> Remote:
        """Return the daemon of a site; raises as `name` does, and ConfigurationError for a bad secret file."""
        name = self.name(wanted)
        with self._lock:
            if name not in self._remotes:
                self._remotes[name] = remotes.remote(self._config(), name)
            return self._remotes[name]

    def close(self) -> None:
        """Close all connections."""
        for remote in self._remotes.values():
            remote.close()


def _places(address: Address) -> tuple[str, ...]:
    return address.host, f"{address.host}:{address.port}", f"[{address.host}]:{address.port}"
