"""Where the data connections of one transfer go: to the daemon's listener, or to one of ours that it connects to."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dtscore.errors import StreamLostError
from dtsnet.carriage import CarryOptions
from dtsnet.frames import Stream
from dtsnet.meeting import Listener, Meeting, connect
from dtsnet.rpc import Remote, tls_to
from dtsnet.tickets import Ticket

LISTENING = 0.5
"""Seconds that a sender who listens waits for one connection, before it looks whether it is still wanted."""

OFTEN, SHORTLY = 100, 0.005
"""How often, and after what pause (s), it waits again."""


@dataclass(frozen=True, slots=True)
class Channel:
    """Where somebody listens for the connections of one transfer."""

    host: str
    port: int
    ticket: Ticket = field(repr=False)
    tls: Any = None
    idle: float = 60.0

    def connect(self, number: int) -> Stream:
        """Return a new connection as stream `number`; raises DtsError, OSError."""
        return connect(self.host, self.port, self.ticket, number, tls=self.tls, idle=self.idle)


class TlsFrom:
    """The roles of TLS by who has a certificate: whoever listens for the connection may still be TLS's client."""

    def __init__(self, context: ssl.SSLContext, host: str = "") -> None:
        """As server with the context's certificate, or, where a host is named, as client that checks the host's."""
        self._context = context
        self._host = host

    def wrap_socket(
        self, sock: socket.socket, server_side: bool = False, *, server_hostname: str | None = None
    ) -> ssl.SSLSocket:
        """Do the handshake in our role, whatever the transport takes us for."""
        if self._host:
            return self._context.wrap_socket(sock, server_hostname=self._host)
        return self._context.wrap_socket(sock, server_side=True)


class Hearing:
    """We listen, for one transfer, for the daemon to connect to us."""

    def __init__(self, remote: Remote, options: CarryOptions) -> None:
        """Find the address at which the daemon reaches us, and listen there."""
        self.encrypted = remote.address.is_tls if options.tls is None else options.tls
        self.host = options.host or _our_address(remote)
        tls: Any = TlsFrom(tls_to(remote.address), remote.address.host) if self.encrypted else None
        self._listener = Listener(options.host or self.host, options.port, tls=tls, idle=options.idle)
        self.port = self._listener.port

    def issue(self, meeting: Meeting, streams: int) -> Ticket:
        """Return a ticket for connections that `meeting` gets."""
        return self._listener.tickets.issue(meeting, streams)

    def __enter__(self) -> Hearing:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def _our_address(remote: Remote) -> str:
    """Return our address on the way to a daemon; raises StreamLostError."""
    address = remote.address
    try:
        family, kind, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise StreamLostError(f"{address.name}: no way there: {error.strerror}", "is the host's name right?") from error


def channel_of(remote: Remote, offer: Mapping[str, Any], options: CarryOptions) -> Channel:
    """Return where to come for what a daemon offers."""
    tls: Any = TlsFrom(tls_to(remote.address), remote.address.host) if offer["tls"] else None
    host, ticket = offer["host"] or remote.address.host, Ticket.parse(offer["ticket"])
    return Channel(host, offer["port"], ticket, tls, options.idle)
