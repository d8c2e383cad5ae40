"""Connections to an SSH server: made with known host keys only, kept, shared between threads, renewed when broken."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import paramiko
from paramiko.message import Message
from paramiko.sftp import CMD_EXTENDED, CMD_EXTENDED_REPLY, CMD_INIT

from dtscore.errors import CredentialsError, ElementUnavailableError, HostKeyError, WorkError
from storage.mapping import work_error

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_CHANNEL_WINDOW = 2 << 20
_CHANNELS_PER_LINK = 8
"""Below OpenSSH's MaxSessions of 10."""
_BUSY_SECONDS = 60.0
_CLOSED = "Socket is closed"
"""How paramiko says that a channel has gone, in an OSError without a number."""
_PLAIN_REQUEST = 32 << 10
_PIECE = 64 << 10
_LARGEST_REQUEST = 255 << 10


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Where and as whom to connect; times in seconds. `idle` bounds how long a dead link goes unnoticed."""

    element: str
    host: str
    port: int
    user: str
    known_hosts: str
    key_file: str | None = None
    agent: bool = False
    password: str | None = field(default=None, repr=False)
    connections: int = 4
    connect: float = 15.0
    idle: float = 30.0
    keepalive: int = 15


class SftpClient(paramiko.SFTPClient):
    """paramiko's client, which also knows the server's extensions and limits."""

    def __init__(self, channel: paramiko.Channel) -> None:
        """Greet the server and ask for its limits."""
        self.extensions: frozenset[str] = frozenset()
        super().__init__(channel)
        self.read_size = self.write_size = _PLAIN_REQUEST
        if "limits@openssh.com" in self.extensions:
            reply = self.extended("limits@openssh.com")
            _, read, write, _ = (reply.get_int64() for _ in range(4))
            self.read_size = min(read or _PLAIN_REQUEST, _LARGEST_REQUEST)
            self.write_size = min(write or _PLAIN_REQUEST, _LARGEST_REQUEST)

    def _send_version(self) -> int:
        request = Message()
        request.add_int(3)
        self._send_packet(CMD_INIT, request)  # type: ignore[attr-defined]
        _, data = self._read_packet()  # type: ignore[attr-defined]
        reply = Message(data[4:])
        names = set()
        while reply.get_remainder():
            names.add(reply.get_text())
            reply.get_binary()
        self.extensions = frozenset(names)
        return int(struct.unpack(">I", data[:4])[0])

    def _read_all(self, count: int) -> bytes:
        # Overrides paramiko's, which joins the pieces of a packet one by one, copying all before it each time.
        packet = bytearray()
        while len(packet) < count:
            piece = self.sock.recv(count - len(packet))
            if not piece:
                raise EOFError("the server closed the channel")
            packet += piece
        return bytes(packet)

    def _write_all(self, out: bytes) -> None:
        # Overrides paramiko's, which copies the whole rest of a packet after each piece.
        view = memoryview(out)
        while view:
            sent = self.sock.send(view[:_PIECE])  # type: ignore[arg-type]
            if sent <= 0:
                raise EOFError("the server closed the channel")
            view = view[sent:]

    def extended(self, name: str, *arguments: str | bytes) -> Message:
        """Send an extended request and return its reply; raises OSError as the server refuses."""
        kind, reply = self._request(CMD_EXTENDED, name, *arguments)  # type: ignore[attr-defined]
        return reply if kind == CMD_EXTENDED_REPLY else Message()

    def fsync(self, handle: bytes) -> None:
        """Make an open file, or an open folder, durable; nothing where the server does not offer it."""
        if "fsync@openssh.com" in self.extensions:
            self.extended("fsync@openssh.com", handle)

    def space(self, path: str) -> tuple[int, bool] | None:
        """Return free bytes and whether it is mounted read-only; None where the server does not offer it."""
        if "statvfs@openssh.com" not in self.extensions:
            return None
        reply = self.extended("statvfs@openssh.com", path)
        values = [reply.get_int64() for _ in range(11)]
        return values[1] * values[4], bool(values[9] & 1)


class _RefuseUnknown(paramiko.RejectPolicy):
    """Refuses unknown hosts with an error of our tree."""

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> NoReturn:
        raise HostKeyError(
            f"element {self._settings.element!r}: host {hostname!r} is not in {self._settings.known_hosts!r}; it shows "
            f"{key.get_name()} {key.fingerprint}",
            "compare the fingerprint with the host's administrator, then add the key with ssh-keyscan",
            element=self._settings.element,
        )


def sftp_error(error: Exception, element: str, what: str) -> WorkError:
    """Return the error of our tree for one of paramiko's or the server's."""
    message = f"element {element!r}: {what}: {error or type(error).__name__}"
    if isinstance(error, paramiko.BadHostKeyException):
        hint = "find out why before anything else; if the host was reinstalled, replace its line in known_hosts"
        return HostKeyError(message, hint, element=element)
    if isinstance(error, paramiko.AuthenticationException):
        hint = "check user, key and password file, and the server's authorized_keys"
        return CredentialsError(message, hint, element=element)
    lost = (paramiko.SSHException, paramiko.ssh_exception.NoValidConnectionsError, EOFError)
    if isinstance(error, lost) or str(error) == _CLOSED:
        return ElementUnavailableError(message, f"see what `dts se check {element}` says", element=element)
    return work_error(error, element, what)


def _transport(sock: Any, **keywords: Any) -> paramiko.Transport:
    transport = paramiko.Transport(sock, **keywords)
    options = transport.get_security_options()
    # AES-GCM first: one pass for cipher and authentication, which is what bounds paramiko.
    options.ciphers = (*_CIPHERS, *(name for name in options.ciphers if name not in _CIPHERS and "cbc" not in name))
    return transport


class Link:
    """One connection with several channels."""

    def __init__(self, settings: LinkSettings) -> None:
        """Connect and authenticate."""
        self._settings = settings
        self.busy = 0
        self.idle: list[SftpClient] = []
        self._ssh = paramiko.SSHClient()
        try:
            self._connect()
        except BaseException:
            self._ssh.close()
            raise

    def _connect(self) -> None:
        to = self._settings
        self._ssh.set_missing_host_key_policy(_RefuseUnknown(to))
        with suppress(FileNotFoundError):  # no file: every host is unknown, and refused as such
            self._ssh.load_host_keys(to.known_hosts)
        self._ssh.connect(
            to.host, to.port, to.user, password=to.password, key_filename=to.key_file, allow_agent=to.agent,
            look_for_keys=False, timeout=to.connect, banner_timeout=to.connect, auth_timeout=to.connect,
            channel_timeout=to.connect, transport_factory=_transport,
        )  # fmt: skip
        self.transport.set_keepalive(to.keepalive)

    @property
    def transport(self) -> paramiko.Transport:
        """The live transport; raises SSHException when it is gone."""
        transport = self._ssh.get_transport()
        if transport is None:
            raise paramiko.SSHException("connection closed")
        return transport

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as is known."""
        transport = self._ssh.get_transport()
        return transport is not None and transport.is_active()

    def channel(self) -> SftpClient:
        """Open a channel whose reads and writes end after the idle time."""
        channel = self.transport.open_session(window_size=_CHANNEL_WINDOW, timeout=self._settings.connect)
        channel.settimeout(self._settings.idle)
        channel.invoke_subsystem("sftp")
        return SftpClient(channel)

    def close(self) -> None:
        """Close the connection."""
        self._ssh.close()


