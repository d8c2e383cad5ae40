"""Digests computed on the server, by a shell that stays open: one short command for each file.

The file is given to the digest's program as its input, so no program ever sees a name. `dd` first asks the server's
kernel to forget its copy in memory, which works for bytes that fsync has brought to the disk; so the disk is read.
Every answer is parsed strictly: anything but one digest and a status of zero means that nothing was verified.
"""

from __future__ import annotations

import re
import shlex
import threading
import time
import uuid

import paramiko

from dtscore import checksums
from storage.element import Tick
from storage.sftp_client import ByteChannel

TOOLS = (
    ("xxh3-128", "xxh128sum"),
    ("blake3", "b3sum"),
    ("sha256", "openssl dgst -sha256 -r"),
    ("sha256", "sha256sum"),
    ("md5", "md5sum"),
)
"""Algorithm and program, the fastest first; the first that gives the right digest of a known word is used."""

_SLOWEST = 5e6
"""Bytes per second: a digest that is slower than this, and 30 s, counts as stuck."""
_LONGEST = 16 << 10
_TICK = 0.1


class ShellUnfitError(Exception):
    """The server gives us no shell, or it has no program that computes digests."""


class Shell:
    """One shell on the server; threads take turns."""

    def __init__(self, channel: ByteChannel, seconds: float) -> None:
        """Try the programs; raises ShellUnfitError, OSError, EOFError."""
        self._channel = channel
        self._lock = threading.Lock()
        self._rest = b""
        self.broken = False
        try:
            self.algorithm, self._program = self._find(seconds)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the shell."""
        self.broken = True
        self._channel.close()

    def _find(self, seconds: float) -> tuple[str, str]:
        word = uuid.uuid4().hex
        known = {}
        for algorithm, _ in TOOLS:
            hasher = checksums.new(algorithm)
            hasher.update(word.encode())
            known[algorithm] = hasher.hexdigest()
        self._send("LC_ALL=C; export LC_ALL; exec 2>/dev/null")
        for algorithm, program in TOOLS:
            if self._ask(f"printf %s {word} | {program}", algorithm, seconds, None) == known[algorithm]:
                return algorithm, program
        raise ShellUnfitError("no program on the server computes a digest")

    def _send(self, line: str) -> None:
        self._channel.settimeout(_TICK)
        self._channel.write(line.encode() + b"\n", memoryview(b""))

    def _ask(self, command: str, algorithm: str, seconds: float, tick: Tick | None) -> str | None:
        """Run a command and return the digest that it prints; None if it fails or prints anything else."""
        mark = uuid.uuid4().hex
        self._send(f"{command}; echo dts {mark} $?")
        answer = self._until(f"dts {mark} ".encode(), seconds, tick)
        hexadecimal = len(checksums.new(algorithm).hexdigest())
        form = rf"([0-9a-f]{{{hexadecimal}}})(?: [ *]?\S*)?\ndts {mark} 0"
        match = re.fullmatch(form, answer.decode(errors="replace"))
        return match[1] if match else None

    def _until(self, mark: bytes, seconds: float, tick: Tick | None) -> bytes:
        deadline = time.monotonic() + seconds
        while True:
            start = self._rest.find(mark)
            end = self._rest.find(b"\n", start) if start >= 0 else -1
            if end >= 0:
                answer, self._rest = self._rest[:end], self._rest[end + 1 :]
                return answer
            try:
                piece = self._channel.recv(_LONGEST)
            except TimeoutError:
                piece = None
            if piece == b"" or len(self._rest) > _LONGEST:
                raise EOFError("the server's shell ended")
            self._rest += piece or b""
            if tick is not None:
                tick(0)
            if time.monotonic() > deadline:
                raise TimeoutError("the server's shell does not answer")

    def digest(self, path: str, size: int, seconds: float, tick: Tick | None) -> str | None:
        """Return the digest of a file by its absolute path, read where it lies; None where that is not possible."""
        if not path.startswith("/") or "\n" in path or "\0" in path:
            return None
        name = shlex.quote(path)
        command = f"dd if={name} iflag=nocache count=0; {self._program} < {name}"
        while not self._lock.acquire(timeout=_TICK):
            if tick is not None:
                tick(0)
        try:
            return None if self.broken else self._careful(command, seconds + size / _SLOWEST, tick)
        finally:
            self._lock.release()

    def _careful(self, command: str, seconds: float, tick: Tick | None) -> str | None:
        try:
            return self._ask(command, self.algorithm, seconds, tick)
        except (paramiko.SSHException, OSError, EOFError):
            self.close()
            return None
        except BaseException:
            self.close()  # a late answer must not reach the next file
            raise
