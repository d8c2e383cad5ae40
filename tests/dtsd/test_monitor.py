"""The monitor's port: who may watch, what watchers get, and that nobody waits for one who does not read."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dtscore.errors import CredentialsError, DtsError, ProtocolError, StateError, StreamLostError
from dtscore.monitoring import LONGEST, SOCKET, say
from dtsd.monitor import Monitor
from dtsd.monitor_board import Board, Buffer
from dtsd.monitor_port import Port
from dtsd.monitor_socket import Gatherer
from dtsd.monitor_wire import Lines, attach, new_nonce, prove

SECRET = b"s" * 16 + b"0123456789abcdef"


def secret_of(user: str) -> bytes | None:
    """The users file of these tests."""
    return SECRET if user == "anna" else None


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    """A monitor on loopback."""
    opened = Monitor(tmp_path / "run", "127.0.0.1", 0, secret_of, most=4)
    yield opened
    opened.close()


class Watcher:
    """A watcher that has proved itself."""

    def __init__(self, port: int, user: str = "anna", secret: bytes = SECRET) -> None:
        """Connect and attach; raises what `attach` raises."""
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=20.0)
        try:
            self.lines = attach(self.connection, user, secret, 20.0)
        except DtsError:
            self.connection.close()
            raise
        self.connection.settimeout(20.0)

    def next(self, *kinds: str) -> dict[str, object]:
        """Return the next event, of certain kinds if any are given."""
        while True:
            event: dict[str, object] = json.loads(self.lines.next())
            if event["event"] in kinds if kinds else event["event"] != "alive":
                return event

    def close(self) -> None:
        """Go away."""
        self.connection.close()


@pytest.fixture
def watch(monitor: Monitor) -> Iterator[Callable[[], Watcher]]:
    """Make watchers of the monitor, which go away at the end."""
    with contextlib.ExitStack() as stack:

        def make() -> Watcher:
            watcher = Watcher(monitor.port)
            stack.callback(watcher.close)
            return watcher

        yield make


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other threads bring about."""
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_watcher_hears_the_daemon_and_the_programs(
    monitor: Monitor, watch: Callable[[], Watcher], tmp_path: Path
) -> None:
    """Both what dtsd tells itself and what a program says arrive, in order, at every watcher."""
    first, second = watch(), watch()
    monitor.tell("error", what="dtsd", message="one")
    for watcher in (first, second):
        assert watcher.next()["message"] == "one"
    say(tmp_path / "run", "files", done=3, target="fnal")
    for watcher in (first, second):
        event = watcher.next()
        assert (event["event"], event["done"], event["target"]) == ("files", 3, "fnal")


def test_who_comes_later_is_told_how_things_stand(monitor: Monitor, watch: Callable[[], Watcher]) -> None:
    """The latest of each queue and running transfer comes first; what ended, and what only happened, does not."""
    monitor.tell("transfer", number="1", state="running", bytes=1)
    monitor.tell("transfer", number="2", state="running", bytes=1)
    monitor.tell("transfer", number="1", state="running", bytes=2)
    monitor.tell("transfer", number="2", state="done", bytes=9)
    monitor.tell("queue", name="des", state="running")
    monitor.tell("error", message="gone by")
    watcher = watch()
    assert [(event["event"], event.get("bytes")) for event in (watcher.next(), watcher.next())] == [
        ("transfer", 2),
        ("queue", None),
    ]
    monitor.tell("error", message="now")
    assert watcher.next()["message"] == "now"


@pytest.mark.parametrize(("user", "secret"), [("anna", b"x" * 32), ("bert", SECRET), ("anna", b"")])
def test_wrong_credentials_are_refused(monitor: Monitor, user: str, secret: bytes) -> None:
    """A wrong secret and an unknown user get the same answer."""
    with pytest.raises(CredentialsError, match="user or secret are not right"):
        Watcher(monitor.port, user, secret)


def test_a_proof_is_good_for_one_connection(monitor: Monitor) -> None:
    """Played back on another connection, where the nonce is another, it is refused."""
    said: list[bytes] = []
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", monitor.port), timeout=20.0) as connection:
            nonce = connection.recv(256).split()[2].decode()
            ours = new_nonce()
            said.append(f"WATCH anna {ours} {prove(SECRET, 'watch', 'anna', nonce, ours)}\n".encode())
            connection.sendall(said[0])
            answer = connection.recv(256)
    assert answer.startswith(b"NO credentials ")


def test_a_watchers_proof_is_not_the_daemons(monitor: Monitor) -> None:
    """A stranger that plays the daemon and sends back what it was sent is found out."""
    server = socket.create_server(("127.0.0.1", 0))

    def mirror() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"DTSM 1 " + b"0" * 64 + b"\n")
            connection.sendall(b"OK " + connection.recv(256).split()[3] + b"\n")

    thread = threading.Thread(target=mirror)
    thread.start()
    with pytest.raises(CredentialsError, match="does not know our secret"):
        Watcher(server.getsockname()[1])
    thread.join()
    server.close()


