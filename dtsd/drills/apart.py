"""A drill in a process of its own, with mounts (and a network) of its own: whatever ends it, nothing of that is left.

Its mounts lie in a namespace that goes with its last process; it is asked to end when its parent dies, so that it can
stop the servers that it started.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1
_ENDING_SECONDS = 30.0


def run(module: str, words: Sequence[str], *, network: bool = False) -> dict[str, Any]:
    """Run a module that prints one line of JSON, as root in namespaces of its own, and return that.

    Raises RuntimeError with what it said if it broke off.
    """
    command = ["unshare", "--mount", *(["--net"] if network else []), sys.executable, "-m", module, *words]
    environment = {**os.environ, "PATH": path()}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, complaints = process.communicate()
        except BaseException:
            end(process)
            raise
    if process.returncode or not said.strip():
        raise RuntimeError(f"{module} broke off: {complaints[-2000:]}")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and make it end after half a minute."""
    process.terminate()
    try:
        process.wait(timeout=_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def path() -> str:
    """Return the search path with the folders of the system's own programs, which root alone may have."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def end_cleanly() -> None:
    """Let SIGTERM end this process as an exception does, through all that is to be tidied up."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what tidies up is not to be interrupted
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)


def end_with_parent() -> None:
    """End this process cleanly when its parent has died."""
    end_cleanly()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
