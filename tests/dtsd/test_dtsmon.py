"""dtsmon stays with its sites: links that come back, and the program against a daemon."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dtscore.config import load
from dtscore.errors import DtsError, NotFoundError, StreamLostError
from dtscore.monitoring import say
from dtsd import dtsmon
from dtsd.dtsmon_link import Heard, Link, Place
from dtsd.monitor_board import Board
from dtsd.monitor_port import Port
from dtsd.server.daemon import Daemon
from dtsd.site import create_site

SECRET = "vBq3-kfYw8Zs5JmT1xLr7PnC4dHg9aEu"


def secret_of(user: str) -> bytes | None:
    """The users file of these tests."""
    return SECRET.encode() if user == "anna" else None


class Told:
    """What links told, as it comes."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.queue: queue.Queue[Heard] = queue.Queue()

    def next(self, *kinds: str) -> dict[str, object]:
        """Return the next event of these kinds."""
        while True:
            event = self.queue.get(timeout=20.0).event
            if event["event"] in kinds:
                return event


def test_a_link_comes_back_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, connected, told goodbye, cut off and connected again: it says so each time and loses no patience."""
    monkeypatch.setattr("dtsd.dtsmon_link._LONGEST_PAUSE", 0.05)
    told, board, ports = Told(), Board(), [1]
    link = Link("fnal", lambda: Place("127.0.0.1", ports[-1], "anna", SECRET.encode()), told.queue.put)
    link.start()
    assert "cannot be reached" in str(told.next("link")["message"])
    for _ in range(3):
        port = Port(board, "127.0.0.1", 0, secret_of)
        ports.append(port.port)
        while told.next("link")["state"] != "connected":
            pass
        board.tell("error", message="heard")
        assert told.next("error")["message"] == "heard"
        port.close()
        event = told.next("link")
        assert (event["state"], event["message"]) == ("lost", "the daemon said goodbye: the daemon ends")
    link.close()
    link.join(timeout=20.0)
    assert not link.is_alive()


def test_a_link_gives_up_what_trying_again_does_not_mend() -> None:
    """A wrong secret is told once, with what to do; nobody asks for days."""
    told, port = Told(), Port(Board(), "127.0.0.1", 0, secret_of)
    link = Link("fnal", lambda: Place("127.0.0.1", port.port, "anna", b"z" * 32), told.queue.put)
    link.start()
    link.join(timeout=20.0)
    event = told.next("link")
    assert (event["state"], event["message"]) == ("refused", "user or secret are not right, or the user may not read")
    assert link.refused is not None
    port.close()


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9\r\n", b"DTSM 2 " + b"0" * 64 + b"\n", b"x" * 1000, b"", b"\n\n"])
def test_what_is_no_monitor_is_found_out(said: bytes) -> None:
    """Another service on that port, or another version, is named; nothing hangs."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                connection.recv(256)

    thread = threading.Thread(target=serve)
    thread.start()
    told = Told()
    link = Link("fnal", lambda: Place("127.0.0.1", server.getsockname()[1], "anna", b"z" * 32), told.queue.put)
    link.start()
    event = told.next("link")
    assert event["state"] == "lost"
    assert any(
        word in str(event["message"]) for word in ("no monitor", "version 2", "more than 256", "closed the connection")
    )
    link.close()
    thread.join()
    server.close()


# The program and a daemon


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site whose daemon may take any free ports, with a user who may read."""
    folder = create_site(tmp_path / "ctio").folder
    users = folder / "etc" / "dtsd.users"
    users.write_text(f"{users.read_text()}anna read {SECRET}\n")
    ini = folder / "etc" / "dts.ini"
    ports = "[dtsd]\nport = 0\ndata_port = 0\nmonitor_port = 0\n"
    ini.write_text(ini.read_text().replace("[dtsd]\n", ports))
    return folder


@pytest.fixture
def daemon(site: Path) -> Iterator[Daemon]:
    """The site's daemon."""
    made = Daemon(load(site))
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join()


