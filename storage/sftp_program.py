"""Connections that the OpenSSH program makes: the cryptography runs in another process, past Python's lock.

The first process of a connection is the master of its others (OpenSSH's ControlMaster): they are further channels of
the one connection. Each lives as long as its input: when this process dies, however, they end by themselves. The
control sockets lie in a folder that only this user may enter.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from errno import ECONNREFUSED
from pathlib import Path
from typing import IO

import paramiko

from dtscore.errors import CredentialsError, ElementUnavailableError, HostKeyError, WorkError
from storage.sftp_client import ByteChannel, SftpClient
from storage.sftp_link import UNREACHABLE, Link, LinkSettings

_BUFFER = 1 << 20
_END_SECONDS = 5.0
_ABANDONED_SECONDS = 60.0
_LONGEST_BASE = 50
"""Bytes; a socket's name has room for 107, and ssh makes one of the control path and 17 bytes more."""

_UNTRUSTED = ("Host key verification failed", "IDENTIFICATION HAS CHANGED", "host key is known for", "REVOKED HOST KEY")
_CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes128-ctr"


class ProgramRefusedError(Exception):
    """The program could not log in: the server's key or ours was refused."""

    def __init__(self, error: WorkError) -> None:
        """Keep the error to be raised where nobody knows better."""
        super().__init__(error.message)
        self.error = error
        self.by_host_key = isinstance(error, HostKeyError)


def _bounded(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))


class ProgramChannel:
    """A child process whose input and output are one socket of ours."""

    def __init__(self, command: list[str], seconds: float) -> None:
        """Start the process."""
        self._socket, theirs = socket.socketpair()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            for end in (self._socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            self.settimeout(seconds)
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._errors, start_new_session=True
            )
        except BaseException:
            self._socket.close()
            self._errors.close()
            raise
        finally:
            theirs.close()
        self._closing = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def process(self) -> int:
        """The process's id."""
        number: int = self._process.pid
        return number

    def settimeout(self, seconds: float, /) -> None:
        """Bound every later wait, in the kernel: that leaves the socket blocking, and whole packets are read."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _bounded(seconds))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _bounded(seconds))

    def recv(self, count: int, /) -> bytes:
        """Return what has come; raises TimeoutError."""
        return self._receive(count, 0)

    def _receive(self, count: int, flags: int) -> bytes:
        try:
            return self._socket.recv(count, flags)
        except BlockingIOError as error:
            raise TimeoutError("the server does not answer") from error

    def read(self, count: int, /) -> bytes:
        """Return exactly so many bytes; raises EOFError, or TimeoutError when none comes for too long."""
        data = self._receive(count, socket.MSG_WAITALL)
        while len(data) < count:
            piece = self._receive(count - len(data), socket.MSG_WAITALL)
            if not piece:
                raise EOFError("the server closed the connection")
            data += piece
        return data

    def read_into(self, view: memoryview, /) -> int:
        """Fill the view's beginning with what comes; raises EOFError, TimeoutError."""
        try:
            count = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
        except BlockingIOError as error:
            raise TimeoutError("the server does not answer") from error
        if not count:
            raise EOFError("the server closed the connection")
        return count

    def write(self, head: bytes, body: memoryview, /) -> None:
        """Send both without joining them; raises TimeoutError when no byte leaves for too long."""
        try:
            sent = self._socket.sendmsg((head, body))
            if sent < len(head):
                self._socket.sendall(head[sent:])
                sent = len(head)
            rest = body[sent - len(head) :]
            while rest:
                rest = rest[self._socket.send(rest) :]
        except BlockingIOError as error:
            raise TimeoutError("the server takes no bytes") from error

    def said(self) -> str:
        """Return what the process wrote as errors, its last two thousand bytes."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        with self._closing:
            if self._errors.closed:
                return ""
            size = os.fstat(self._errors.fileno()).st_size
            return os.pread(self._errors.fileno(), 2000, max(0, size - 2000)).decode(errors="replace").strip()

    def close(self) -> None:
        """End the process and wait for its end; never raises."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for bytes
        with self._closing:
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                self._end()
            self._socket.close()
            self._errors.close()

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):  # asked first: a master removes its socket
            self._process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS if number == signal.SIGKILL else 0.5)
                return


def control_folder(element: str) -> Path:
    """Return this user's folder for control sockets, those of killed processes removed; raises WorkError."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _LONGEST_BASE:
        base = "/tmp"  # noqa: S108 - what is made there is checked below
    folder = Path(base) / f"dts-sftp-{os.getuid()}"
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(f"{folder} is not a folder of this user alone (mode 0700)")
        for path in folder.iterdir():
            _remove_abandoned(path)
    except OSError as error:
        message = f"element {element!r}: no place for control sockets: {error}"
        raise ElementUnavailableError(message, "remove what is there, or set TMPDIR", element=element) from error
    return folder


def _remove_abandoned(path: Path) -> None:
    """Remove a control socket that nobody answers at any more; one that is just being made is left alone."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(1.0)
        if time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS and knock.connect_ex(str(path)) == ECONNREFUSED:
            path.unlink()