@dataclass(slots=True)
class Lease:
    """A channel for one user; `broken` keeps it from being used again."""

    link: Link
    client: SftpClient
    broken: bool = False


class Pool:
    """At most `connections` links; each lease is a channel of the least busy one."""

    def __init__(self, settings: LinkSettings) -> None:
        """Keep the settings; connects when first used."""
        self.settings = settings
        self._links: list[Link] = []
        self._connecting = 0
        self._changed = threading.Condition()

    @contextmanager
    def session(self, what: str) -> Iterator[SftpClient]:
        """Lease a channel for a block, with all errors turned into WorkErrors."""
        lease = self.lease(what)
        try:
            yield lease.client
        except (paramiko.SSHException, OSError, EOFError) as error:
            lease.broken = getattr(error, "errno", None) is None
            raise sftp_error(error, self.settings.element, what) from error
        except BaseException as error:
            lease.broken = not isinstance(error, WorkError) or error.outage
            raise
        finally:
            self.give_back(lease)

    def lease(self, what: str) -> Lease:
        """Lease a channel; raises WorkError (unavailable, credentials, host key)."""
        link: Link | None = None
        try:
            link = self._reserve_link()
            client = self._take_idle(link) or link.channel()
        except (paramiko.SSHException, OSError, EOFError) as error:
            if link is not None:
                self._release(link)
            raise sftp_error(error, self.settings.element, what) from error
        return Lease(link, client)

    def give_back(self, lease: Lease) -> None:
        """Take a channel back, for others to use or, if it is broken, to be closed."""
        if lease.broken or not lease.link.alive:
            with suppress(OSError, EOFError, paramiko.SSHException):
                lease.client.close()
        else:
            with self._changed:
                lease.link.idle.append(lease.client)
        self._release(lease.link)

    def close(self) -> None:
        """Close all links; those in use end with an error."""
        with self._changed:
            links, self._links = self._links, []
        for link in links:
            link.close()

    def _take_idle(self, link: Link) -> SftpClient | None:
        with self._changed:
            return link.idle.pop() if link.idle else None

    def _release(self, link: Link) -> None:
        with self._changed:
            link.busy -= 1
            if not link.alive and link in self._links:
                self._links.remove(link)
            self._changed.notify()
        if not link.alive:
            link.close()

    def _reserve_link(self) -> Link:
        deadline = time.monotonic() + _BUSY_SECONDS
        with self._changed:
            while True:
                self._links = [link for link in self._links if link.alive]
                best = min(self._links, key=lambda link: link.busy, default=None)
                may_connect = len(self._links) + self._connecting < self.settings.connections
                if best is not None and (best.busy == 0 or (best.busy < _CHANNELS_PER_LINK and not may_connect)):
                    best.busy += 1
                    return best
                if may_connect:
                    self._connecting += 1
                    break
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError("all connections are busy")
        return self._new_link()

    def _new_link(self) -> Link:
        link: Link | None = None
        try:
            link = Link(self.settings)
            link.busy = 1
            return link
        finally:
            with self._changed:
                self._connecting -= 1
                if link is not None:
                    self._links.append(link)
                self._changed.notify_all()
