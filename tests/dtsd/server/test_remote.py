"""The client: shared by threads, over connections that break at the worst moment, at most once."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from dtscore.errors import DtsError, StreamLostError
from dtsnet.rpc import Address, Remote
from tests.dtsd.server.running import Running


class Cutter:
    """Stands between caller and daemon, and cuts connections: `before` or `after` the daemon has had the request."""

    def __init__(self, port: int) -> None:
        """Listen for callers of the daemon on a port."""
        self._goal = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut = ""
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._goal))
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError):
            while asked := near.recv(65536):
                cut, self.cut = self.cut, ""
                if cut == "before":
                    return
                far.sendall(asked)
                answer = far.recv(65536)
                if cut == "after":
                    return
                near.sendall(answer)

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


@pytest.fixture
def cutter(served: Running) -> Iterator[Cutter]:
    """A cutter before the daemon."""
    made = Cutter(served.daemon.port)
    yield made
    made.close()


def through(served: Running, cutter: Cutter) -> Remote:
    """Call through the cutter as admin."""
    return Remote(Address(f"http://127.0.0.1:{cutter.port}/RPC2", "admin", served.secrets["admin"]))


def test_a_kept_connection_that_has_ended(served: Running, cutter: Cutter) -> None:
    """A call that the daemon never had is made again by itself."""
    remote = through(served, cutter)
    assert remote.call("ping") == "pong"
    cutter.cut = "before"
    assert remote.call("mkdir", "before") is True
    assert cutter.connections == 2


def test_an_answer_that_is_lost(served: Running, cutter: Cutter) -> None:
    """A call that the daemon has taken is not made twice: the caller hears that it cannot know."""
    remote = through(served, cutter)
    assert remote.call("ping") == "pong"
    made = served.daemon.calls.made
    cutter.cut = "after"
    with pytest.raises(StreamLostError, match="its answer is lost"):
        remote.call("mkdir", "after")
    assert (served.root / "after").is_dir()
    assert served.daemon.calls.made == made + 1
    assert remote.call("ping") == "pong"


def test_a_new_connection_that_breaks(served: Running, cutter: Cutter) -> None:
    """Nothing is tried again on a connection that was new."""
    for cut in ("before", "after"):
        cutter.cut = cut
        with pytest.raises(StreamLostError):
            through(served, cutter).call("mkdir", f"new-{cut}")
    assert (served.root / "new-after").is_dir()
    assert not (served.root / "new-before").exists()


def test_threads_share_one(served: Running) -> None:
    """Each of 16 threads gets its own answers, over not more connections than threads."""
    remote = served.remote()
    for number in range(16):
        (served.root / f"t{number}").write_bytes(b"x" * number)
    wrong: list[object] = []

    def ask(number: int) -> None:
        for _ in range(50):
            try:
                size = remote.call("fsize", f"t{number}")
                if size != number:
                    wrong.append(size)
            except DtsError as error:
                wrong.append(error.message)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(remote._idle) <= 16
    remote.close()


def test_an_answer_that_does_not_come(served: Running) -> None:
    """The caller's time is over, whatever the other side does: here it listens and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address(f"http://127.0.0.1:{silent.getsockname()[1]}/RPC2", timeout=0.3)
        with pytest.raises(StreamLostError, match="no answer in time"):
            Remote(address).call("ping")
    with pytest.raises(StreamLostError, match="no answer in time"):
        served.remote().call("ping", timeout=0.0)