@pytest.fixture
def watching(site: Path, daemon: Daemon) -> Path:
    """The same site, where the daemon's real port is known, and [remote fnal] means that daemon too."""
    ini = site / "etc" / "dts.ini"
    secret = site / "etc" / "fnal.secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    remote = f"\n[remote fnal]\nurl = http://127.0.0.1:{daemon.port}\nuser = anna\nsecret_file = etc/fnal.secret\n"
    text = ini.read_text().replace("\nport = 0\n", f"\nport = {daemon.port}\n")
    ini.write_text(text.replace("127.0.0.1:7740", f"127.0.0.1:{daemon.port}") + remote)
    return site


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(watching: Path) -> Iterator[Start]:
    """Start dtsmon as a process of its own."""
    begun: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        code = f"{interruptible}; from dtsd.dtsmon import main; main()"
        command = [sys.executable, "-c", code, "--config", str(watching), *words]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def test_two_sites_are_watched_at_once(start: Start, watching: Path, daemon: Daemon) -> None:
    """Own site and a remote, as JSON: what a program says at the site is heard, and Ctrl-C ends with 130."""
    process = start("--json", "ctio", "fnal")
    assert process.stdout is not None
    connected: set[str] = set()
    while len(connected) < 2:
        event = json.loads(process.stdout.readline())
        connected |= {event["site"]} if event["event"] == "link" and event["state"] == "connected" else set()
    say(watching / "var" / "run", "error", what="test", message="heard by both")
    sites: list[str] = []
    while len(sites) < 2:
        event = json.loads(process.stdout.readline())
        if event.get("message") == "heard by both":
            sites.append(event["site"])
    assert sorted(sites) == ["ctio", "fnal"]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20.0) == 130
    assert daemon.site.monitor.watchers <= 2


def test_lines_in_a_pipe_come_at_once(start: Start, watching: Path) -> None:
    """Off a terminal lines are printed, each when it happens; what the look at the database found is among them."""
    process = start()
    assert process.stdout is not None
    assert "ctio connected to 127.0.0.1:" in process.stdout.readline()
    say(watching / "var" / "run", "queue", name="des", state="running")
    assert process.stdout.readline().rstrip().endswith("ctio queue des running")


def test_strange_names_and_bad_secrets(watching: Path) -> None:
    """An unknown site is refused before anything is done; a remote that refuses us ends the watch with its reason."""
    runner = CliRunner()
    with pytest.raises(NotFoundError, match="no remote 'fnl'"):
        runner.invoke(dtsmon.main, ["--config", str(watching), "fnl"], standalone_mode=False, catch_exceptions=False)
    (watching / "etc" / "fnal.secret").write_text("Q" + SECRET[1:])
    result = runner.invoke(dtsmon.main, ["--config", str(watching), "fnal"], standalone_mode=False)
    assert result.return_value == 1
    assert "fnal not watched: " in result.output


def test_a_site_without_its_secret_says_what_to_do(watching: Path) -> None:
    """Where our secret cannot be read the watch ends with that, and does not ask again and again."""
    (watching / "etc" / "dtsd.secret").chmod(0o644)
    result = CliRunner().invoke(dtsmon.main, ["--config", str(watching)], standalone_mode=False)
    assert result.return_value == 78
    assert "chmod 600" in result.output


def test_the_daemon_tells_of_the_work_in_hand(watching: Path, daemon: Daemon) -> None:
    """The method `monitor` says where to attach, and a watcher hears how the site stands without asking."""
    place = dtsmon.finder(load(watching), "fnal")()
    assert place.port == daemon.site.monitor.port
    told = Told()
    link = Link("fnal", lambda: place, told.queue.put)
    link.start()
    event = told.next("site")
    assert (event["name"], event["waiting"], event["agents"]) == ("ctio", 0, 0)
    assert isinstance(event["free"], int)
    link.close()


def test_errors_of_finding_are_of_our_tree(watching: Path, daemon: Daemon) -> None:
    """A daemon that is away is something to try again, not the end."""
    find = dtsmon.finder(load(watching), "fnal")
    daemon.stop()
    deadline = time.monotonic() + 20.0
    with pytest.raises(DtsError) as caught:
        while time.monotonic() < deadline:
            find()
    assert isinstance(caught.value, StreamLostError)
