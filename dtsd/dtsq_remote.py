"""What the sites that a queue feeds say of a file, within the short time that there is.

A refusal counts; silence does not: whether a site can be reached just now is the transfer's concern.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dtscore.errors import (
    ConfigurationError,
    CredentialsError,
    DtsError,
    ElementFullError,
    NotFoundError,
    PermissionRefusedError,
    StateError,
)

_REFUSALS = (ConfigurationError, CredentialsError, ElementFullError, NotFoundError, PermissionRefusedError, StateError)
_STOPPED = "stopped"


class RemoteWord:
    """Asks in threads of its own, one for each site; begun early, it costs the caller next to nothing."""

    def __init__(self, remotes: Mapping[str, Any], wait: float, sites: Sequence[tuple[str, str]], size: int) -> None:
        """Begin to ask: each next site whether its queue runs, a site without a queue whether it has room."""
        self._until = time.monotonic() + wait
        self._refusals: list[DtsError] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(remotes, site, queue, size), name=f"ask-{site}", daemon=True)
            for site, queue in sites
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, remotes: Mapping[str, Any], site: str, queue: str, size: int) -> None:
        try:
            daemon = _daemon(site, remotes[site])
            seconds = max(self._until - time.monotonic(), 0.001)
            if queue:
                _refuse_stopped(site, queue, daemon.call("queueStat", queue, timeout=seconds))
            else:
                _refuse_full(site, size, daemon.call("diskFree", timeout=seconds))
        except _REFUSALS as error:
            self._refusals.append(error)
        except (DtsError, OSError):
            return  # no answer, or none that could be understood

    def check(self) -> None:
        """Raise what a site refuses with, if its answer comes in time."""
        for thread in self._threads:
            thread.join(max(self._until - time.monotonic(), 0.0))
        if self._refusals:
            raise self._refusals[0]


def _daemon(site: str, settings: Mapping[str, Any]) -> Any:
    """Return the daemon of a site; raises ConfigurationError for a bad secret file."""
    from pathlib import Path

    from dtsnet.rpc import Address, Remote, read_key

    paths = {name: Path(text) for name, text in settings.items() if name.endswith("_file") and text}
    secret_file = paths.pop("secret_file", None)
    secret = read_key(secret_file, settings["user"]) if secret_file else b""
    return Remote(Address(settings["url"], settings["user"], secret, timeout=settings["timeout"], label=site, **paths))


def _refuse_stopped(site: str, queue: str, answer: Any) -> None:
    state = answer.get("state") if isinstance(answer, dict) else None
    if isinstance(state, dict) and state.get("state") == _STOPPED:
        raise StateError(f"the queue {queue} of {site} is stopped", f"have it started there: startQueue {queue}")


def _refuse_full(site: str, size: int, free: Any) -> None:
    if type(free) is int and free < size:
        what = f"{site} has {free} bytes free, too little for {size}"
        raise ElementFullError(what, "make room there")
