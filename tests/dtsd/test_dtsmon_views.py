"""What dtsmon makes of events, on lines and on a screen of any size."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dtsd.dtsmon_lines import JsonLines, TextLines
from dtsd.dtsmon_link import Heard
from dtsd.dtsmon_screen import Picture, Screen
from dtsd.dtsmon_state import SiteView


def heard(event: str, **fields: object) -> Heard:
    """An event of the site fnal."""
    return Heard("fnal", {"event": event, "at": 1795255265.0, **fields})


def test_a_view_follows_a_transfer_to_its_end() -> None:
    """Rate and time left come from the bytes where the event tells none; an end counts once."""
    view = SiteView("fnal")
    for second in range(11):
        view.take(heard("transfer", number=7, path="a.fits", bytes=second * 1000, size=20_000), 100.0 + second)
    transfer = view.transfers["7"]
    assert transfer.rate == pytest.approx(1000.0)
    assert transfer.eta == pytest.approx(10.0)
    assert view.rate == pytest.approx(1000.0)
    for _ in range(2):
        view.take(heard("transfer", number=7, state="done", bytes=20_000), 120.0)
    assert (view.done, view.failed, view.rate) == (1, 0, 0.0)
    view.forget(121.0)
    assert view.transfers
    view.forget(140.0)
    assert not view.transfers


def test_a_view_keeps_errors_and_forgets_what_fell_silent() -> None:
    """A failed transfer and a failed file are errors; what an agent let go of is no longer shown."""
    view = SiteView("fnal")
    view.take(heard("transfer", number=1, path="a.fits", state="failed", error="no room"), 1.0)
    view.take(heard("files", agent="transfer", done=2, failed=1, example="/b.fits", error="no source"), 1.0)
    view.take(heard("error", what="dtsq", message="no queue"), 1.0)
    view.take(heard("transfer", number="file-3", bytes=1, size=2), 1.0)
    view.take(heard("transfer", number="file-3", state="gone"), 2.0)
    view.take(heard("transfer", number=4, bytes=1), 2.0)
    view.take(heard("lost", lines=12), 2.0)
    view.forget(200.0)
    assert [str(event["message"]) for event in view.errors] == ["a.fits: no room", "/b.fits: no source", "no queue"]
    assert (view.done, view.failed, view.lost, view.transfers) == (2, 2, 12, {})


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**300, 10**301), st.floats(allow_nan=False),
    st.text(max_size=9), st.lists(st.text(max_size=3), max_size=2),
    st.sampled_from(["running", "done", "failed", "lost", "connected", "\x1b[2J"]),
)  # fmt: skip
names = st.sampled_from(["transfer", "queue", "files", "error", "site", "lost", "link", "alive", "bye", "new-kind"])
keys = st.sampled_from(
    ["at", "number", "name", "state", "bytes", "size", "rate", "path", "peer", "error", "lines", "done", "failed",
     "free", "message", "again_in", "streams", "reason", "waiting"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(names, st.dictionaries(keys, values, max_size=6)), max_size=12), st.integers(1, 130))
def test_no_event_breaks_a_view(events: list[tuple[str, dict[str, object]]], width: int) -> None:
    """Whatever types a site's fields have, lines and screen are shown, and nothing reaches the terminal raw."""
    views = {"fnal": SiteView("fnal")}
    lines = TextLines(every=0.0)
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("click.echo", lambda text: printed.append(text))
        for number, (name, fields) in enumerate(events):
            one = Heard("fnal", {**fields, "event": name})
            views["fnal"].take(one, float(number))
            lines.hear(one, float(number))
    assert not any("\x1b" in text or "\n" in text for text in printed)
    assert "\x1b" not in draw(views, width, 12)


def draw(views: dict[str, SiteView], width: int, height: int) -> str:
    """Return the screen as text."""
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(Picture(views, clock=lambda: 1795255265.0), height=height)
    return capture.get()


def busy(name: str) -> SiteView:
    """A site with much going on."""
    view = SiteView(name)
    view.take(heard("link", state="connected", message="127.0.0.1:7742"), 0.0)
    for number in range(40):
        path = f"des/raw/20261120/DECam_{number:08d}.fits.fz"
        for second in (0.0, 10.0):
            fields = {"number": number, "path": path, "peer": "ncsa", "bytes": int(second) << 23, "size": 1 << 28}
            view.take(heard("transfer", **fields), second)
    for name in ("des", "community"):
        view.take(heard("queue", name=name, state="paused", reason="by anna", waiting=1200), 1.0)
    view.take(heard("error", what="dtsq", message="there is no room on the disk [full] \x1b[31m"), 1.0)
    return view


