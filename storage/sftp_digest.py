"""Which shell on the server digests which files of an element."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from storage.element import Tick
from storage.sftp_link import Link, LinkSettings
from storage.sftp_shell import LARGE, Shell, ShellUnfitError

_UNFIT_SECONDS = 600.0  # how long a server without a shell is not asked again for one
ALONE, TOGETHER = 1 << 20, 64 << 10
"""Bytes from which on having a file, or one of several, digested there is cheaper than reading it back."""


class Digester:
    """The shells of one element, shared by its threads."""

    def __init__(self, settings: LinkSettings) -> None:
        """Keep the settings; a shell is started when first used."""
        self._settings = settings
        self._unfit_until = 0.0
        self._shell: Shell | None = None
        self._lock = threading.Lock()

    def may(self) -> bool:
        """Whether files are digested on the server, as far as is known without asking."""
        return self._settings.digest and time.monotonic() >= self._unfit_until

    def algorithm(self, link: Link, size: int) -> str | None:
        """Return the algorithm of the best program on the server; None where there is none."""
        try:
            return self._shell_for(link, size).algorithm
        except ShellUnfitError:
            self._unfit_until = time.monotonic() + _UNFIT_SECONDS
            return None

    def digest(
        self, link: Link, files: Sequence[tuple[str, int]], algorithm: str, tick: Tick | None
    ) -> Sequence[str | None]:
        """Return the digests of files of one kind, all small or one large, each an absolute path and its bytes."""
        try:
            shell = self._shell_for(link, files[0][1])
        except ShellUnfitError:
            return [None] * len(files)
        if shell.algorithm != algorithm:
            return [None] * len(files)
        return shell.digests(files, self._settings.idle, tick)

    def close(self) -> None:
        """Let go of the shell; the connection that it runs on is closed by its owner."""
        with self._lock:
            shell, self._shell = self._shell, None
        if shell is not None:
            shell.close()

    def _shell_for(self, link: Link, size: int) -> Shell:
        """Return the connection's shell for a large file, and for small ones one for all threads: they go together."""
        if size >= LARGE:
            return link.shell()
        with self._lock:
            if self._shell is None or self._shell.broken:
                self._shell = link.new_shell()
            return self._shell
