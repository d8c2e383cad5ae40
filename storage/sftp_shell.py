"""Digests computed on the server, by a shell that stays open: one short command for each file.

For a large file `dd` first asks the server's kernel to forget its copy in memory, which works for bytes that fsync has
brought to the disk; so the disk is read. Small files go to one command together, by absolute names, which no program
takes for options. Every answer is parsed strictly: anything but one digest for each file, in their order, and a status
of zero means that nothing was verified.
"""

from __future__ import annotations

import re
import shlex
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

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

LARGE = 4 << 20
"""Bytes from which on a file is dropped from the server's memory first, and digested alone."""

_GROUP = 64
_SLOWEST = 5e6
"""Bytes per second: a digest that is slower than this, and 30 s, counts as stuck."""
_LONGEST = 16 << 10  # bytes of output for one file
_TICK = 0.1


class ShellUnfitError(Exception):
    """The server gives us no shell, or it has no program that computes digests."""


@dataclass(slots=True, eq=False)
class _Wanted:
    """A file to be digested, and what came of it."""

    path: str
    size: int
    digest: str | None = None
    done: bool = False


def _speakable(path: str) -> bool:
    return path.startswith("/") and "\n" not in path and "\0" not in path


class Shell:
    """One shell on the server; threads take turns."""

    def __init__(self, channel: ByteChannel, seconds: float) -> None:
        """Try the programs; raises ShellUnfitError, OSError, EOFError."""
        self._channel = channel
        self._lock = threading.Lock()
        self._waiting = threading.Lock()
        self._queue: list[_Wanted] = []
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
            self._form = re.compile(rf"\\?([0-9a-f]{{{len(known[algorithm])}}})(?: .*)?")
            if self._ask(f"printf %s {word} | {program}", 1, seconds, None) == [known[algorithm]]:
                return algorithm, program
        raise ShellUnfitError("no program on the server computes a digest")

    def _send(self, line: str) -> None:
        self._channel.settimeout(_TICK)
        self._channel.write(line.encode() + b"\n", memoryview(b""))

    def _ask(self, command: str, count: int, seconds: float, tick: Tick | None) -> Sequence[str]:
        """Run a command and return the digests that it prints; none if it fails or prints anything else."""
        mark = uuid.uuid4().hex
        self._send(f"{command}; echo dts {mark} $?")
        lines = self._until(f"dts {mark} ".encode(), seconds, tick, count).decode(errors="replace").split("\n")
        found = [match[1] for match in map(self._form.fullmatch, lines[:-1]) if match]
        return found if lines[-1] == f"dts {mark} 0" and len(found) == len(lines) - 1 == count else []

    def _until(self, mark: bytes, seconds: float, tick: Tick | None, count: int) -> bytes:
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
            if piece == b"" or len(self._rest) > _LONGEST * count:
                raise EOFError("the server's shell ended")
            self._rest += piece or b""
            if tick is not None:
                tick(0)
            if time.monotonic() > deadline:
                raise TimeoutError("the server's shell does not answer")

    def begin_writing(self, path: str) -> None:
        """Have a file's bytes written to the disk in the background, unless the shell is busy."""
        if not _speakable(path) or not self._lock.acquire(blocking=False):
            return
        try:
            self._send(f"dd if=/dev/null of={shlex.quote(path)} conv=notrunc,nocreat,fdatasync &")
        except (paramiko.SSHException, OSError, EOFError):
            self.close()
        finally:
            self._lock.release()

    def digests(self, files: Sequence[tuple[str, int]], seconds: float, tick: Tick | None) -> Sequence[str | None]:
        """Return the digests of files, each an absolute path and its bytes; None where that is not possible.

        Small files that several threads ask for meanwhile are digested by one command, for starting it is the cost.
        """
        wanted = [_Wanted(path, size, done=not _speakable(path)) for path, size in files]
        with self._waiting:
            self._queue += [one for one in wanted if not one.done]
        try:
            while waiting := [one for one in wanted if not one.done]:
                if self._lock.acquire(timeout=_TICK):
                    try:
                        self._work(waiting[0], seconds, tick)
                    finally:
                        self._lock.release()
                elif tick is not None:
                    tick(0)
        finally:
            with self._waiting:
                mine = set(map(id, wanted))
                self._queue = [one for one in self._queue if id(one) not in mine]
        return [one.digest for one in wanted]

    def _work(self, first: _Wanted, seconds: float, tick: Tick | None) -> None:
        """Digest a file, if no other thread has done so, and with it the small ones that wait."""
        if first.done:
            return
        group = [first]
        if first.size < LARGE:
            with self._waiting:
                others = [one for one in self._queue if one is not first and not one.done and one.size < LARGE]
            group += others[: _GROUP - 1]
        try:
            found = [None] if self.broken else self._careful(group, seconds, tick)
            for one, value in zip(group, found, strict=False):
                one.digest = value
        finally:
            for one in group:
                one.done = True

    def _careful(self, group: Sequence[_Wanted], seconds: float, tick: Tick | None) -> Sequence[str | None]:
        names = [shlex.quote(one.path) for one in group]
        if group[0].size < LARGE:
            command = f"{self._program} {' '.join(names)}"
        else:
            command = f"dd if={names[0]} iflag=nocache count=0; {self._program} < {names[0]}"
        try:
            size = sum(one.size for one in group)
            return self._ask(command, len(group), seconds + size / _SLOWEST, tick)
        except (paramiko.SSHException, OSError, EOFError):
            self.close()
            return []
        except BaseException:
            self.close()  # a late answer must not reach the next file
            raise
