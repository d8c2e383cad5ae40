"""Child processes that get ready, wait for the word, work, and answer with one line of JSON.

What a child does before it says `ready` (interpreter, imports, connections) is not measured. All of a crew begin at
the same moment; CLOCK_MONOTONIC is one clock for all processes of a host.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def serve(work: Callable[[], dict[str, Any]]) -> None:
    """In the child: say that it is ready, wait for the word, work, and print what `work` found."""
    print("ready", flush=True)
    sys.stdin.readline()
    begun, spent = time.monotonic(), time.process_time()
    found = work()
    times = {"begun": begun, "ended": time.monotonic(), "cpu": time.process_time() - spent}
    print(json.dumps({**times, "peak_kib": peak_memory(), **found}), flush=True)


def peak_memory() -> int:
    """Return the largest resident size of this process in KiB.

    Not getrusage: Linux counts the size of the process that started this one into it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM")


def ours(program: str, *arguments: str) -> list[str]:
    """Return the command of one of our programs."""
    return [sys.executable, "-m", f"benchmarks.programs.{program}", *arguments]


def crew(commands: Sequence[Sequence[str]], seconds: float = 900.0) -> list[dict[str, Any]]:
    """Run children at the same time; return their answers. RuntimeError with its stderr when one fails."""
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) for command in commands
    ]
    try:
        for child in running:
            _expect_ready(child)
        for child in running:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        return [_answer(child, seconds) for child in running]
    finally:
        for child in running:
            if child.poll() is None:
                child.kill()
            child.wait()


def _expect_ready(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    if child.stdout.readline().strip() != "ready":
        _, errors = child.communicate(timeout=10)
        raise RuntimeError(f"{child.args!r} did not get ready: {errors[-2000:]}")


def _answer(child: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    output, errors = child.communicate(timeout=seconds)
    lines = output.strip().splitlines()
    if child.returncode or not lines:
        raise RuntimeError(f"{child.args!r} failed with {child.returncode}: {errors[-2000:]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def span(answers: Sequence[dict[str, Any]]) -> float:
    """Return the seconds from the first child's beginning to the last one's end."""
    first: float = min(answer["begun"] for answer in answers)
    last: float = max(answer["ended"] for answer in answers)
    return last - first


def run(command: Sequence[str], **options: Any) -> float:
    """Run a peer's command to its end; return the seconds. RuntimeError with its stderr when it fails."""
    begun = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    seconds = time.monotonic() - begun
    if done.returncode:
        raise RuntimeError(f"{list(command)[:4]} failed with {done.returncode}: {done.stderr[-2000:]}")
    return seconds
