"""Starts processes of DTS in milliseconds: all modules are imported once, and each process is a fork of this one.

A program of its own, `python -m dtsd.drills.launcher`: it reads one JSON order a line, `{"call": "module:function",
"args": [...], "log": path}`, and answers with the process's number. Its children are killed when it ends.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_PR_SET_PDEATHSIG = 1
_PRELOADED = ("agents.runner", "migrations", "storage.file", "storage.landing", "storage.sftp", "dtsd.drills.processes")


def serve() -> None:
    """Fork a process for each order until the input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here: their end is seen by pidfd
    for name in _PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin.buffer:
        number = os.fork()
        if number == 0:
            _become(json.loads(line))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


def _become(order: Mapping[str, Any]) -> None:
    """Be the process that was ordered; never return."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _redirect(order["log"])
        os.environ.update(order.get("environment", {}))
        module, _, name = order["call"].partition(":")
        getattr(importlib.import_module(module), name)(*order["args"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, goal in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(source, goal)
    os.closerange(3, 256)


class Child:
    """A process that the launcher started, held by a pidfd, so that no signal ever meets another process."""

    def __init__(self, number: int) -> None:
        """Take hold of a process."""
        self.pid = number
        try:
            self._handle = os.pidfd_open(number)
        except ProcessLookupError:
            self._handle = -1

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process has ended."""
        if self._handle < 0:
            return False
        try:
            signal.pidfd_send_signal(self._handle, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait for the end; False if it did not come in time."""
        if self._handle < 0:
            return True
        waiting = select.poll()  # not select(2), which knows no descriptor beyond 1,023
        waiting.register(self._handle, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            return False
        handle, self._handle = self._handle, -1
        os.close(handle)
        return True

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return not self.wait(0)

    def kill(self) -> None:
        """End it with SIGKILL and wait."""
        self.send(signal.SIGKILL)
        self.wait(10)

    def freeze(self, seconds: float = 10.0) -> bool:
        """Stop it with SIGSTOP and wait until every thread stands still (state T); False if it ended meanwhile."""
        self.send(signal.SIGSTOP)
        return self.wait_frozen(seconds)

    def wait_frozen(self, seconds: float) -> bool:
        """Wait until every thread stands still; False if it ended or did not stop in time."""
        deadline = time.monotonic() + seconds
        while self.alive and time.monotonic() < deadline:
            states = {_state(task) for task in Path(f"/proc/{self.pid}/task").glob("*")}
            if states and states <= {"T", "t", ""}:
                return True
            time.sleep(0.002)
        return False


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


class Launcher:
    """The launcher as its user sees it: a context manager that starts processes."""

    def __init__(self, program: Sequence[str] = (), *, environment: Mapping[str, str] | None = None) -> None:
        """Start the launcher; `program` is another one with the same orders, such as one that is broken on purpose."""
        command = list(program) or [sys.executable, "-m", "dtsd.drills.launcher"]
        quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.children: list[Child] = []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
            env={**os.environ, **quiet, **(environment or {})},
        )  # fmt: skip

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, call: str, *args: str, log: Path, environment: Mapping[str, str] | None = None) -> Child:
        """Start a process that calls `module:function` with these arguments."""
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"call": call, "args": args, "log": str(log), "environment": dict(environment or {})}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the launcher of the drill's processes has ended")
        child = Child(int(answer))
        self.children.append(child)
        return child

    def agent(self, config: Path, *names: str) -> Child:
        """Start agents of a site; their log goes to agent.log beside it."""
        call = "dtsd.drills.processes:agent"
        return self.start(call, str(config), *(names or ("transfer",)), log=config.parent.parent / "agent.log")

    def close(self) -> None:
        """End all processes, and the launcher."""
        for child in self.children:
            child.kill()
        self.children.clear()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()


if __name__ == "__main__":
    serve()
