"""The `sftp` element: a folder behind an SSH server.

Confinement: the server resolves the folder of each path (realpath) and it must lie below the resolved root; the
last part is looked at with lstat and must be a regular file. That is a check before use and not one step, as SFTP
has no O_NOFOLLOW: whoever may make links below the root on the server could win a race.
"""

from __future__ import annotations

import getpass
import os
import posixpath
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import ClassVar, TypeVar

import paramiko
from paramiko.sftp import CMD_HANDLE, CMD_OPEN, SFTP_FLAG_CREATE, SFTP_FLAG_EXCL, SFTP_FLAG_READ
from paramiko.sftp import SFTP_FLAG_WRITE as _WRITE
from paramiko.sftp_attr import SFTPAttributes

from dtscore.errors import (
    ConfigurationError,
    ElementFullError,
    ElementReadOnlyError,
    ElementUnavailableError,
    NameRefusedError,
    PermissionRefusedError,
    UnsupportedError,
    WorkError,
)
from dtscore.names import check_pfn
from storage.element import Digest, FileStat, NameTakenError, Promises, StorageElement, Tick, check_trash, in_trash
from storage.secret_file import check_private, read_secret
from storage.sftp_client import SftpClient
from storage.sftp_link import LinkSettings, sftp_error
from storage.sftp_options import number_option, program_option, word_option
from storage.sftp_pool import Lease, Pool
from storage.sftp_shell import ShellUnfitError
from storage.sftp_stream import SftpReader, SftpWriter

T = TypeVar("T")
_CHECKED_SECONDS = 30.0
_UNFIT_SECONDS = 600.0  # how long a server without a shell is not asked again for one
_CREATE = _WRITE | SFTP_FLAG_CREATE | SFTP_FLAG_EXCL


def _file_stat(attributes: SFTPAttributes) -> FileStat:
    moment = attributes.st_mtime
    modified = None if moment is None else datetime.fromtimestamp(moment, timezone.utc)
    return FileStat(attributes.st_size or 0, modified)


