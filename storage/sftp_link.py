"""A connection to an SSH server: what all are, and the one that paramiko makes, with known host keys only."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EBADF
from socket import gaierror
from typing import Any, NoReturn

import paramiko

from dtscore.errors import CredentialsError, ElementUnavailableError, HostKeyError, WorkError
from storage.mapping import work_error
from storage.sftp_client import ByteChannel, OutOfStepError, SftpClient
from storage.sftp_shell import Shell, ShellUnfitError

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_CHANNEL_WINDOW = 2 << 20
_CLOSED = "Socket is closed"
"""How paramiko says that a channel has gone, in an OSError without a number."""
_PIECE = 64 << 10
UNREACHABLE = "is the host up and reachable from here, and are host and port of [se.{}] right?"
"""The hint to an outage."""

CHANNELS = 8
"""Of one connection at most: with the digests' shells that is OpenSSH's MaxSessions of 10."""

SHELL = "exec /bin/sh -s"
"""What is run on the server to have files digested: whatever the login shell is, this is a plain one."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Where and as whom to connect; times in seconds. `idle` bounds how long a dead link goes unnoticed.

    `program` is the ssh program to connect by, None for paramiko; `digest`: files may be digested on the server.
    """

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
    program: str | None = None
    digest: bool = True


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
    place = f"element {element!r}: {what}"
    if isinstance(error, paramiko.BadHostKeyException):
        shown, known = error.key, error.expected_key
        return HostKeyError(
            f"{place}: {error.hostname} shows the key {shown.get_name()} {shown.fingerprint}, but known_hosts has "
            f"{known.get_name()} {known.fingerprint}",
            "find out why before anything else; if the host was reinstalled, replace its line in known_hosts",
            element=element,
        )
    message = f"{place}: {getattr(error, 'strerror', None) or error or type(error).__name__}"
    if isinstance(error, paramiko.AuthenticationException):
        hint = "check user, key and password file, and the server's authorized_keys"
        return CredentialsError(message, hint, element=element)
    lost = (paramiko.SSHException, paramiko.ssh_exception.NoValidConnectionsError, EOFError, TimeoutError, gaierror)
    closed = str(error) == _CLOSED or getattr(error, "errno", None) == EBADF  # by another of the channel's users
    if closed or isinstance(error, (*lost, ConnectionError, OutOfStepError)):
        return ElementUnavailableError(message, UNREACHABLE.format(element), element=element)
    return work_error(error, element, what)


def _transport(sock: Any, **keywords: Any) -> paramiko.Transport:
    transport = paramiko.Transport(sock, **keywords)
    options = transport.get_security_options()
    # AES-GCM first: one pass for cipher and authentication, which is what bounds paramiko.
    options.ciphers = (*_CIPHERS, *(name for name in options.ciphers if name not in _CIPHERS and "cbc" not in name))
    return transport


class _ParamikoChannel:
    """A channel of paramiko as a stream of bytes."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.settimeout = channel.settimeout
        self.recv = channel.recv

    def read(self, count: int, /) -> bytes:
        packet = bytearray()
        while len(packet) < count:
            piece = self._channel.recv(count - len(packet))
            if not piece:
                raise EOFError("the server closed the channel")
            packet += piece
        return bytes(packet)

    def read_into(self, view: memoryview, /) -> int:
        piece = self._channel.recv(len(view))
        if not piece:
            raise EOFError("the server closed the channel")
        view[: len(piece)] = piece
        return len(piece)

    def write(self, head: bytes, body: memoryview, /) -> None:
        view = memoryview(head + body)
        while view:
            sent = self._channel.send(view[:_PIECE])  # type: ignore[arg-type]
            if sent <= 0:
                raise EOFError("the server closed the channel")
            view = view[sent:]

    def close(self) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()


class Link(ABC):
    """One connection with several channels, and a shell on the server for digests."""

    def __init__(self, settings: LinkSettings) -> None:
        """Keep the settings; a subclass connects."""
        self._settings = settings
        self.busy = 0
        self.most = CHANNELS
        self.idle: list[SftpClient] = []
        self._shell: Shell | None = None
        self._shell_lock = threading.Lock()

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether the connection stands, as far as is known."""

    @abstractmethod
    def channel(self) -> SftpClient:
        """Open a channel whose reads and writes end after the idle time."""

    @abstractmethod
    def run(self, command: str) -> ByteChannel:
        """Run a command on the server; its input and output are the stream."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    def shell(self) -> Shell:
        """Return the shell that digests on this connection; raises ShellUnfitError where the server has none."""
        with self._shell_lock:
            if self._shell is None or self._shell.broken:
                self._shell = self.new_shell()
            return self._shell

    def begin_writing(self, path: str) -> None:
        """Let the server begin to write a file to its disk, if there is a shell that is idle: a hint, no more."""
        shell = self._shell
        if shell is not None:
            shell.begin_writing(path)

    def new_shell(self) -> Shell:
        """Start a shell on this connection; raises ShellUnfitError where the server has none."""
        try:
            return Shell(self.run(SHELL), self._settings.connect)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellUnfitError(str(error) or type(error).__name__) from error


class ParamikoLink(Link):
    """A connection that paramiko makes."""

    def __init__(self, settings: LinkSettings) -> None:
        """Connect and authenticate."""
        super().__init__(settings)
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
        channel = self._session()
        channel.invoke_subsystem("sftp")
        return SftpClient(_ParamikoChannel(channel))

    def run(self, command: str) -> ByteChannel:
        """Run a command on a channel of its own."""
        channel = self._session()
        channel.exec_command(command)
        return _ParamikoChannel(channel)

    def _session(self) -> paramiko.Channel:
        channel = self.transport.open_session(window_size=_CHANNEL_WINDOW, timeout=self._settings.connect)
        channel.settimeout(self._settings.idle)
        return channel

    def close(self) -> None:
        """Close the connection."""
        self._ssh.close()