def _quoted(text: str) -> str:
    if '"' in text or "\n" in text or "${" in text:
        raise OSError(f"the ssh program takes no quotes and no ${{ in a file's name: {text!r}")
    return '"' + text.replace("\\", "\\\\").replace("%", "%%") + '"'


class ProgramLink(Link):
    """A connection of the ssh program; the first channel is the master's own, and its end is the connection's."""

    def __init__(self, settings: LinkSettings, program: str) -> None:
        """Connect and authenticate."""
        super().__init__(settings)
        self._program = program
        self._control = control_folder(settings.element) / uuid.uuid4().hex[:16]
        self._children: list[ProgramChannel] = []
        self._lock = threading.Lock()
        self._closed = False
        self._master = self._start(master=True, words=("-s",), command="sftp")
        try:
            self.idle.append(self._greet(self._master))
        except (paramiko.SSHException, OSError, EOFError) as error:
            failure = self._failure(error)
            self.close()
            raise failure from error
        except BaseException:
            self.close()
            raise

    def _options(self, *, master: bool) -> list[str]:
        to = self._settings
        options = {
            "BatchMode": "yes", "StrictHostKeyChecking": "yes", "UserKnownHostsFile": _quoted(to.known_hosts),
            "GlobalKnownHostsFile": "/dev/null", "UpdateHostKeys": "no", "CheckHostIP": "no",
            "VerifyHostKeyDNS": "no", "PreferredAuthentications": "publickey", "IdentitiesOnly": "no" if to.agent else
            "yes", "IdentityFile": _quoted(to.key_file) if to.key_file else "none", "Compression": "no",
            "ClearAllForwardings": "yes", "ForwardAgent": "no", "ForwardX11": "no", "PermitLocalCommand": "no",
            "KnownHostsCommand": "none", "AddKeysToAgent": "no", "CanonicalizeHostname": "no", "Tunnel": "no",
            "EscapeChar": "none", "ConnectionAttempts": "1", "Ciphers": _CIPHERS,
            "ConnectTimeout": str(int(to.connect)), "ServerAliveCountMax": "2", "LogLevel": "ERROR",
            "ServerAliveInterval": str(max(1, int(min(to.keepalive, to.idle / 2)))), "ControlPersist": "no",
            "ControlMaster": "yes" if master else "no", "ControlPath": _quoted(str(self._control)),
        }  # fmt: skip
        if not to.agent:
            options["IdentityAgent"] = "none"
        if not master:  # without its master, a channel must fail and not connect by itself
            options["ProxyCommand"] = "false"
        return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def _start(self, *, master: bool, words: tuple[str, ...] = (), command: str) -> ProgramChannel:
        to = self._settings
        line = [self._program, "-F", "none", "-T", "-p", str(to.port), "-l", to.user, *self._options(master=master)]
        child = ProgramChannel([*line, *words, "--", to.host, command], to.connect)
        with self._lock:
            self._children = [each for each in self._children if each.alive]
            self._children.append(child)
            closed = self._closed
        if closed:
            child.close()
        return child

    def _greet(self, channel: ProgramChannel) -> SftpClient:
        client = SftpClient(channel)
        channel.settimeout(self._settings.idle)
        return client

    def _failure(self, error: Exception) -> Exception:
        said = "" if isinstance(error, TimeoutError) else self._master.said()
        name, to = self._settings.element, self._settings
        last = " ".join(said.split()) or str(error) or type(error).__name__
        message = f"element {name!r}: connecting to {to.host}: {last[-300:]}"
        if any(sign in said for sign in _UNTRUSTED):
            hint = "compare the key's fingerprint with the host's administrator before anything else"
            return ProgramRefusedError(HostKeyError(message, hint, element=name))
        if "Permission denied" in said or "Too many authentication failures" in said:
            hint = "check user, key and password file, and the server's authorized_keys"
            return ProgramRefusedError(CredentialsError(message, hint, element=name))
        return ElementUnavailableError(message, UNREACHABLE.format(name), element=name)

    @property
    def processes(self) -> tuple[int, ...]:
        """The ids of the child processes that run."""
        with self._lock:
            return tuple(child.process for child in self._children if child.alive)

    @property
    def alive(self) -> bool:
        """Whether the master runs."""
        return not self._closed and self._master.alive

    def channel(self) -> SftpClient:
        """Open a further channel by the master."""
        channel = self._start(master=False, words=("-s",), command="sftp")
        try:
            return self._greet(channel)
        except EOFError as error:
            refused = self.alive and "refused" in channel.said()
            channel.close()
            if refused:
                raise paramiko.ChannelException(1, "the server opens no more channels") from error
            raise
        except BaseException:
            channel.close()
            raise

    def run(self, command: str) -> ByteChannel:
        """Run a command by the master."""
        return self._start(master=False, command=command)

    def close(self) -> None:
        """End all processes, the master last: it removes the control socket."""
        with self._lock:
            self._closed = True
            children, self._children = self._children, []
        for child in reversed(children):
            child.close()
        with suppress(OSError):
            self._control.unlink()
