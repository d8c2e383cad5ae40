"""Receivers on loopback, senders to them, and a network between both that cuts connections and flips bits."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dtscore.errors import DtsError
from dtsnet.folder import FolderTarget
from dtsnet.frames import Stream
from dtsnet.meeting import Listener, Meeting, Tls, connect
from dtsnet.outgoing import Outgoing, Sent
from dtsnet.receiver import Receiver
from dtsnet.sandbox import Sandbox
from dtsnet.sender import Sender, SendOptions

MIB = 1024 * 1024
IDLE = 5.0


class Site:
    """A receiver on loopback: a listener with tickets, and one session at a time."""

    def __init__(self, folder: Path, tls: Tls | None = None) -> None:
        """Listen, and land in `folder`, which is made if it is missing."""
        folder.mkdir(exist_ok=True)
        self.sandbox = Sandbox(str(folder))
        self.target = FolderTarget(self.sandbox)
        self.listener = Listener("127.0.0.1", idle=IDLE, tls=tls)
        self.receiver = Receiver(self.target)
        self.errors: list[DtsError] = []
        self.goodbyes = 0
        self.served = threading.Event()
        self.new_session()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.listener.port

    def new_session(self) -> None:
        """Forget the files of the session before."""
        self.receiver.close()
        self.receiver = receiver = Receiver(self.target)
        self.ticket = self.listener.tickets.issue(Meeting(lambda stream: self.serve(receiver, stream)), 0)

    def serve(self, receiver: Receiver, stream: Stream) -> None:
        """Serve one connection, and keep how it ended."""
        try:
            self.goodbyes += receiver.serve(stream)
        except DtsError as error:
            self.errors.append(error)
        finally:
            stream.abort()
            stream.close()
            self.served.set()

    def connect(self, number: int) -> Stream:
        """Connect to this site."""
        return connect(*self.address, self.ticket, number, idle=IDLE)

    def close(self) -> None:
        """Stop."""
        self.listener.close()
        self.receiver.close()
        self.sandbox.close()


def outgoing(path: Path, name: str, *, overwrite: bool = False) -> Outgoing:
    """Return a file of the local disk to be sent under a name."""
    return Outgoing(name, lambda: os.open(path, os.O_RDONLY), overwrite)


def send(
    site: Site,
    files: Iterable[Outgoing],
    streams: int = 3,
    connect: Callable[[int], Stream] | None = None,
    pause: float = 0.02,
) -> tuple[Sender, list[Sent]]:
    """Send files in a new session; return the sender and how each file ended."""
    site.new_session()
    sender = Sender(connect or site.connect, files, SendOptions(streams=streams, idle=IDLE, pause=pause, reconnects=50))
    return sender, sender.run()


class Cutter:
    """Connections through a proxy that does what networks do: it cuts, damages, swallows and holds up."""

    def __init__(
        self,
        site: Site,
        *,
        cut_after: int | None = None,
        cuts: int = 0,
        flip_at: int | None = None,
        link_cuts: int = 0,
        link_after: int = 0,
        swallow_after: int | None = None,
        hold_after: int | None = None,
    ) -> None:
        """Listen; each connection counts the bytes that it carried to the site.

        `cuts` times a connection is cut that has carried more than `cut_after`; `link_cuts` times all are, whenever
        all have carried some `link_after` more; one bit is flipped at `flip_at`; one connection carries nothing any
        more, either way, after `swallow_after`, and one is held up after `hold_after` until `release`.
        """
        self.site, self.cut_after, self.cuts, self.flip_at = site, cut_after, cuts, flip_at
        self.link_cuts, self.link_after = link_cuts, link_after
        self.swallow_after, self.hold_after = swallow_after, hold_after
        self.lock = threading.Lock()
        self.random = random.Random(1)
        self.link_passed = 0
        self.connections: list[socket.socket] = []
        self.released = threading.Event()
        self.listening = socket.socket()
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def connect(self, number: int) -> Stream:
        """Connect through the proxy."""
        return connect("127.0.0.1", self.listening.getsockname()[1], self.site.ticket, number, idle=IDLE)

    def accept(self) -> None:
        """Carry each connection to the site and back, until the proxy closes."""
        while True:
            try:
                ours, _ = self.listening.accept()
            except OSError:
                return
            server = socket.create_connection(self.site.address)
            with self.lock:
                self.connections += [ours, server]
            silent = threading.Event()
            threading.Thread(target=self.forward, args=(ours, server, silent), daemon=True).start()
            threading.Thread(target=self.back, args=(server, ours, silent), daemon=True).start()

    def release(self) -> None:
        """Let go on what is held up."""
        self.released.set()

    def close(self) -> None:
        """Let no more connections in, and cut those that there are."""
        self.release()
        part(self.listening, *self.connections)
        self.listening.close()

    def forward(self, source: socket.socket, target: socket.socket, silent: threading.Event) -> None:
        """Carry what the sender says, until it is time to cut."""
        passed = 0
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                with self.lock:
                    if self.is_cut(data, passed, silent):
                        break
                if self.hold_after is not None and passed > self.hold_after:
                    self.released.wait()
                if not silent.is_set():
                    target.sendall(data)
                passed += len(data)
        part(source, target)

    def is_cut(self, data: bytearray, passed: int, silent: threading.Event) -> bool:
        """Do with the bytes what is to be done; whether their connection is cut."""
        if self.flip_at is not None and passed <= self.flip_at < passed + len(data):
            data[self.flip_at - passed] ^= 4
            self.flip_at = None
        if self.swallow_after is not None and passed > self.swallow_after:
            self.swallow_after = None
            silent.set()
        self.link_passed += len(data)
        if self.link_cuts and self.link_passed > self.link_after * self.random.uniform(0.5, 1.5):
            self.link_cuts -= 1
            self.link_passed = 0
            part(*self.connections)
            self.connections.clear()
            return True
        cut = self.cuts > 0 and self.cut_after is not None and passed > self.cut_after
        self.cuts -= cut
        return cut

    def back(self, source: socket.socket, target: socket.socket, silent: threading.Event) -> None:
        """Carry what the receiver says."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not silent.is_set():
                    target.sendall(data)
        part(source, target)


def part(*sockets: socket.socket) -> None:
    """Cut connections, whatever state they are in."""
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class Changing(Stream):
    """A connection on which each frame changes the time of a file."""

    path: Path

    @classmethod
    def over(cls, stream: Stream, path: Path) -> Changing:
        """Take over a stream that has joined."""
        changing = cls(socket.socket(fileno=stream.socket.detach()), stream.number, IDLE)
        changing.path = path
        return changing

    def send(self, *arguments: Any, **options: Any) -> None:
        """Send, then touch the file."""
        super().send(*arguments, **options)
        os.utime(self.path, ns=(0, os.stat(self.path).st_mtime_ns - 1))
