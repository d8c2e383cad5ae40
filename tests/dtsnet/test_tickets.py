"""Tickets join data connections to a transfer, and nobody else's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dtscore.errors import CredentialsError, DtsError, ProtocolError, StreamLostError
from dtsnet.tickets import Ticket, Tickets, join


def meet(tickets: Tickets[str], connector: Callable[[socket.socket], object]) -> tuple[object, object]:
    """Run a connector against `admit`; return what both sides got or raised."""
    ours, theirs = socket.socketpair()
    ours.settimeout(3)
    theirs.settimeout(3)
    results: dict[str, object] = {}

    def admit() -> None:
        try:
            results["admitted"] = tickets.admit(theirs)
        except DtsError as error:
            results["admitted"] = error
        finally:
            theirs.close()

    thread = threading.Thread(target=admit)
    thread.start()
    try:
        results["joined"] = connector(ours)
    except DtsError as error:
        results["joined"] = error
    finally:
        ours.close()
        thread.join()
    return results["admitted"], results["joined"]


def joining(ticket: Ticket, stream: int) -> Callable[[socket.socket], object]:
    """Return a connector that joins."""
    return lambda connection: join(connection, ticket, stream)


def test_a_ticket_joins_its_streams_to_its_transfer() -> None:
    """Each stream is let in under its number, also a second time after a cut."""
    tickets: Tickets[str] = Tickets()
    ticket = Ticket.parse(str(tickets.issue("transfer", 3)))
    for stream in (0, 2, 1, 2):
        admitted, _ = meet(tickets, joining(ticket, stream))
        assert admitted == ("transfer", stream)


def test_strangers_are_refused() -> None:
    """An unknown number, a wrong secret, a stream too many, a void and a stale ticket are all refused."""
    tickets: Tickets[str] = Tickets()
    ticket = tickets.issue("transfer", 2)
    wrong = [Ticket(bytes(8), ticket.secret), Ticket(ticket.number, bytes(32))]
    for one, stream in [(wrong[0], 0), (wrong[1], 0), (ticket, 2)]:
        admitted, joined = meet(tickets, joining(one, stream))
        assert isinstance(admitted, CredentialsError)
        assert isinstance(joined, StreamLostError)
    tickets.void(ticket)
    assert isinstance(meet(tickets, joining(ticket, 0))[0], CredentialsError)
    brief: Tickets[str] = Tickets(lifetime=-1.0)
    stale = brief.issue("transfer", 1)
    assert isinstance(meet(brief, joining(stale, 0))[0], CredentialsError)


class Tapped(socket.socket):
    """A connection that somebody listens to."""

    def __init__(self, connection: socket.socket, heard: bytearray) -> None:
        """Take the connection over."""
        super().__init__(fileno=connection.detach())
        self.heard = heard

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send and write down."""
        self.heard.extend(data)
        super().sendall(data, flags)


def test_what_was_overheard_is_of_no_use() -> None:
    """A join that is played back is refused, since the listener's nonce is another one."""
    tickets: Tickets[str] = Tickets()
    ticket = tickets.issue("transfer", 1)
    heard = bytearray()

    assert meet(tickets, lambda connection: join(Tapped(connection, heard), ticket, 0))[0] == ("transfer", 0)
    assert ticket.secret not in bytes(heard)
    admitted, _ = meet(tickets, say(bytes(heard)))
    assert isinstance(admitted, CredentialsError)


def test_a_listener_must_know_the_ticket_too() -> None:
    """A connector does not send a file to whoever happens to listen."""
    ours, theirs = socket.socketpair()
    theirs.sendall(b"DTSL\0\1" + bytes(16 + 32))
    with pytest.raises(CredentialsError):
        join(ours, Ticket(bytes(8), b"s" * 32), 0)
    ours.close()
    theirs.close()


def say(words: bytes) -> Callable[[socket.socket], object]:
    """Return a connector that says something after the greeting."""

    def connector(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(words)

    return connector


def test_another_protocol_is_told() -> None:
    """Whoever knocks by mistake gets an error that says so."""
    admitted, _ = meet(Tickets(), say(b"GET / HTTP/1.1\r\n" + bytes(100)))
    assert isinstance(admitted, ProtocolError)


def test_another_version_is_told_by_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side names both versions."""
    admitted, _ = meet(Tickets(), say(b"DTSJ\0\7" + bytes(100)))
    assert "version 7" in str(admitted)
    assert "version 1" in str(admitted)
    ours, theirs = socket.socketpair()
    theirs.sendall(b"DTSL\0\2" + bytes(16))
    with pytest.raises(ProtocolError, match=r"version 2 .* version 1"):
        join(ours, Ticket(bytes(8), bytes(32)), 0)
    ours.close()
    theirs.close()


def test_slow_bytes_do_not_hold_a_listener_for_ever() -> None:
    """A joining connection has so many seconds in all, and not for each byte."""
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            ours.send(b"D")

    dripping = threading.Thread(target=drip)
    dripping.start()
    tickets: Tickets[str] = Tickets()
    try:
        with pytest.raises((StreamLostError, ProtocolError)):
            tickets.admit(theirs, 0.3)
    finally:
        stop.set()
        dripping.join()
        ours.close()
        theirs.close()


@pytest.mark.parametrize("text", ["", "zz", "00" * 39])
def test_a_ticket_is_read_with_care(text: str) -> None:
    """What is no ticket is an error of ours; a secret shows in no representation."""
    with pytest.raises(ProtocolError):
        Ticket.parse(text)
    assert "73" * 4 not in repr(Ticket(b"n" * 8, b"s" * 32))
