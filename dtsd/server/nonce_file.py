"""The nonces that were taken, in a file: a request is not taken again by the daemon that is started next.

Lines are appended without fsync: they outlive the daemon, not the host. After a power cut, told by the kernel's boot
id, whatever was stamped before the daemon's start is refused instead.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from dtsnet.nonces import Nonces

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MOST_LINES = 400_000


class NonceFile:
    """The file behind a daemon's nonces."""

    def __init__(self, path: Path, nonces: Nonces) -> None:
        """Read what a daemon before us took, and begin a file with what of that still counts. Raises OSError."""
        self._path, self._nonces = path, nonces
        self._lock = threading.Lock()
        self._read()
        self._descriptor, self._lines = self._begin()

    def _read(self) -> None:
        try:
            boot, *lines = self._path.read_text().split("\n")
        except FileNotFoundError:
            return
        if boot != _boot_id():
            self._nonces.refuse_before(int(time.time()))
            return
        for line in lines:
            words = line.split(" ")
            if len(words) == 3 and words[0].isdigit():
                self._nonces.restore(words[1], int(words[0]), words[2])

    def _begin(self) -> tuple[int, int]:
        """Write the file anew with what still counts; return its descriptor and the number of its lines."""
        part = self._path.with_name(f"{self._path.name}.part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        lines = [_line(*entry) for entry in self._nonces.entries()]
        data = memoryview("".join([f"{_boot_id()}\n", *lines]).encode())
        while data:
            data = data[os.write(descriptor, data) :]
        os.rename(part, self._path)
        return descriptor, len(lines)

    def keep(self, user: str, moment: int, nonce: str) -> None:
        """Write one down before its request is answered; raises OSError."""
        with self._lock:
            os.write(self._descriptor, _line(user, moment, nonce).encode())
            self._lines += 1
            if self._lines > _MOST_LINES:
                os.close(self._descriptor)
                self._descriptor, self._lines = self._begin()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._descriptor)


def _line(user: str, moment: int, nonce: str) -> str:
    return f"{moment} {user} {nonce}\n"


def _boot_id() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""
