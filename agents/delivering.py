"""Running the program of a delivery: no shell, a clean environment, a process group of its own, an end in time."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from dtscore.errors import ElementUnavailableError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MARK = "DTS_DELIVERY"
"""The variable by which all processes of a delivery are known, also those that left its process group."""

_LOOK_SECONDS = 0.2
_LAST_WORDS_SECONDS = 0.5
_KEPT = 1500
"""So many bytes of the output's beginning, and as many of its end, are kept."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: its exit code (a negative one is a signal; None: its time was over), and what it said."""

    code: int | None
    output: str


class _Output:
    """What a program says: the beginning and the end are kept, however much it is."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        self._size += len(data)
        room = _KEPT - len(self._head)
        self._head += data[:room] if room > 0 else b""
        self._tail = (self._tail + (data[room:] if room > 0 else data))[-_KEPT:]

    def text(self) -> str:
        left = self._size - len(self._head) - len(self._tail)
        middle = f" … {left} bytes … ".encode() if left else b""
        said = (self._head + middle + self._tail).decode(errors="backslashreplace")
        return " ".join("".join(one if one.isprintable() else " " for one in said).split())


def run(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, *, timeout: float, mark: str,
    guard: Callable[[], None],
) -> Ran:  # fmt: skip
    """Run a program to its end, or until its time (s) is over or `guard` raises: then everything it began is killed.

    `mark` is unique to the attempt. Raises ElementUnavailableError where it cannot be started, and what `guard` raises.
    """
    process = _start(words, {**environment, _MARK: mark}, folder)
    ended = False
    try:
        ran = _follow(process, time.monotonic() + timeout, guard)
        ended = ran.code is not None
        return ran
    finally:
        if not ended:
            _kill(process, mark)
        if process.stdout is not None:
            process.stdout.close()


def clean_environment(inherited: Sequence[str]) -> dict[str, str]:
    """Return the environment of a delivery: a plain path and language, and the variables that it may inherit."""
    plain = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/"}
    return plain | {name: os.environ[name] for name in inherited if name in os.environ}


def _start(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
            env=dict(environment), close_fds=True, start_new_session=True, bufsize=0,
        )  # fmt: skip
    except OSError as error:
        raise ElementUnavailableError(
            f"the delivery's program {words[0]} cannot be started: {error.strerror} ({error.filename})",
            "correct [delivery NAME] command, or its rights; then: dts-queue poke QUEUE",
        ) from error


def _follow(process: subprocess.Popen[bytes], deadline: float, guard: Callable[[], None]) -> Ran:
    """Take the output until the program itself has ended; what it left running may hold the pipe open."""
    assert process.stdout is not None
    output, open_ = _Output(), True
    os.set_blocking(process.stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        last_words = float("inf")
        while True:
            code = process.poll()
            now = time.monotonic()
            if code is not None:
                last_words = min(last_words, now + _LAST_WORDS_SECONDS)
                if not open_ or now >= last_words or not selector.select(0):
                    return Ran(code, output.text())
            elif now >= deadline:
                return Ran(None, output.text())
            else:
                guard()
            open_ = open_ and _take(process.stdout.fileno(), selector, output)
            if not open_ and code is None:
                _wait(process, min(_LOOK_SECONDS, max(0.0, deadline - now)))


def _take(descriptor: int, selector: selectors.BaseSelector, output: _Output) -> bool:
    """Take what is there to be read within a moment; False at the end of the output."""
    if not selector.select(_LOOK_SECONDS):
        return True
    try:
        data = os.read(descriptor, 65536)
    except BlockingIOError:
        return True
    output.add(data)
    return bool(data)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _kill(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill the program's process group, and whatever of it has left that but carries its mark."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(3):  # what is killed may just have made another one
        found = _marked(f"{_MARK}={mark}".encode())
        for number in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.02)


def _marked(entry: bytes) -> list[int]:
    """Return the processes that have this entry in their environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if entry in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found
