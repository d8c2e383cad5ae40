"""The fair queue of writers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dtscore.errors import DatabaseUnavailableError
from dtscore.turnstile import Turnstile

_WRITER = """
import sys, time
from pathlib import Path
from dtscore.turnstile import Turnstile
turnstile, end, turns, worst = Turnstile(Path(sys.argv[1])), float(sys.argv[2]), 0, 0.0
while time.time() < end - 1.5: time.sleep(0.001)
while time.time() < end:
    asked = time.monotonic()
    with turnstile.turn(5):
        worst = max(worst, time.monotonic() - asked)
        time.sleep(0.002)
    turns += 1
print(turns, worst)
"""
_HOLDER = """
import sys, time
from pathlib import Path
from dtscore.turnstile import Turnstile
with Turnstile(Path(sys.argv[1])).turn(5):
    print("in", flush=True)
    time.sleep(60)
"""


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_processes_get_equal_shares(tmp_path: Path) -> None:
    """Four processes that always want in get about the same number of turns, and none waits for long."""
    end = str(time.time() + 3.0)
    writers = [_start(_WRITER, str(tmp_path / "turn"), end) for _ in range(4)]
    answers = [writer.communicate(timeout=30)[0].split() for writer in writers]
    turns = [int(answer[0]) for answer in answers]
    assert min(turns) > sum(turns) / 4 / 3
    assert max(float(answer[1]) for answer in answers) < 1.0


def test_a_killed_holder_lets_the_next_one_in(tmp_path: Path) -> None:
    """The kernel frees the locks of a process that is killed, so that nobody has to clean up."""
    holder = _start(_HOLDER, str(tmp_path / "turn"))
    assert holder.stdout is not None and holder.stdout.readline() == "in\n"
    turnstile = Turnstile(tmp_path / "turn")
    with pytest.raises(DatabaseUnavailableError), turnstile.turn(0.2):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with turnstile.turn(1.0):
        pass


def test_who_gave_up_takes_nothing_from_the_next(tmp_path: Path) -> None:
    """A turn that did not come in time is nobody's later: the next come in one by one, and files close."""
    first, second = Turnstile(tmp_path / "turn"), Turnstile(tmp_path / "turn")
    inside = threading.Lock()
    entered = []

    def enter(turnstile: Turnstile) -> None:
        for _ in range(20):
            with turnstile.turn(10):
                assert inside.acquire(blocking=False)
                entered.append(turnstile)
                inside.release()

    for _ in range(3):
        with first.turn(5):
            for _ in range(3):
                with pytest.raises(DatabaseUnavailableError), second.turn(0.01):
                    pass
        threads = [threading.Thread(target=enter, args=(one,)) for one in (first, second, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(entered) == 180
    first.close()
    second.close()
    assert not [link for link in _links() if link.startswith(str(tmp_path))]


def test_closed_it_holds_no_file(tmp_path: Path) -> None:
    """After close no lock file is open any more, and the next turn opens them again."""

    def held() -> list[str]:
        return [link for link in _links() if link.startswith(str(tmp_path))]

    turnstile = Turnstile(tmp_path / "turn")
    for _ in range(2):
        with turnstile.turn(1):
            assert len(held()) == 2
        turnstile.close()
        assert not held()


def _links() -> list[str]:
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(path))
    return links