class SftpElement(StorageElement):
    """A folder behind an SSH server."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "host": "the server's name or address",
        "port": "its port (default 22)",
        "user": "whom to log in as (default: the agent's own user)",
        "root": "the folder on the server that all paths are relative to (must exist)",
        "key_file": "file with the private key (mode 0600)",
        "agent": "yes: use the keys of the running ssh-agent (default no)",
        "password_file": "file with the password on its first line (mode 0600)",
        "known_hosts": "file with the host keys that are trusted (default ~/.ssh/known_hosts)",
        "connections": "connections kept at most (default 4)",
        "connect_timeout": "seconds to connect and to log in (default 15)",
        "idle_timeout": "seconds without a byte after which a connection counts as dead (default 30)",
        "transport": "auto (default: the ssh program where there is one and no password is used), ssh or paramiko",
        "digest": "auto (default: files are read again by the server itself where it lets us run a program) or no",
        "trash": "name of the folder below the root that takes removed files (default .trash)",
        "node": "the host that alone can reach this server (default: any host can)",
    }

    smallest_digest = 4 << 20
    """Bytes from which on starting a program on the server is quicker than reading the file back."""

    promises = Promises(
        refuses_overwrite="Publishing uses SFTP's plain rename, which OpenSSH makes with link(2) and so refuses; where "
        "the server's file system has no hard links, it looks first and then renames.",
        atomic_publish="Publishing is one rename on the server; `replace` uses posix-rename@openssh.com.",
        durable="The file and its folder are fsynced where the server offers fsync@openssh.com, else not promised.",
        trash="Removed files are renamed into the trash folder below the root.",
    )

    def __init__(self, settings: LinkSettings, root: str, *, trash: str = ".trash", node: str = "") -> None:
        """Keep the settings; connects when first used."""
        super().__init__(settings.element, "sftp", node)
        self.root = posixpath.normpath(root)
        self.trash = check_trash(trash)
        self._pool = Pool(settings)
        self._checked: dict[str, float] = {}
        self._unfit_until = 0.0

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, str]) -> SftpElement:
        """Make the element from its settings, or raise ConfigurationError."""
        place = f"[se.{name}]"
        for needed in ("host", "root"):
            if not options.get(needed):
                raise ConfigurationError(f"{place} {needed} is not set", f"{needed}: {cls.OPTIONS[needed]}")
        secret = options.get("password_file")
        key = options.get("key_file")
        settings = LinkSettings(
            element=name, host=options["host"], port=number_option(place, options, "port", 22, 65535),
            user=options.get("user") or getpass.getuser(),
            known_hosts=os.path.expanduser(options.get("known_hosts", "~/.ssh/known_hosts")),
            key_file=check_private(os.path.expanduser(key), f"{place} key_file") if key else None,
            agent=options.get("agent", "no").lower() in ("yes", "true", "on", "1"),
            password=read_secret(secret, f"{place} password_file") if secret else None,
            connections=number_option(place, options, "connections", 4, 64),
            connect=number_option(place, options, "connect_timeout", 15, 3600),
            idle=number_option(place, options, "idle_timeout", 30, 3600), program=program_option(place, options),
            digest=word_option(place, options, "digest", ("auto", "no")) == "auto",
        )  # fmt: skip
        return cls(settings, options["root"], trash=options.get("trash", ".trash"), node=options.get("node", ""))

    def _full(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    @contextmanager
    def _session(self, what: str) -> Iterator[SftpClient]:
        with self._pool.session(f"{what} at {self._pool.settings.host}") as client:
            yield client

    def _real(self, client: SftpClient, folder: str) -> str:
        """Return the folder as the server resolves it; raises OSError if it is not there."""
        real = client.normalize(self._full(folder))
        client.stat(real)  # OpenSSH resolves names whose last part does not exist
        return real

    def _check_folder(self, client: SftpClient, path: str, *, make: bool = False) -> None:
        """Prove that the path's folder lies below the root; kept for half a minute."""
        parts = check_pfn(path).split("/")[:-1]
        folder = "/".join(parts)
        if self._checked.get(folder, 0.0) > time.monotonic():
            return
        try:
            root = self._real(client, "")
        except FileNotFoundError as error:
            message = f"element {self.name!r}: its root folder {self.root!r} is not there"
            raise ElementUnavailableError(message, "make the folder on the server", element=self.name) from error
        if make:
            for depth in range(1, len(parts) + 1):
                self._check_inside(root, self._make_folder(client, "/".join(parts[:depth])))
        self._check_inside(root, self._real(client, folder))
        if len(self._checked) > 10_000:
            self._checked.clear()
        self._checked[folder] = time.monotonic() + _CHECKED_SECONDS

    def _make_folder(self, client: SftpClient, folder: str) -> str:
        try:
            return self._real(client, folder)
        except FileNotFoundError:
            pass
        try:
            client.mkdir(self._full(folder))
        except OSError as error:
            try:
                return self._real(client, folder)  # another attempt made it this instant
            except FileNotFoundError:
                raise self._explain(client, error, f"making the folder {folder!r}") from error
        self._sync_folder(client, folder.rpartition("/")[0])
        return self._real(client, folder)

    def _check_inside(self, root: str, real: str) -> None:
        if real != root and not real.startswith(root.rstrip("/") + "/"):
            raise PermissionRefusedError(
                f"element {self.name!r}: {real!r} lies outside of {root!r}", "a symbolic link leads out of the root",
                element=self.name,
            )  # fmt: skip

    def _regular(self, client: SftpClient, path: str) -> SFTPAttributes:
        attributes = client.lstat(self._full(path))
        if not stat.S_ISREG(attributes.st_mode or 0):
            hint = "only regular files are moved; links below an element's root are not followed"
            raise UnsupportedError(f"element {self.name!r}: {path!r} is not a regular file", hint, element=self.name)
        return attributes

    def _explain(self, client: SftpClient, error: Exception, what: str) -> WorkError:
        """Return the WorkError; SFTP calls a full and a read-only disk just 'Failure', so the server is asked."""
        if isinstance(error, OSError) and error.errno is None and not isinstance(error, TimeoutError):
            space = None
            with suppress(paramiko.SSHException, OSError, EOFError):
                space = client.space(self.root)
            message = f"element {self.name!r}: {what}: the server says {str(error)!r}"
            if space is not None and space[1]:
                message += "; its disk is read-only"
                return ElementReadOnlyError(message, "mount it for writing", element=self.name)
            if space is not None and space[0] < 1 << 20:
                return ElementFullError(message + "; its disk is full", "free some space there", element=self.name)
        return sftp_error(error, self.name, what)

    def _explain_stream(self, error: Exception, what: str) -> WorkError:
        # On another channel: on the stream's own, the answers to its other requests would come first.
        if getattr(error, "errno", None) is None and type(error) is OSError:
            with suppress(WorkError), self._session(what) as client:
                return self._explain(client, error, what)
        return sftp_error(error, self.name, what)

    def _open_handle(self, client: SftpClient, path: str, flags: int) -> bytes:
        request = client._request  # type: ignore[attr-defined]
        kind, message = request(CMD_OPEN, self._full(path), flags, SFTPAttributes())
        if kind != CMD_HANDLE:
            raise paramiko.SFTPError("the server gave no handle")
        handle: bytes = message.get_binary()
        return handle

    def _sync_folder(self, client: SftpClient, folder: str) -> None:
        """Make a folder's names durable, where the server opens folders for fsync (OpenSSH does)."""
        if "fsync@openssh.com" not in client.extensions:
            return
        with suppress(PermissionError):
            handle = self._open_handle(client, folder, SFTP_FLAG_READ)
            try:
                client.fsync(handle)
            finally:
                client.send_close(handle)

    def _stream(self, what: str, start: Callable[[Lease], T]) -> T:
        """Lease a channel for a file; it is given back by the file's close, or here if opening fails."""
        lease = self._pool.lease(what)
        try:
            return start(lease)
        except (paramiko.SSHException, OSError, EOFError) as error:
            lease.broken = getattr(error, "errno", None) is None
            failure = self._explain(lease.client, error, what)
            self._pool.give_back(lease)
            raise failure from error
        except BaseException:
            self._pool.give_back(lease)
            raise

    def stat(self, path: str) -> FileStat:
        """Return the size and time of a regular file."""
        with self._session(f"looking at {path!r}") as client:
            self._check_folder(client, path)
            return _file_stat(self._regular(client, path))

    def open(self, path: str) -> SftpReader:
        """Open a regular file for reading; it is asked for some MiB ahead."""
        what = f"reading {path!r}"

        def start(lease: Lease) -> SftpReader:
            self._check_folder(lease.client, path)
            size = self._regular(lease.client, path).st_size or 0
            handle = self._open_handle(lease.client, path, SFTP_FLAG_READ)
            return SftpReader(self._pool, lease, handle, what, self._explain_stream, _file_stat, size)

        return self._stream(what, start)

    def create(self, path: str, size: int | None = None) -> SftpWriter:
        """Make a new file with the exclusive flag, and the folders above it."""
        what = f"writing {path!r}"

        def start(lease: Lease) -> SftpWriter:
            self._check_folder(lease.client, path, make=True)
            try:
                handle = self._open_new(lease.client, path)
            except OSError as error:
                self._checked.clear()
                self._raise_if_taken(lease.client, path, error)
                raise
            return SftpWriter(self._pool, lease, handle, what, self._explain_stream)

        return self._stream(what, start)

    def _open_new(self, client: SftpClient, path: str) -> bytes:
        try:
            return self._open_handle(client, path, _CREATE)
        except FileNotFoundError:  # the folder was there a moment ago: look again, and make it
            self._checked.clear()
            self._check_folder(client, path, make=True)
            return self._open_handle(client, path, _CREATE)

    def _raise_if_taken(self, client: SftpClient, path: str, error: OSError) -> None:
        """Raise NameTakenError if the failure is due to an existing name, which SFTP 3 has no code for."""
        if error.errno is not None:
            return
        try:
            client.lstat(self._full(path))
        except FileNotFoundError:
            return
        message = f"element {self.name!r}: {path!r} exists already"
        raise NameTakenError(message, "another file has this name", element=self.name) from error

    def digests_with(self, size: int) -> str | None:
        """Return the algorithm of the best program on the server; None where we may run none, or it does not pay."""
        if size < self.smallest_digest or not self._pool.settings.digest or time.monotonic() < self._unfit_until:
            return None
        lease = self._pool.lease("asking for a digest program")
        try:
            return lease.link.shell().algorithm
        except ShellUnfitError:
            self._unfit_until = time.monotonic() + _UNFIT_SECONDS
            return None
        finally:
            self._pool.give_back(lease)

    def digest_there(self, path: str, algorithm: str, tick: Tick | None = None) -> Digest | None:
        """Have the server read the file from its disk and digest it; None where it cannot do so now."""
        what = f"digesting {path!r}"
        lease = self._pool.lease(what)
        try:
            with self._pool.guarded(lease, what):
                self._check_folder(lease.client, path)
                size = self._regular(lease.client, path).st_size or 0
                full = self._full(path)
                absolute = full if full.startswith("/") else lease.client.normalize(full)
                shell = lease.link.shell()
                value = shell.digest(absolute, size, self._pool.settings.idle, tick)
        except ShellUnfitError:
            return None
        finally:
            self._pool.give_back(lease)
        return Digest(size, {algorithm: value}) if value and shell.algorithm == algorithm else None

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Rename on the server and fsync the folder."""
        self._rename(temporary, final, f"publishing {final!r}", replace=replace)

    def _rename(self, old: str, new: str, what: str, *, replace: bool = False, make: bool = False) -> None:
        with self._session(what) as client:
            self._check_folder(client, old)
            self._check_folder(client, new, make=make)
            try:
                (client.posix_rename if replace else client.rename)(self._full(old), self._full(new))
            except OSError as error:
                if not replace:
                    self._raise_if_taken(client, new, error)
                raise self._explain(client, error, what) from error
            self._sync_folder(client, new.rpartition("/")[0])

    def remove(self, path: str) -> None:
        """Remove a regular file and fsync its folder."""
        with self._session(f"removing {path!r}") as client:
            self._check_folder(client, path)
            self._regular(client, path)
            try:
                client.remove(self._full(path))
            except OSError as error:
                raise self._explain(client, error, f"removing {path!r}") from error
            self._sync_folder(client, path.rpartition("/")[0])

    def to_trash(self, path: str, label: str) -> str:
        """Rename to `<trash>/<label>/<base name>`."""
        self.stat(path)
        goal = self.trash_path(path, label)
        self._rename(path, goal, f"taking away {path!r}", make=True)
        return goal

    def purge(self, trash_path: str) -> None:
        """Remove a file of the trash and, when it was the last, its label's folder."""
        if not in_trash(self.trash, trash_path):
            raise NameRefusedError(f"{trash_path!r} is not in the trash of {self.name!r}", "purge only trash paths")
        if self.find(trash_path) is not None:
            self.remove(trash_path)
        label = trash_path.rpartition("/")[0]
        with self._session(f"purging {trash_path!r}") as client, suppress(OSError):
            client.rmdir(self._full(label))
        self._checked.pop(label, None)

    def restore(self, trash_path: str, path: str) -> None:
        """Rename back, without replacing anything."""
        self._rename(trash_path, path, f"bringing back {path!r}", make=True)

    def walk(self, folder: str = "") -> Iterator[tuple[str, FileStat]]:
        """Yield the regular files below a folder; what vanishes meanwhile is left out."""
        waiting = [check_pfn(folder) if folder else ""]
        while waiting:
            place = waiting.pop()
            for entry in self._list(place):
                path = f"{place}/{entry.filename}" if place else entry.filename
                if stat.S_ISDIR(entry.st_mode or 0) and path != self.trash:
                    waiting.append(path)
                elif stat.S_ISREG(entry.st_mode or 0):
                    yield path, _file_stat(entry)

    def _list(self, folder: str) -> list[SFTPAttributes]:
        with self._session(f"listing {folder!r}") as client:
            try:
                self._check_folder(client, f"{folder}/_" if folder else "_")
                return client.listdir_attr(self._full(folder))
            except FileNotFoundError:
                return []

    def free(self) -> int | None:
        """Return the bytes free on the server's disk, where it tells."""
        with self._session("asking for free space") as client:
            space = client.space(self.root)
            return None if space is None else space[0]

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._checked.clear()
