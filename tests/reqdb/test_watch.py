"""Following a request: what is shown, when, and with which exit code it ends."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from rich.console import Console

from dtscore.database import Database
from dtscore.errors import DatabaseUnavailableError, NotFoundError
from reqdb import store
from reqdb.states import State
from reqdb.views import Counts
from reqdb.watch import Frame, Smoother, exit_code, watch
from reqdb.watch_lines import JsonLines, TextLines
from reqdb.watch_live import LiveDisplay
from tests.reqdb.driving import DONE, MISSING, Ending, FakeAgent, submit, transfer


class Recorder:
    """A display that keeps what it is shown."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.frames: list[Frame] = []
        self.messages: list[str] = []
        self.closed = False

    def show(self, frame: Frame) -> None:
        """Keep a frame."""
        self.frames.append(frame)

    def away(self, message: str) -> None:
        """Keep a message."""
        self.messages.append(message)

    def close(self) -> None:
        """Know that the watch ended."""
        self.closed = True


class Clock:
    """A monotonic clock that moves only when the watch sleeps; each sleep runs the next step of the test."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        """Begin at zero."""
        self.now = 0.0
        self._steps = list(steps)

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass and the next step happen."""
        self.now += seconds
        if self._steps:
            self._steps.pop(0)()


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (lambda n: DONE, 0),
        (lambda n: MISSING, 1),
        (lambda n: MISSING if n else DONE, 3),
    ],
)
def test_it_ends_with_the_request(database: Database, ending: Callable[[int], Ending], code: int) -> None:
    """The watch ends when the request ends, with 0 for all Done, 1 for nothing Done and 3 for a part."""
    number = submit(database, transfer(3))
    clock = Clock(lambda: FakeAgent(database).work(ending))
    shown = Recorder()
    assert watch(database, number, shown, clock=clock, sleep=clock.sleep) == code
    assert [frame.ended for frame in shown.frames] == [False, True]
    assert shown.closed


def test_cancelled_wholly_is_a_failure(database: Database) -> None:
    """A request that was cancelled before anything was Done ends with 1."""
    number = submit(database, transfer(3))
    database.run(lambda connection: store.cancel(connection, number, by="ada"))
    assert watch(database, number, Recorder()) == 1


def test_exit_codes_of_mixtures() -> None:
    """Done with cancelled files is a part; failed with cancelled ones nothing."""
    assert exit_code(Counts(0, 0, 0, 5, 0, 1)) == 3
    assert exit_code(Counts(0, 0, 0, 0, 2, 1)) == 1


def test_timeout(database: Database) -> None:
    """After the time-out the watch gives up with None, not before, and the request is untouched."""
    number = submit(database, transfer(3))
    clock = Clock()
    assert watch(database, number, Recorder(), interval=2.0, timeout=9.0, clock=clock, sleep=clock.sleep) is None
    assert clock.now == 9.0


def test_unknown_request(database: Database) -> None:
    """An unknown request is not found, and the display is closed."""
    shown = Recorder()
    with pytest.raises(NotFoundError):
        watch(database, 12, shown)
    assert shown.closed