@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (60, 12), (40, 8), (20, 5), (10, 3)])
def test_the_screen_fits_whatever_its_size(width: int, height: int) -> None:
    """No line is longer than the terminal is wide, and there are no more lines than it is high."""
    views = {name: busy(name) for name in ("ctio", "fnal")}
    lines = draw(views, width, max(height, 7)).splitlines()
    assert len(lines) <= max(height, 7)
    assert all(len(text) <= width for text in lines)
    assert any("ctio" in text for text in lines)


def test_the_screen_shows_what_matters() -> None:
    """Bars, rates, times left, paused queues with their reasons, and errors, for each site."""
    text = draw({"ctio": busy("ctio")}, 110, 24)
    for part in ("ctio  connected · 40 running", "DECam_00000000.fits.fz → ncsa", "31 %", "256 MiB", "8 MiB/s", "22 s"):
        assert part in text
    for part in (
        "queue community",
        "paused",
        "1,200 waiting · by anna",
        "dtsq: there is no room",
        "and 2",
        "\\x1b[31m",
    ):
        assert part in text


def test_a_site_that_is_away_is_shown_so() -> None:
    """What was known stays, without rates, and the head says that the connection is lost and made again."""
    view = busy("ctio")
    view.take(heard("link", state="lost", message="connection refused", again_in=2.0), 11.0)
    text = draw({"ctio": view}, 110, 24)
    assert "ctio  lost" in text
    assert "connection refused; trying again" in text
    assert "MiB/s" not in text


def test_a_screen_gives_the_terminal_back() -> None:
    """It draws what is heard, on the terminal's other page, and leaves that page at the end."""
    out = io.StringIO()
    screen = Screen(["fnal"], Console(file=out, width=80, height=20, force_terminal=True))
    screen.hear(heard("error", message="seen"), 1.0)
    screen.tick(100.0)
    screen.close()
    drawn = out.getvalue()
    assert "seen" in drawn
    assert drawn.index("\x1b[?1049h") < drawn.index("seen") < drawn.index("\x1b[?1049l")


def test_lines_say_what_changed_and_not_too_often(capsys: pytest.CaptureFixture[str]) -> None:
    """A running transfer has a line each five seconds, its end always; a queue when it changes; errors at once."""
    lines = TextLines()
    for tick in range(21):
        lines.hear(heard("transfer", number=7, path="a.fits", peer="ncsa", bytes=tick << 20, size=20 << 20), tick / 2)
    lines.hear(heard("transfer", number=7, state="done", bytes=20 << 20), 10.5)
    for state in ("running", "running", "stopped"):
        lines.hear(heard("queue", name="des", state=state, reason="full" if state == "stopped" else ""), 11.0)
    lines.hear(heard("files", agent="transfer", target="archive", done=2, failed=1, example="/b", error="bad\n"), 11.0)
    lines.hear(heard("lost", lines=3), 11.0)
    lines.hear(heard("alive"), 11.0)
    lines.hear(heard("site", free=12), 11.0)
    lines.hear(heard("node-up", host="n1"), 11.0)
    printed = [text.removeprefix("10:01:05Z fnal ") for text in capsys.readouterr().out.splitlines()]
    assert printed == [
        "transfer 7 a.fits → ncsa running: 0 % of 20 MiB",
        "transfer 7 a.fits → ncsa running: 50 % of 20 MiB, 2 MiB/s, 5 s left",
        "transfer 7 a.fits → ncsa running: 100 % of 20 MiB, 2 MiB/s, 0 s left",
        "transfer 7 a.fits → ncsa done: 20 MiB (2 MiB/s)",
        "queue des running",
        "queue des stopped (full)",
        "transfer → archive: 2 Done, 1 Failed; /b: bad\\n",
        "3 lines were lost: this watcher was too slow",
        "node-up host=n1",
    ]


def test_json_lines_are_the_events(capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is an object on one line with its site."""
    lines = JsonLines()
    lines.hear(heard("queue", name="des\n", state="running"), 1.0)
    lines.hear(heard("alive"), 1.0)
    (only,) = capsys.readouterr().out.splitlines()
    assert json.loads(only) == {
        "site": "fnal", "event": "queue", "at": 1795255265.0, "name": "des\n", "state": "running",
    }  # fmt: skip