def test_one_watcher_too_many_is_told_so(monitor: Monitor, watch: Callable[[], Watcher]) -> None:
    """The cap holds, and a place becomes free when a watcher goes."""
    watchers = [watch() for _ in range(4)]
    with pytest.raises(StateError, match="as many watch as may"):
        watch()
    watchers[0].close()

    def gone() -> bool:
        monitor.tell("error", message="is anybody there?")
        return monitor.watchers < 4

    until(gone)
    until(lambda: _let_in(watch))


def _let_in(watch: Callable[[], Watcher]) -> bool:
    """Whether a watcher is let in; its place becomes free a moment after the one before was seen to go."""
    try:
        watch()
    except StateError:
        return False
    return True


def test_a_stalled_watcher_slows_nobody(tmp_path: Path) -> None:
    """30,000 events pass by one who does not read: the others get all, and it learns how many it lost."""
    board = Board()
    port = Port(board, "127.0.0.1", 0, secret_of, buffer=64 * 1024, alive=0.2)
    stalled, reading = Watcher(port.port), Watcher(port.port)
    told, rounds = 0, 60
    for number in range(rounds):  # the one who reads keeps up, for it is waited for here
        for _ in range(500):
            board.tell("files", done=told, filler="f" * 40)
            told += 1
            if told % 250 == 0:
                while reading.next("files", "lost")["done"] != told - 1:
                    pass
        assert port.watchers == 2, number
    numbers: list[int] = []
    lost = 0
    while not numbers or numbers[-1] != told - 1:
        event = stalled.next("files", "lost")
        if event["event"] == "lost":
            lost += int(str(event["lines"]))
        else:
            numbers.append(int(str(event["done"])))
    assert numbers == sorted(numbers)
    assert lost > 0
    assert lost + len(numbers) == told
    stalled.close()
    reading.close()
    port.close()


def test_telling_costs_the_same_whether_watchers_read_or_not() -> None:
    """A full buffer drops what is oldest, within its bound, and whoever tells only appends."""
    buffer = Buffer(most=1000)
    for number in range(10_000):
        buffer.put(b"%09d" % number)
    taken = buffer.take(0.0).splitlines()
    assert json.loads(taken[0])["lines"] == 9900
    assert taken[1:] == [b"%09d" % number for number in range(9900, 10_000)]
    assert buffer.take(0.0) == b""


def test_a_watcher_is_told_that_nothing_happens() -> None:
    """A quiet connection carries `alive`, so that either side finds out when the other is gone."""
    port = Port(Board(), "127.0.0.1", 0, secret_of, alive=0.05)
    watcher = Watcher(port.port)
    assert json.loads(watcher.lines.next())["event"] == "alive"
    watcher.close()
    until(lambda: port.watchers == 0)
    port.close()


def test_the_end_is_told(tmp_path: Path) -> None:
    """A daemon that ends says `bye`, after all that it had told before, and takes its socket away."""
    monitor = Monitor(tmp_path, "127.0.0.1", 0, secret_of)
    watcher = Watcher(monitor.port)
    monitor.tell("error", message="the last")
    monitor.close()
    assert watcher.next()["message"] == "the last"
    assert watcher.next()["event"] == "bye"
    with pytest.raises(StreamLostError):
        watcher.lines.next()
    watcher.close()
    assert not (tmp_path / SOCKET).exists()


def test_a_daemon_takes_the_socket_over(tmp_path: Path) -> None:
    """What is said is heard by the later of two; the earlier one's end leaves the later one's socket alone."""
    earlier, later = Board(), Board()
    first = Gatherer(tmp_path, earlier)
    second = Gatherer(tmp_path, later)
    buffer = later.attach()
    first.close()
    say(tmp_path, "error", message="heard")
    assert json.loads(buffer.take(20.0))["message"] == "heard"
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_datagrams_that_are_no_events_are_dropped(tmp_path: Path) -> None:
    """Whatever lands on the socket, only events pass on, and hearing goes on."""
    board = Board()
    gatherer = Gatherer(tmp_path, board)
    buffer = board.attach()
    bad = [
        b"", b"x", b"\xff\xfe", b"[" * 8000, b"{}", b'{"event":3}', b'{"event":"Bad Name"}', b'{"event":"a","b":{}}',
        b'{"event":"a","b":[1]}', b'{"event":"a","b":NaN}', b'{"event":"a","b":1e999}', b'"event"', b"null",
        b'{"event":"a","b":"' + b"\xc3\xa4" * 2000 + b'"}', b'{"event":"a"}' + b" " * LONGEST, b"9" * 5000,
    ]  # fmt: skip
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for datagram in [*bad, b'{"event":"fine","b":["x"],"c":null,"d":1.5}']:
        sender.sendto(datagram, str(tmp_path / SOCKET))  # blocking: none is lost here
    assert json.loads(buffer.take(20.0)) == {"event": "fine", "b": ["x"], "c": None, "d": 1.5}
    sender.close()
    gatherer.close()


def test_lines_are_bounded() -> None:
    """A line that never ends is refused before it fills the memory."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"ab\ncd\n" + b"x" * 300)
        lines = Lines(ours, 256)
        assert (lines.next(), lines.next()) == (b"ab", b"cd")
        with pytest.raises(ProtocolError, match="more than 256 bytes"):
            lines.next()