def test_a_database_that_is_away_is_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the watch has begun, a database that is away costs nothing but the wait; at the start it is an error."""
    number = submit(database, transfer(3))
    read = database.read

    def away() -> AbstractContextManager[object]:
        raise DatabaseUnavailableError("the database is away", "wait")

    def work() -> None:
        monkeypatch.setattr(database, "read", read)
        FakeAgent(database).work()

    clock = Clock(lambda: monkeypatch.setattr(database, "read", away), work)
    shown = Recorder()
    assert watch(database, number, shown, clock=clock, sleep=clock.sleep) == 0
    assert shown.messages == ["the database is away"]
    monkeypatch.setattr(database, "read", away)
    with pytest.raises(DatabaseUnavailableError):
        watch(database, number, Recorder())


def test_standing_still_is_measured(database: Database) -> None:
    """A frame says for how long nothing has moved."""
    number = submit(database, transfer(3))
    clock = Clock()
    shown = Recorder()
    watch(database, number, shown, interval=5.0, timeout=20.0, clock=clock, sleep=clock.sleep)
    assert [frame.still for frame in shown.frames] == [0.0, 5.0, 10.0, 15.0, 20.0]


def test_the_rate_is_right_at_once_and_then_smooth() -> None:
    """The first rate is not pulled to zero; jumps move it slowly; standing still and falling back let it fade."""
    smoother = Smoother(memory=10.0)
    assert smoother.update(0.0, 0.0) is None
    assert smoother.update(1.0, 100.0) == pytest.approx(100.0)
    assert smoother.update(2.0, 200.0) == pytest.approx(100.0)
    jumped = smoother.update(3.0, 1200.0)
    assert jumped is not None and 300.0 < jumped < 500.0
    faded = smoother.update(33.0, 1200.0)
    assert faded is not None and faded < 60.0
    back = smoother.update(34.0, 0.0)
    assert back is not None and 0 < back < faded
    assert not math.isnan(back)


def test_text_lines_are_paced(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for the start, one for a change when it is time, each new reason once, and always one for the end."""
    number = submit(database, transfer(10))
    agent = FakeAgent(database)

    def some(ending: tuple[State, str, str]) -> Callable[[], None]:
        return lambda: agent.end(*_claim(agent, 2), lambda n: ending)

    clock = Clock(some(DONE), some(MISSING), some(MISSING), lambda: None, lambda: None, lambda: agent.work())
    code = watch(database, number, TextLines(2.0, clock), interval=1.0, clock=clock, sleep=clock.sleep)
    lines = capsys.readouterr().out.splitlines()
    told = [line.split("Z ", 1)[1] for line in lines]
    assert code == 3
    assert told[0].startswith(f"request {number} ToDo: 0.0 % (0 of 10 files)")
    assert sum("failed: " in line and "[missing]" in line for line in told) == 1
    assert "2 Failed" in told[2] and "left" in told[2]
    assert told[-1].startswith(f"request {number} Failed: 6 of 10 files Done, 4 Failed; 600 B")
    assert told[-1].endswith(f"why: dts-request explain {number}; again: dts-request retry {number}")
    assert len(told) == 5


def _claim(agent: FakeAgent, batch: int) -> tuple[int, list[store.ClaimedFile]]:
    return agent.claim(batch=batch)


def test_json_lines(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is one JSON object; nothing is printed while nothing moves; the last one has ended."""
    number = submit(database, transfer(4))
    clock = Clock(lambda: None, lambda: None, lambda: FakeAgent(database).work())
    assert watch(database, number, JsonLines(0.0, clock), clock=clock, sleep=clock.sleep) == 0
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["state"], first["counts"]["todo"], first["percent_files"]) == ("ToDo", 4, 0.0)
    assert (last["state"], last["percent_files"], last["percent_bytes"], last["eta"]) == ("Done", 100.0, 100.0, 0.0)
    assert last["request_id"] == number and last["at"].endswith("Z")


def test_the_live_picture_fits_80_columns(database: Database) -> None:
    """Bars, current files and reasons are drawn within 80 columns, also with long names and control characters."""
    number = submit(database, transfer(8, size=10**9, name="n" * 200))
    agent = FakeAgent(database)
    agent.end(*agent.claim(batch=2), lambda n: (State.FAILED, "missing", "x" * 300 + "\x1b[31m") if n else DONE)
    token, files = agent.claim(batch=3)
    agent.beat(token, files[0].id, 5 * 10**8)
    screen = io.StringIO()
    display = LiveDisplay(Console(file=screen, width=80, height=40, force_terminal=True, color_system=None))
    clock = Clock()
    watch(database, number, display, interval=20.0, timeout=20.0, clock=clock, sleep=clock.sleep)
    text = screen.getvalue().rsplit("\x1b[2K", 1)[-1]
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "files ━" in text and "12.5 %" in text and "bytes ━" in text
    assert "/raw/f00002.fits" in text and "50 %" in text and "1 file failed" in text
    assert "nothing has moved for 20 s; why: dts-request explain" in text
    assert "\x1b[31m" not in text and "\\x1b[31m" in text
